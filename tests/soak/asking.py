"""
What the soak asks for: one call as a value, drawn at random.

The tag of a call is its model, too: the record of a call names the model that the client asked
for, so each record says which call it belongs to.
"""

import json
import random
from dataclasses import dataclass
from typing import Literal

from sidestream.demo import behaviour

ROUTED, DIRECT, DEAD_FIRST, MISTRUSTED_FIRST = "soak.test", "alpha.test", "dead-first.test", "mistrusted-first.test"

PROVIDERS = {
    ROUTED: ("alpha", "beta", "gamma"),
    DIRECT: ("alpha",),
    DEAD_FIRST: ("gamma",),
    MISTRUSTED_FIRST: ("gamma",),
}
"""Host → the names of the providers that may answer for it."""

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"

FIRST_BYTE_SECONDS = 2.0
REQUEST_SECONDS = 10.0
"""What the policy's timeouts say."""

FAULTS = (
    "status=429 retry-after=1",
    "status=500",
    "status=503",
    "status=408",
    "status=400",
    "first-byte=0.5",
    "first-byte=3",
    "cut={n}",
    "reset={n}",
    "error-event={n}",
    "close=before",
    "close=reset",
)
STALL = "stall={n}"
"""Apart from the others: without timeouts, each holds a connection until the client gives up."""

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PROMPT = "Schöne Grüße, 你好 🌊. "


@dataclass(frozen=True, slots=True)
class Leave:
    """
    How a client hangs up.

    `when`: in the middle of its body (`after`: the share that is sent), when all is sent (`after`:
    seconds), or within the answer (`after`: bytes of its body).
    """

    when: Literal["body", "sent", "answer"]
    after: float
    how: Literal["end", "reset"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One call. `settings` is its `x-standin` header; `fresh` wants a connection of its own."""

    tag: str
    host: str
    path: str
    body: dict
    settings: str
    fresh: bool = False
    keep: bool = True
    chunked: bool = False
    sdk: bool = False
    leave: Leave | None = None

    @property
    def streams(self):
        return self.body.get("stream") is True

    @property
    def content(self):
        return json.dumps(self.body, ensure_ascii=self.chunked).encode()

    @property
    def behaviour(self):
        return behaviour.parse(self.settings)


def is_faulty(settings):
    """Tell whether a provider that is asked for `settings` may fail."""
    asked = behaviour.parse(settings)
    is_late = asked.first_byte_seconds >= FIRST_BYTE_SECONDS
    return asked.status != behaviour.HTTP_OK or bool(asked.ending or asked.close) or is_late


def draw(rng: random.Random, tag: str) -> Ask:
    """Draw a call."""
    host = rng.choices((ROUTED, DIRECT, DEAD_FIRST, MISTRUSTED_FIRST), (80, 16, 2, 2))[0]
    path = rng.choices((CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS), (85, 6, 6, 3))[0]
    sdk = path == CHAT and rng.random() < 0.06
    body = _body(rng, tag, path)
    leave = None if sdk or rng.random() > 0.12 else _leave(rng)
    return Ask(
        tag,
        host,
        path,
        body,
        _settings(rng),
        fresh=rng.random() < 0.3,
        keep=rng.random() < 0.9,
        chunked=rng.random() < 0.15,
        sdk=sdk,
        leave=leave,
    )


def healthy(tag: str, host: str = ROUTED) -> Ask:
    """Ask for a stream that nothing is wrong with."""
    body = {"model": tag, "messages": [{"role": "user", "content": tag}], "stream": True}
    return Ask(tag, host, CHAT, body, "events=5", fresh=True)


def _body(rng, tag, path):
    size = int(10 ** rng.uniform(1, 4)) if rng.random() < 0.98 else rng.randint(100_000, 1_000_000)
    text = f"{tag} {PROMPT * (size // len(PROMPT))}"
    if path == EMBEDDINGS:
        return {"model": tag, "input": text}
    body = {"model": tag, "stream": rng.random() < 0.65}
    if path == RESPONSES:
        return body | {"input": text}
    if body["stream"] and rng.random() < 0.4:
        body["stream_options"] = {"include_usage": True}
    if path == COMPLETIONS:
        return body | {"prompt": text}
    tools = {"tools": [TOOL]} if rng.random() < 0.1 else {}
    return body | tools | {"messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": text}]}


def _settings(rng):
    events = rng.choice((1, 3, 5, 10, 40))
    length = int(10 ** rng.uniform(1, 3.5)) if rng.random() < 0.97 else rng.randint(50_000, 300_000)
    words = [f"events={events}", f"length={length}"]
    words += [word for word in ("comments=1", "crlf=1", "split=1") if rng.random() < 0.1]
    words += ["gzip=1"] if rng.random() < 0.06 else []
    words += [f"gap={rng.uniform(0.001, 0.03):.3f}"] if rng.random() < 0.3 else []
    words += [f"usage={rng.choice(('always', 'never', 'with-last'))}"] if rng.random() < 0.2 else []
    chance = rng.random()
    if chance < 0.2:
        words.append(rng.choice(FAULTS).format(n=rng.randint(0, events)))
    elif chance < 0.205:
        words.append(STALL.format(n=rng.randint(0, events)))
    words += [f"connection={rng.choice(('close', 'drop'))}"] if rng.random() < 0.06 else []
    return " ".join(words)


def _leave(rng):
    when = rng.choices(("body", "sent", "answer"), (20, 40, 40))[0]
    after = {"body": rng.random(), "sent": rng.choice((0.0, rng.uniform(0, 0.1))), "answer": 10 ** rng.uniform(0, 3.5)}
    return Leave(when, after[when], rng.choice(("end", "reset")))

"""
The published scenarios, played for a person: what the app sent, what the provider got, the record.

Everything shown was read from the wire or from the log of this very run.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping

from sidestream.demo.received import Received
from sidestream.demo.stage import Stage

BODY = '{"messages": [{"role": "user", "content": "Who are you?"}]}'
SPLIT_CALLS = 40
RECORD_SECONDS = 10.0

_SHOWN_FIELDS = ("route", "rule", "provider", "sent_model", "status", "prompt_tokens", "completion_tokens")


def play(stage: Stage) -> bool:
    """Play all scenarios and print them. Return whether each went as published."""
    default = _scene(
        stage,
        "1. An app calls a provider: no key, no model, no path, no TLS. The operator's model answers.",
        "dashscope.aliyuncs.com",
        {},
    )
    subscriber = _scene(
        stage,
        "2. The same call of a subscriber. A rule gives it another model.",
        "dashscope.aliyuncs.com",
        {"user-type": "subscriber"},
    )
    went_well = default == "qwen1.5-72b-chat" and subscriber == "qwen-turbo"
    return _split(stage) and went_well


def _scene(stage: Stage, title: str, host: str, headers: Mapping[str, str]) -> str | None:
    """Play one call, and return the model that the provider was asked for."""
    before = {provider: len(requests) for provider, requests in stage.received().items()}
    records = len(_records(stage))
    answer = stage.call(host, headers, BODY.encode())
    flags = "".join(f" -H '{name}: {value}'" for name, value in headers.items())
    print(f"\n{title}\n  app sent      curl http://{host}{flags} -d '{BODY}'")
    got = [
        (provider, request)
        for provider, requests in stage.received().items()
        for request in requests[before[provider] :]
    ]
    for provider, request in got:
        print(f"  provider got  POST https://{provider}{request.path}")
        print(f"                authorization: {_key_name(stage, request)}")
        print(f"                {request.body.decode()}")
    print(f"  app got       {_content(answer)}")
    _, last = got[-1] if got else ("", None)
    _print_record(stage, records + 1)
    return last.json.get("model") if last else None


def _split(stage: Stage) -> bool:
    """Play many calls to a host of two providers. Return whether both got some, each in its own way."""
    host = "demo-llm-server"
    before = {provider: len(requests) for provider, requests in stage.received().items()}
    records = len(_records(stage))
    for _ in range(SPLIT_CALLS):
        stage.call(host, {}, BODY.encode())
    print(f"\n3. {SPLIT_CALLS} calls to a name that only a route knows. Two providers share them, 50 to 50.")
    print(f"  app sent      curl http://{host} -d '…'   ({SPLIT_CALLS} times)")
    shares = Counter[str]()
    for provider, requests in stage.received().items():
        new = requests[before[provider] :]
        shares[provider] = len(new)
        if new:
            ways = {f"{request.path}, {request.json.get('model')}, {_key_name(stage, request)}" for request in new}
            print(f"  provider got  {len(new)} times https://{provider}{' and '.join(sorted(ways))}")
    _print_record(stage, records + SPLIT_CALLS)
    return sum(shares.values()) == SPLIT_CALLS and min(shares.values()) > 0


def _records(stage: Stage) -> list[str]:
    return stage.records.read_text().splitlines() if stage.records.exists() else []


def _print_record(stage: Stage, number: int) -> None:
    """Print the record `number`, counted from 1. Records are written soon after the answer, not before it."""
    deadline = time.monotonic() + RECORD_SECONDS
    while len(_records(stage)) < number and time.monotonic() < deadline:
        time.sleep(0.01)
    record = json.loads(_records(stage)[number - 1])
    shown = {name: record[name] for name in _SHOWN_FIELDS}
    print(f"  record        {json.dumps(shown)}")


def _key_name(stage: Stage, request: Received) -> str:
    value = request.header("authorization") or "none"
    for name, key in stage.keys.items():
        value = value.replace(key, f"<the key in ${name}>")
    return value


def _content(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        return answer.decode(errors="replace")

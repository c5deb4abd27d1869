"""
Prompts and answers as OpenTelemetry writes them, where somebody asked for them.

A chat becomes messages of parts, the newest first to be kept when there is too much; what is no chat stays as it is,
and is cut. Of images, sound and files only the kind is told. Every text goes through a redactor before it is cut:
what is cut first may be no secret's shape any more.

Source: OpenTelemetry semantic conventions, GenAI, schemas of `gen_ai.input.messages` and `gen_ai.output.messages`.
"""

import json
from collections.abc import Callable, Iterator, Mapping

from sidestream.core.exchange import Content
from sidestream.core.joining import join
from sidestream.telemetry.otel import conventions as names

MAX_CHARACTERS = 16_384
"""How much of a prompt, and of an answer, a span has: thousands may wait, and hundreds go together."""
PART_CHARACTERS = 64
"""What a part counts for besides its texts."""

type Redact = Callable[[str], str]
type Json = Mapping[str, object]


def content_of(content: Content, redact: Redact) -> tuple[tuple[str, str], ...]:
    """Return attributes for `content`: a prompt and an answer."""
    asked, answered = _object(content.request), _object(content.response) or join(content.response)
    prompt, choices = list(_objects(asked.get("messages"))), list(_objects(answered.get("choices")))
    if prompt:
        told = names.INPUT_MESSAGES, _Writer(redact).prompt(prompt)
    else:
        told = names.REQUEST_BODY, _cut(content.request, redact)
    if choices:
        return told, (names.OUTPUT_MESSAGES, _Writer(redact).answer(choices))
    return told, (names.RESPONSE_BODY, _cut(content.response, redact))


class _Writer:
    """Writes messages, as many as there is room for."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._left = MAX_CHARACTERS

    def prompt(self, messages: list[Json]) -> str:
        written = []
        for message in reversed(messages):
            if self._left <= 0:
                break
            written.append(self._message(message))
        return json.dumps(written[::-1], ensure_ascii=False)

    def answer(self, choices: list[Json]) -> str:
        written = []
        for choice in choices:
            message = choice.get("message")
            if isinstance(message, Mapping) and self._left > 0:
                reason = self._text(choice.get("finish_reason"))
                written.append(self._message(message) | {"finish_reason": reason})
        return json.dumps(written, ensure_ascii=False)

    def _message(self, message: Json) -> dict[str, object]:
        role = self._text(message.get("role"))
        parts = []
        for part in self._parts(message):
            parts.append(part)
            self._left -= PART_CHARACTERS
            if self._left <= 0:
                break
        return {"role": role, "parts": parts}

    def _parts(self, message: Json) -> Iterator[dict[str, object]]:
        if thought := message.get("reasoning_content"):
            yield {"type": "reasoning", "content": self._text(thought)}
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                if isinstance(part, Mapping):
                    yield {"type": self._text(part.get("type"))}
            elif message.get("role") == "tool":
                yield {
                    "type": "tool_call_response",
                    "id": self._text(message.get("tool_call_id")),
                    "response": self._text(text),
                }
            else:
                yield {"type": "text", "content": self._text(text)}
        for call in _objects(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, Mapping):
                yield {
                    "type": "tool_call",
                    "id": self._text(call.get("id")),
                    "name": self._text(function.get("name")),
                    "arguments": self._text(function.get("arguments")),
                }

    def _text(self, value: object) -> str:
        text = self._redact(value if isinstance(value, str) else "")[: max(0, self._left)]
        self._left -= len(text)
        return text


def _cut(body: bytes, redact: Redact) -> str:
    return redact(body.decode(errors="replace"))[:MAX_CHARACTERS]


def _object(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> Iterator[Json]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())

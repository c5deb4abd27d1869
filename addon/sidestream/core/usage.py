"""
What an answer says about itself: its model, its id, how it ended and how many tokens it took.

`Meter` reads an answer's bytes as they pass and changes nothing. It understands a JSON
answer and a stream of events, of chat, completions, embeddings (`prompt_tokens`) and of the
Responses API (`input_tokens`). What the provider does not say stays ``None``: never 0.

Source: OpenAI API reference, "Chat completion object", "Chat completion chunk", "Responses",
"Streaming events". Moonshot's streams have `usage` within a choice, and its usage `cached_tokens`;
DeepSeek calls these `prompt_cache_hit_tokens`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidestream.core.sse import Block, Decoder

MAX_JSON_BYTES = 8 * 1024 * 1024
"""How much of a JSON answer is kept to be read at its end, in bytes. A longer one is not metered."""

MAX_COUNT = 2**53
"""More tokens than this are nonsense, and no figure that others can reckon with."""

ENDS = ("response.completed", "response.incomplete", "response.failed")
"""Types of the event that ends an answer of the Responses API."""
_FAILS = ("error", "response.failed")
_TELLING = re.compile(rb'"(?:usage"\s*:\s*\{|error"|finish_reason"\s*:\s*"|response\.(?:completed|incomplete|failed)")')
"""What an event holds that is worth reading once the model is known. Most hold none of it."""
_PIECE = re.compile(rb'"(?:content|reasoning_content|refusal|arguments|text|delta)"\s*:\s*"[^"]')
"""What an event holds that carries a piece of the answer."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; ``None`` where it said nothing."""

    prompt_tokens: int | None = None
    """All of the prompt, with those that came from a cache."""
    completion_tokens: int | None = None
    """All of the answer, with those of its reasoning."""
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Meter:
    """
    Reads one answer. Feed it every chunk, then read what it says.

    `complete`: whether a stream said that it ended (`[DONE]`, or `response.completed`);
    ``None`` for an answer that is no stream, whose framing says so, and where an event was
    too large to read on. `finish_reason`: of the choice that ended last. `pieces`: events of a
    stream that carried a piece of the answer.
    """

    __slots__ = (
        "_decoder",
        "_json",
        "complete",
        "error_seen",
        "finish_reason",
        "pieces",
        "response_id",
        "response_model",
        "usage",
    )

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        readable = content_encoding.lower() in ("", "identity")
        is_stream = media_type == "text/event-stream"
        is_json = media_type == "application/json" or media_type.endswith("+json")
        self._decoder = Decoder() if readable and is_stream else None
        self._json: bytearray | None = bytearray() if readable and is_json else None
        self.response_model: str | None = None
        self.response_id: str | None = None
        self.finish_reason: str | None = None
        self.pieces = 0
        self.usage = Usage()
        self.complete: bool | None = False if self._decoder is not None else None
        self.error_seen = False

    @property
    def rest(self) -> bytes:
        """The bytes of a stream that belong to no block yet."""
        return self._decoder.rest if self._decoder is not None else b""

    def feed(self, chunk: bytes) -> list[Block]:
        """Take the next bytes of the answer; return the blocks that they complete, if it is a stream of events."""
        if self._decoder is not None:
            blocks = self._decoder.split(chunk)
            for block in blocks:
                if block.event is not None:
                    self._read_event(block.event.data)
            if self._decoder.overflowed and not self.complete:
                self.complete = None
            return blocks
        if self._json is not None:
            self._json += chunk
            if len(self._json) > MAX_JSON_BYTES:
                self._json = None
        return []

    def finish(self) -> None:
        """Read what could only be read at the end. Calling it again changes nothing."""
        if self._json is not None:
            self._read_object(bytes(self._json))
            self._json = None

    def _read_event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.complete = True
            return
        if _PIECE.search(data):
            self.pieces += 1
        if self.response_model is None or _TELLING.search(data):
            self._read_object(data)

    def _read_object(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(answer, dict):
            return
        kind = answer.get("type")
        if self._decoder is not None and kind in ENDS:
            self.complete = True
        if is_error(answer):
            self.error_seen = True
        inner = answer.get("response")
        self._read_fields(inner if isinstance(inner, dict) else answer)

    def _read_fields(self, answer: Mapping[str, object]) -> None:
        choices = [choice for choice in _list(answer.get("choices")) if isinstance(choice, dict)]
        self.response_model = _text(answer.get("model")) or self.response_model
        self.response_id = self.response_id or _text(answer.get("id"))
        reasons = [_text(choice.get("finish_reason")) for choice in choices]
        self.finish_reason = next(filter(None, reversed(reasons)), self.finish_reason)
        usage = answer.get("usage") or next((choice["usage"] for choice in choices if choice.get("usage")), None)
        if isinstance(usage, dict) and (counted := _usage(usage)) != Usage():
            self.usage = counted


def is_error(answer: Mapping[str, object]) -> bool:
    """Tell whether an answer, or an event of one, is an error."""
    return bool(answer.get("error")) or answer.get("type") in _FAILS


def _usage(usage: Mapping[str, object]) -> Usage:
    of_prompt = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    of_answer = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    cached = _count(of_prompt, "cached_tokens") if isinstance(of_prompt, dict) else None
    if cached is None:
        cached = _count(usage, "prompt_cache_hit_tokens", "cached_tokens")
    return Usage(
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
        cached,
        _count(of_answer, "reasoning_tokens") if isinstance(of_answer, dict) else None,
    )


def _count(usage: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        count = usage.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_COUNT:
            return count
    return None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None

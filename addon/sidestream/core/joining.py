"""
A streamed answer, put together again: the object that the same answer is when it is no stream.

Any beginning of a stream gives what was said until then.

Source: OpenAI API reference, "Chat completion chunk", "Completions", "Streaming events" (responses).
"""

import json
from collections.abc import Mapping
from typing import Any

from sidestream.core.sse import Decoder
from sidestream.core.usage import ENDS

MAX_INDEX = 1000
"""Choices, tool calls and items of an answer beyond this are taken for nonsense."""

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a message that come in pieces."""

type Json = dict[str, Any]


def join(stream: bytes) -> Json:
    """Return the answer whose bytes, or the first of them, are `stream`."""
    answer: Json = {}
    for event in Decoder().feed(stream):
        try:
            chunk = json.loads(event.data)
        except (ValueError, RecursionError):
            continue  # `[DONE]`
        if isinstance(chunk, dict):
            answer = _responses(answer, chunk) if isinstance(chunk.get("type"), str) else _chunk(answer, chunk)
    return answer


def _chunk(answer: Json, chunk: Json) -> Json:
    """Add a chunk of a chat, or of a completion."""
    if chunk.get("error"):
        answer["error"] = chunk["error"]
    for piece in _dicts(chunk.get("choices")):
        choice = _at(answer.setdefault("choices", []), piece.get("index", 0))
        if choice is None:
            continue
        if isinstance(piece.get("text"), str):
            _append(choice, "text", piece["text"])
        if piece.get("finish_reason"):
            choice["finish_reason"] = piece["finish_reason"]
        delta = piece.get("delta")
        if isinstance(delta, dict):
            _add_delta(choice.setdefault("message", {"role": "assistant"}), delta)
    return answer


def _add_delta(message: Json, delta: Mapping[str, Any]) -> None:
    if isinstance(delta.get("role"), str) and delta["role"]:
        message["role"] = delta["role"]
    for name in _TEXTS:
        if isinstance(delta.get(name), str):
            _append(message, name, delta[name])
    for piece in _dicts(delta.get("tool_calls")):
        call = _at(message.setdefault("tool_calls", []), piece.get("index", 0))
        if call is not None:
            _add_call(call, piece)
    if isinstance(delta.get("function_call"), dict):
        _add_function(message.setdefault("function_call", {}), delta["function_call"])


def _add_call(call: Json, piece: Mapping[str, Any]) -> None:
    if piece.get("id"):
        call["id"] = piece["id"]
    if isinstance(piece.get("function"), dict):
        _add_function(call.setdefault("function", {}), piece["function"])


def _add_function(function: Json, piece: Mapping[str, Any]) -> None:
    for name in ("name", "arguments"):
        if isinstance(piece.get(name), str):
            _append(function, name, piece[name])


def _responses(answer: Json, event: Json) -> Json:
    """Add an event of the Responses API. Its last holds all of the answer."""
    kind, response = event["type"], event.get("response")
    if kind in ENDS and isinstance(response, dict) and response.get("output"):
        return response
    if kind == "error":
        answer["error"] = event.get("error") or event
    elif isinstance(response, dict) and response.get("error"):
        answer["error"] = response["error"]
    item = _at(answer.setdefault("output", []), event.get("output_index"))
    if item is not None:
        _add_to_item(item, event)
    return answer


def _add_to_item(item: Json, event: Json) -> None:
    kind, given, delta = event["type"], event.get("item"), event.get("delta")
    if isinstance(given, dict):
        if kind == "response.output_item.done" or not item:
            item.clear()
            item.update(given)
    elif not isinstance(delta, str):
        return
    elif kind in ("response.output_text.delta", "response.refusal.delta"):
        item.setdefault("role", "assistant")
        part = _at(item.setdefault("content", []), event.get("content_index", 0))
        if part is not None:
            _append(part, "text", delta)
    elif kind == "response.function_call_arguments.delta":
        item.setdefault("type", "function_call")
        _append(item, "arguments", delta)


def _append(fields: Json, name: str, text: str) -> None:
    before = fields.get(name)
    fields[name] = before + text if isinstance(before, str) else text


def _at(items: Any, index: Any) -> Json | None:
    """Return the object at `index` of a list that grows as needed; ``None``: there can be none."""
    if not (isinstance(items, list) and isinstance(index, int) and 0 <= index < MAX_INDEX):
        return None
    items.extend({} for _ in range(index + 1 - len(items)))
    item = items[index]
    return item if isinstance(item, dict) else None


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

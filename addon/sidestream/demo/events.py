"""
Streamed answers as values: the server-sent events of chat, completions and responses.

Pure, like `answers`. An event here is its bytes, complete with the blank line that ends it.

Source: OpenAI API reference, "Streaming"; WHATWG HTML Living Standard, 9.2.
"""

import itertools
import json
from dataclasses import dataclass

from sidestream.demo.turn import Json, Turn, fill


@dataclass(frozen=True, slots=True)
class Streamed:
    """
    An answer that is a stream of events.

    `opening` comes before the content (the role, a tool call's name), `content` are the events
    that settings count, `closing` ends the stream as agreed.
    """

    opening: tuple[bytes, ...]
    content: tuple[bytes, ...]
    closing: tuple[bytes, ...]


def chat_stream(turn: Turn) -> Streamed:
    """Answer a chat request event by event: role, content or tool call, finish, usage, `[DONE]`."""
    opening: list[Json] = [{"role": "assistant", "content": "", "refusal": None}]
    content: list[Json] = [{"content": piece} for piece in _text_pieces(turn)]
    if turn.tool:
        function = {"name": turn.tool, "arguments": ""}
        call: Json = {"index": 0, "id": turn.tool_call_id, "type": "function", "function": function}
        opening = [{"role": "assistant", "content": None}, {"tool_calls": [call]}]
        content = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in _argument_pieces(turn)]

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return turn.head("chatcmpl", "chat.completion.chunk") | {"choices": [choice]}

    return _stream(
        turn,
        [chunk(delta) for delta in opening],
        [chunk(delta) for delta in content],
        chunk({}, turn.finish_reason),
    )


def completion_stream(turn: Turn) -> Streamed:
    """Answer a request to the older completions API event by event."""

    def chunk(text: str, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return turn.head("cmpl", "text_completion") | {"choices": [choice]}

    return _stream(turn, [], [chunk(piece) for piece in _text_pieces(turn)], chunk("", "stop"))


def response_stream(turn: Turn) -> Streamed:
    """Answer a request to the Responses API: events with names and numbers, and no `[DONE]`."""
    response = turn.response()
    [item] = response["output"]
    [part] = item["content"]
    item_at: Json = {"output_index": 0}
    part_at: Json = item_at | {"item_id": item["id"], "content_index": 0}
    pieces = _text_pieces(turn)
    # More events than characters lengthen the text.
    part["text"] = "".join(pieces)
    begun = item | {"status": "in_progress", "content": []}
    opening: list[Json] = [
        {"type": "response.created", "response": turn.response("in_progress")},
        {"type": "response.in_progress", "response": turn.response("in_progress")},
        {"type": "response.output_item.added", "item": begun, **item_at},
        {"type": "response.content_part.added", "part": part | {"text": ""}, **part_at},
    ]
    content: list[Json] = [
        {"type": "response.output_text.delta", "delta": piece, "logprobs": [], **part_at} for piece in pieces
    ]
    closing: list[Json] = [
        {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **part_at},
        {"type": "response.content_part.done", "part": part, **part_at},
        {"type": "response.output_item.done", "item": item, **item_at},
        {"type": "response.completed", "response": response},
    ]
    if turn.behaviour.ending == "error-event":
        content = content[: turn.behaviour.ending_after]
        closing = [{"type": "error", "code": "server_error", "message": _ERROR, "param": None}]
    numbers = itertools.count()

    def events(payloads: list[Json]) -> tuple[bytes, ...]:
        return tuple(_event(turn, p | {"sequence_number": next(numbers)}, name=p["type"]) for p in payloads)

    return Streamed(events(opening), events(content), events(closing))


_ERROR = "The server had an error while processing your request."


def _stream(turn: Turn, opening: list[Json], content: list[Json], finish: Json) -> Streamed:
    """Put chunks into events and end them as the behaviour says: usage, error or `[DONE]`."""
    behaviour = turn.behaviour
    options = turn.body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    separate = behaviour.usage == "always" or (behaviour.usage == "asked" and asked)
    # With a usage event to come, OpenAI says `usage: null` in every event before it.
    usual: Json = {"usage": None} if separate else {}
    closing = [_event(turn, finish | usual)]
    if separate:
        closing.append(_event(turn, finish | {"choices": [], "usage": turn.usage()}))
    if behaviour.usage == "with-last":
        closing = [_event(turn, finish | {"usage": turn.usage()})]
    closing.append(_event(turn, "[DONE]"))
    if behaviour.ending == "error-event":
        error = {"message": _ERROR, "type": "server_error", "param": None, "code": None}
        content = content[: behaviour.ending_after]
        closing = [_event(turn, {"error": error})]
    return Streamed(
        tuple(_event(turn, chunk | usual) for chunk in opening),
        tuple(_event(turn, chunk | usual) for chunk in content),
        tuple(closing),
    )


def _event(turn: Turn, payload: Json | str, *, name: str | None = None) -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    lines = [f"event: {name}"] if name else []
    lines += [f"data: {text}", "", ""]
    return ("\r\n" if turn.behaviour.crlf else "\n").join(lines).encode("utf-8", "replace")


def _text_pieces(turn: Turn) -> list[str]:
    return _cut(fill(turn.text, turn.behaviour.events), turn.behaviour.events)


def _argument_pieces(turn: Turn) -> list[str]:
    """Cut the arguments; more events than characters are filled up with spaces, still JSON."""
    return _cut(turn.arguments.ljust(turn.behaviour.events), turn.behaviour.events)


def _cut(text: str, count: int) -> list[str]:
    """Cut `text` into `count` pieces of about the same length, none of them empty."""
    bounds = [len(text) * i // count for i in range(count + 1)] if count else [0]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]

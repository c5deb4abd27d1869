"""
Calls of a model, read as a conversation.

A request's body and an answer's become turns: who says what, which tools are called. Images, sound and
files stand there by name and size. What is of no shape that is known here gives no turn; nothing raises.

Source: OpenAI API reference (chat completions, completions, responses, embeddings).
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidestream.core.errors import cut

type Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Turn:
    """
    One turn. `label`: what tells it from others of its role, like the call that a tool's result is for.

    `blocks`: what is said, in order; a block may have several lines.
    """

    role: str
    blocks: tuple[str, ...]
    label: str = ""


def request_turns(body: Json) -> list[Turn]:
    """Return what a request says: the conversation so far."""
    turns = [_offer(body.get("tools") or body.get("functions"))]
    if isinstance(instructions := body.get("instructions"), str):
        turns.append(_turn("system", [instructions]))
    turns += [_message_turn(message) for message in _objects(body.get("messages"))]
    turns += _input_turns(body.get("input"))
    if prompt := body.get("prompt"):
        turns.append(_turn("user", _texts(prompt)))
    return [turn for turn in turns if turn is not None]


def answer_turns(answer: Json) -> list[Turn]:
    """Return what an answer says, as one is that is no stream."""
    choices = list(_objects(answer.get("choices")))
    turns = [_choice_turn(choice, number if len(choices) > 1 else None) for number, choice in enumerate(choices, 1)]
    turns += [_item_turn(item) for item in _objects(answer.get("output"))]
    if embeddings := [entry for entry in _objects(answer.get("data")) if "embedding" in entry]:
        turns.append(_turn("answer", [f"[{len(embeddings)} embedding{'s' if len(embeddings) > 1 else ''}]"]))
    error = answer.get("error")
    if isinstance(error, Mapping):
        turns.append(
            _turn("error", [f"{_word(error.get('code') or error.get('type'))}: {_word(error.get('message'))}"])
        )
    elif isinstance(error, str):
        turns.append(_turn("error", [error]))
    return [turn for turn in turns if turn is not None]


def _choice_turn(choice: Json, number: int | None) -> Turn | None:
    message = choice.get("message")
    if not isinstance(message, Mapping):
        message = {"role": "assistant", "content": choice.get("text")}
    turn = _message_turn(message)
    marks = [f"choice {number}"] if number is not None else []
    if (reason := choice.get("finish_reason")) not in (None, "stop", "tool_calls"):
        marks.append(f"ended by {_word(reason)}")
    return Turn(turn.role, turn.blocks, ", ".join([*filter(None, [turn.label]), *marks])) if turn else None


def _message_turn(message: Json) -> Turn | None:
    thought = message.get("reasoning_content") or message.get("reasoning")
    blocks = [f"(thinks) {thought}"] if isinstance(thought, str) and thought else []
    blocks += _texts(message.get("content"))
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        blocks.append(f"(refuses) {refusal}")
    for call in _objects(message.get("tool_calls")):
        function = call.get("function") or call.get("custom")
        if isinstance(function, Mapping):
            blocks.append(_call(function, function.get("arguments", function.get("input")), call.get("id")))
    if isinstance(function := message.get("function_call"), Mapping):
        blocks.append(_call(function, function.get("arguments"), None))
    label = message.get("tool_call_id") or message.get("name")
    return _turn(_word(message.get("role")), blocks, label)


def _input_turns(given: object) -> list[Turn | None]:
    """Return the turns of what the Responses API is given, and of the texts that embeddings are made of."""
    if not isinstance(given, list) or not any(isinstance(item, Mapping) for item in given):
        return [_turn("user", _texts(given))] if given else []
    return [_item_turn(item) for item in _objects(given)]


def _item_turn(item: Json) -> Turn | None:
    """Return the turn of an item of the Responses API, which what it is given and what it answers are made of."""
    match item.get("type", "message"):
        case "message":
            return _message_turn(item)
        case "function_call" | "custom_tool_call":
            arguments = item.get("arguments", item.get("input"))
            return _turn("assistant", [_call(item, arguments, item.get("call_id"))])
        case "function_call_output" | "custom_tool_call_output":
            return _turn("tool", _texts(item.get("output")), item.get("call_id"))
        case "reasoning":
            return _turn("assistant", [f"(thinks) {text}" for text in _texts(item.get("summary"))])
        case other:
            return _turn("assistant", [f"[{_word(other)}]"])


def _offer(tools: object) -> Turn | None:
    names = []
    for tool in _objects(tools):
        function = tool.get("function")
        named = function if isinstance(function, Mapping) else tool
        names.append(_word(named.get("name") or named.get("type")))
    return _turn("tools", [", ".join(names)]) if names else None


def _call(function: Json, arguments: object, identifier: object) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    with contextlib.suppress(ValueError, RecursionError):  # a stream may still be in the middle of it
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    mark = f"  ({_word(identifier)})" if identifier else ""
    return f"→ {_word(function.get('name'))}{mark}\n{text}"


def _texts(content: object) -> list[str]:
    """Return the texts in `content`: itself, or its parts."""
    match content:
        case str():
            return [content] if content else []
        case list() if content and all(isinstance(item, int) for item in content):
            return [f"[{len(content)} tokens]"]
        case list():
            return [text for part in content for text in _texts(part)]
        case Mapping():
            return _part(content)
        case _:
            return []


def _part(part: Json) -> list[str]:
    kind = _word(part.get("type"))
    if isinstance(text := part.get("text") or part.get("refusal"), str):
        return [text]
    for name, what in (("image", "image"), ("audio", "sound"), ("video", "video"), ("file", "file")):
        if name in kind:
            return [_placeholder(what, part)]
    return [f"[{kind}]"]


def _placeholder(what: str, part: Json) -> str:
    held = part.get(_word(part.get("type")), part)
    fields = held if isinstance(held, Mapping) else {"url": held}
    place = fields.get("url") or fields.get("image_url") or fields.get("file_data") or fields.get("data")
    name = fields.get("filename") or fields.get("file_id") or fields.get("format")
    known = [_word(name)] if name else []
    if isinstance(place, str) and place.startswith(("http://", "https://")):
        known.append(cut(place))
    elif isinstance(place, str):
        head, comma, content = place.partition(",")
        known += [head.removeprefix("data:").partition(";")[0]] if comma else []
        known.append(f"{len(content or head) * 3 // 4:,} bytes")
    return f"[{what}: {', '.join(known)}]" if known else f"[{what}]"


def _turn(role: str, blocks: Iterable[str], label: object = None) -> Turn | None:
    """Return a turn, unless nothing is said in it."""
    said = tuple(blocks)
    return Turn(cut(role), said, _word(label) if label else "") if said else None


def _objects(value: object) -> Iterable[Json]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()


def _word(value: object) -> str:
    return cut(value) if isinstance(value, str) else "?" if value is None else cut(str(value))

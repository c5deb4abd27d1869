"""
The facts that an answer is built from, whole or streamed: model, text, tool call, tokens.

Both forms of one answer say the same, because both take it from here.
"""

import itertools
import json
from dataclasses import dataclass
from typing import Any

from sidestream.demo.behaviour import Behaviour

CHARACTERS_PER_TOKEN = 4
"""The stand-in's tokenizer: this many characters, or a rest of them, are a token."""

FILLER = " 你好 世界 🌊 and so on"
"""What makes a text as long as it has to be. Not ASCII, so that a wrong decoding shows."""

type Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request that will be answered in full. `body` is a JSON object with a `model`."""

    name: str
    number: int
    created: int
    body: Json
    tag: str | None
    behaviour: Behaviour

    @property
    def model(self) -> str:
        """The model asked for, which is also the one that answers."""
        return str(self.body["model"])

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    @property
    def text(self) -> str:
        """What the model says: who it is, what it was asked for, and the request's tag."""
        said = f"hello from {self.name}: model={self.model}"
        said += f" tag={self.tag}" if self.tag is not None else ""
        said += FILLER if self.behaviour.split else ""
        if self.behaviour.length is not None:
            return fill(said, self.behaviour.length)[: self.behaviour.length]
        return said

    @property
    def tool(self) -> str | None:
        """The function to call: the first offered, unless declined or its result is already there."""
        messages = self.body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else {}
        answered = isinstance(last, dict) and last.get("role") == "tool"
        if answered or self.body.get("tool_choice") == "none":
            return None
        match self.body.get("tools"):
            case [{"function": {"name": str(name)}}, *_]:
                return name
            case _:
                return None

    @property
    def arguments(self) -> str:
        """The tool call's arguments: a JSON object with the text."""
        return json.dumps({"text": self.text}, ensure_ascii=False)

    @property
    def tool_call_id(self) -> str:
        """The id that the tool's result has to name."""
        return f"call_standin_{self.number}"

    @property
    def finish_reason(self) -> str:
        """Why a chat answer ended."""
        return "tool_calls" if self.tool else "stop"

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the request counts as."""
        if self.behaviour.prompt_tokens is not None:
            return self.behaviour.prompt_tokens
        parts = (self.body.get(key) for key in ("messages", "prompt", "input"))
        return count_tokens("".join(map(_text_in, parts)))

    @property
    def completion_tokens(self) -> int:
        """How many tokens the answer counts as, the same however it is cut into events."""
        if self.behaviour.completion_tokens is not None:
            return self.behaviour.completion_tokens
        return count_tokens(self.arguments if self.tool else self.text)

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of hidden reasoning: as set, 0 when only `reasoning_effort` asks, else unreported."""
        if self.behaviour.reasoning_tokens is not None:
            return self.behaviour.reasoning_tokens
        return 0 if "reasoning_effort" in self.body or "reasoning" in self.body else None

    def head(self, prefix: str, kind: str) -> Json:
        """Begin an answer or a chunk: the fields that all of them share."""
        head = {"id": f"{prefix}-standin-{self.number}", "object": kind}
        return head | {"created": self.created, "model": self.model}

    def usage(self) -> Json:
        """Report tokens as chat and completions do."""
        usage: Json = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.behaviour.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage

    def response(self, status: str = "completed") -> Json:
        """Build the object of the Responses API: with its output only when `completed`."""
        response: Json = {
            "id": f"resp_standin_{self.number}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        if status != "completed":
            return response
        part = {"type": "output_text", "text": self.text, "annotations": []}
        message = {"type": "message", "id": f"msg_standin_{self.number}", "status": status, "role": "assistant"}
        response["output"] = [message | {"content": [part]}]
        if self.behaviour.usage != "never":
            response["usage"] = {
                "input_tokens": self.prompt_tokens,
                "input_tokens_details": {"cached_tokens": self.behaviour.cached_tokens},
                "output_tokens": self.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens or 0},
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            }
        return response


def count_tokens(text: str) -> int:
    """Count tokens by the stand-in's tokenizer; nothing counts as none."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def fill(text: str, length: int) -> str:
    """Lengthen `text` to at least `length` characters."""
    missing = max(0, length - len(text))
    return text + "".join(itertools.islice(itertools.cycle(FILLER), missing))


def _text_in(value: object) -> str:
    """Collect the text a client sent, from strings and from message and content parts."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_text_in, value))
        case dict():
            return _text_in(value.get("content")) + _text_in(value.get("text"))
        case _:
            return ""

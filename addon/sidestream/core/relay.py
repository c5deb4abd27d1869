"""
One provider's answer on its way to the client: what of it may go on, and when.

Until content goes out, everything is held back, so that another provider can still answer
instead. A stream goes on block by block, so that it never ends within an event. What the answer
says about itself is read by a `Meter` on the way.
"""

import json
import re
from typing import Literal

from sidestream.core.attempts import Failure
from sidestream.core.sse import Block
from sidestream.core.usage import MAX_JSON_BYTES, Meter, is_error

type Manner = Literal["events", "whole", "plain"]
"""How an answer goes on: block by block, when it is complete, or as it comes."""

MAX_HELD_BYTES = 256 * 1024
"""How much of a stream is held back to wait for content, in bytes."""

_PRELUDES = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Events of the Responses API that come before any content."""

_USAGE_ALONE = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class Relay:
    """
    The body of one answer. Feed it what comes, decoded; send on what it returns.

    `has_begun`: whether something may go out; the answer's head goes before it. `failure`: set when the attempt
    failed before that, in an answer that could still be sent on (`go_on`). `is_patient`: another attempt
    may follow, so that it is worth waiting for content; otherwise a stream goes on as it comes. `drops_usage`:
    the client did not ask for the event that only tells usage.
    """

    __slots__ = ("_drops_usage", "_held", "events", "failure", "has_begun", "manner", "meter")

    def __init__(self, manner: Manner, meter: Meter, *, is_patient: bool = False, drops_usage: bool = False) -> None:
        if manner == "events" and meter.complete is None:
            manner = "plain"  # it says that it is a stream, in an encoding that nobody here can read
        self.meter = meter
        self.has_begun = manner == "plain" or (manner == "events" and not is_patient)
        self.failure: Failure | None = None
        self.events = 0
        self.manner = manner
        self._drops_usage = drops_usage
        self._held = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return those that go on now."""
        blocks = self.meter.feed(chunk)
        match self.manner:
            case "plain":
                return chunk
            case "whole":
                self._held += chunk
                return self.go_on() if len(self._held) > MAX_JSON_BYTES else b""
            case "events":
                return self._pass_blocks(blocks)

    def go_on(self) -> bytes:
        """Hold nothing back any more; return what was."""
        self.has_begun = True
        if self.manner == "whole":
            self.manner = "plain"
        held = bytes(self._held)
        self._held.clear()
        return held

    @property
    def flaw(self) -> Failure | None:
        """Return how the provider failed though its answer is the client's: by an error among the events."""
        is_flawed = self.manner == "events" and self.meter.error_seen
        return Failure("stream-error", "the stream held an error event") if is_flawed else None

    @property
    def is_cut(self) -> bool:
        """Tell whether what there is can't be all: a stream without its end, or half of a JSON object."""
        if self.manner != "whole":
            return self.meter.complete is False
        return self._held.lstrip().startswith((b"{", b"[")) and not _is_json(bytes(self._held))

    @property
    def is_midway(self) -> bool:
        """Tell whether a stream is in the middle of its answer: it said something, and neither why nor that it ends."""
        meter = self.meter
        is_open = self.manner == "events" and meter.complete is False and not meter.error_seen
        return is_open and meter.pieces > 0 and meter.finish_reason is None and b"[DONE]" not in meter.rest

    def end(self) -> bytes:
        """Take note that the framing says the answer is complete; return what is left to go on, unless it failed."""
        self.meter.finish()
        if self.manner == "whole":
            return self.go_on()
        if self.manner != "events":
            return b""
        if self.meter.complete is False and self.meter.finish_reason is not None:
            self.meter.complete = True  # not all providers say [DONE] besides
        if not self.has_begun:
            self.failure = self.failure or Failure("stream-error", "the stream ended before any content")
            self._held += self.meter.rest
            return b""
        return self.meter.rest

    def _pass_blocks(self, blocks: list[Block]) -> bytes:
        passing = bytearray()
        for block in blocks:
            if block.event is not None:
                if self._drops_usage and _is_usage_alone(block.event.data):
                    if block.raw.startswith(b"\n"):
                        passing += b"\n"  # the end of the line before it, which came in two pieces
                    continue
                self.events += 1
                if not self.has_begun:
                    self._judge(block.event.data)
            passing += block.raw
            if not self.has_begun and self.meter.complete is None:
                self.has_begun = True  # an event that is too large to be read
        if self.has_begun:
            return self.go_on() + bytes(passing) if self._held else bytes(passing)
        self._held += passing
        return self.go_on() if len(self._held) > MAX_HELD_BYTES else b""

    def _judge(self, data: bytes) -> None:
        match _kind(data):
            case "content":
                self.has_begun = self.failure is None
            case "error":
                self.failure = Failure("stream-error", "the stream began with an error event")
            case "nothing":
                pass


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return True  # nobody can tell
    except ValueError:
        return False
    return True


def _is_usage_alone(data: bytes) -> bool:
    if not _USAGE_ALONE.search(data):
        return False
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("choices") == [] and isinstance(event.get("usage"), dict)


def _kind(data: bytes) -> Literal["nothing", "content", "error"]:
    """Tell what an event says. One that is not known counts as content, which can't be taken back."""
    if data == b"[DONE]":
        return "nothing"
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return "content"
    if not isinstance(event, dict):
        return "content"
    if is_error(event):
        return "error"
    choices = event.get("choices")
    if isinstance(choices, list):
        return "content" if any(_speaks(choice) for choice in choices) else "nothing"
    return "nothing" if event.get("type") in _PRELUDES else "content"


def _speaks(choice: object) -> bool:
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    said = {name: value for name, value in delta.items() if name != "role"} if isinstance(delta, dict) else choice
    return any(value for name, value in said.items() if name not in ("index", "logprobs", "finish_reason", "usage"))

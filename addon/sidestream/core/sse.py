"""
Incremental decoder for server-sent event streams.

Feed bytes as they arrive; get back the events that are complete. How the bytes were cut
into chunks never changes the result, and no bytes make it raise.

Source: WHATWG HTML Living Standard, 9.2.6 "Interpreting an event stream".
"""

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""How much of one undispatched event is kept, in bytes. Past it the decoder gives up."""

MAX_COMMENT_BYTES = 64 * 1024
"""How many bytes of lines without data stay together, in bytes."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: its type (`message` unless named) and its data, undecoded."""

    data: bytes
    type: bytes = b"message"


@dataclass(frozen=True, slots=True)
class Block:
    """The bytes of a stream up to an empty line, and the event they dispatch; comments alone dispatch none."""

    raw: bytes
    event: Event | None


class Decoder:
    """
    Turns the bytes of one stream into events.

    `overflowed` tells that an event outgrew `MAX_EVENT_BYTES`; nothing is decoded after that.
    """

    __slots__ = ("_after_return", "_data", "_first_line", "_line", "_raw", "_type", "overflowed")

    def __init__(self) -> None:
        self.overflowed = False
        self._line = b""  # what there is of the line that has not ended yet
        self._after_return = False  # the last line ended in CR: an LF that follows belongs to it
        self._first_line = True
        self._data = bytearray()  # each line of data with an LF, as the standard has it
        self._raw = bytearray()  # the lines of the block that has not ended yet
        self._type = b""

    @property
    def rest(self) -> bytes:
        """The bytes that belong to no block yet."""
        return bytes(self._raw) + self._line

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events they complete."""
        return [block.event for block in self.split(chunk) if block.event is not None]

    def split(self, chunk: bytes) -> list[Block]:
        """
        Take the next bytes and return the blocks they complete.

        What the blocks hold and `rest` are all the bytes there were, in order.
        """
        if not chunk:
            return []
        if self.overflowed:
            return [Block(chunk, None)]
        start = 0
        if self._after_return and chunk.startswith(b"\n"):
            self._raw += b"\n"
            start = 1
        self._after_return = chunk.endswith(b"\r")
        blocks: list[Block] = []
        for end in _LINE_END.finditer(chunk, start):
            line = self._line + chunk[start : end.start()]
            if self._is_too_much(line):  # asked of every line: a chunk may hold many events
                return [*blocks, self._give_up(chunk[start:])]
            self._line = b""
            self._raw += line + end[0]
            start = end.end()
            if line or self._first_line:
                self._end_line(line)
            if not line:
                blocks.append(self._dispatch())
            elif not self._data and len(self._raw) > MAX_COMMENT_BYTES:
                blocks.append(Block(bytes(self._raw), None))
                self._raw.clear()
        self._line += chunk[start:]
        if self._is_too_much(self._line):
            blocks.append(self._give_up(b""))
        return blocks

    def _is_too_much(self, line: bytes) -> bool:
        return len(line) + len(self._data) > MAX_EVENT_BYTES or len(self._raw) > 2 * MAX_EVENT_BYTES

    def _give_up(self, following: bytes) -> Block:
        self.overflowed = True
        block = Block(self.rest + following, None)
        self._line = b""
        self._raw.clear()
        self._data.clear()
        return block

    def _end_line(self, line: bytes) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value + b"\n"
        elif field == b"event":
            self._type = value

    def _dispatch(self) -> Block:
        event = Event(bytes(self._data[:-1]), self._type or b"message") if self._data else None
        block = Block(bytes(self._raw), event)
        self._raw.clear()
        self._data.clear()
        self._type = b""
        return block

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

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: its type (`message` unless named) and its data, undecoded."""

    data: bytes
    type: bytes = b"message"


class Decoder:
    """
    Turns the bytes of one stream into events.

    `overflowed` tells that an event outgrew `MAX_EVENT_BYTES`; nothing is decoded after that.
    """

    __slots__ = ("_after_return", "_data", "_first_line", "_line", "_type", "overflowed")

    def __init__(self) -> None:
        self.overflowed = False
        self._line = bytearray()  # what there is of the line that has not ended yet
        self._after_return = False  # the last line ended in CR: an LF that follows belongs to it
        self._first_line = True
        self._data = bytearray()  # each line of data with an LF, as the standard has it
        self._type = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events they complete."""
        if self.overflowed or not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk)
        events: list[Event] = []
        for end in lines:
            line = bytes(self._line) + end
            if self._is_too_much(line):  # asked of every line: a chunk may hold many events
                return events
            self._line.clear()
            if (event := self._end_line(line)) is not None:
                events.append(event)
        self._line += rest
        self._is_too_much(self._line)
        return events

    def _is_too_much(self, line: bytes | bytearray) -> bool:
        """Tell whether the event is too large with `line`, and give up if it is."""
        if len(line) + len(self._data) <= MAX_EVENT_BYTES:
            return False
        self.overflowed = True
        self._line.clear()
        self._data.clear()
        return True

    def _end_line(self, line: bytes) -> Event | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value + b"\n"
        elif field == b"event":
            self._type = value
        return None

    def _dispatch(self) -> Event | None:
        event = Event(bytes(self._data[:-1]), self._type or b"message") if self._data else None
        self._data.clear()
        self._type = b""
        return event

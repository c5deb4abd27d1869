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

    __slots__ = ("_after_return", "_data", "_first_line", "_kept_bytes", "_line", "_type", "overflowed")

    def __init__(self) -> None:
        self.overflowed = False
        self._line: list[bytes] = []  # the pieces of the line that has not ended yet
        self._after_return = False  # the last line ended in CR: an LF that follows belongs to it
        self._first_line = True
        self._data: list[bytes] = []
        self._type = b""
        self._kept_bytes = 0  # of `_line` and `_data`

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events they complete."""
        if self.overflowed or not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk)
        events = [event for line in lines if (event := self._end_line(line)) is not None]
        self._line.append(rest)
        self._kept_bytes += len(rest)
        if self._kept_bytes > MAX_EVENT_BYTES:
            self.overflowed = True
            self._line, self._data = [], []
        return events

    def _end_line(self, end: bytes) -> Event | None:
        self._line.append(end)
        line, self._line = b"".join(self._line), []
        self._kept_bytes -= len(line) - len(end)
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._kept_bytes += len(value)
        elif field == b"event":
            self._type = value
        return None

    def _dispatch(self) -> Event | None:
        data, event_type = self._data, self._type
        self._data, self._type, self._kept_bytes = [], b"", 0
        return Event(b"\n".join(data), event_type or b"message") if data else None

"""
Load of streams: many at a time, each event compared with the time that the provider sent it at.

Streams begin spread over the time that one takes, each on a connection that it keeps for the next. The first
event's time runs from the request on an established connection. Run as a program it prints what it saw as JSON:
``python -m tests.bench.streaming --help``.
"""

import argparse
import contextlib
import gc
import json
import re
import select
import socket
import ssl
import time
from dataclasses import dataclass, field

from tests.bench.figures import percentile

CONTENT = re.compile(rb'"content": ?"(\d{19})"')


class Decoder:
    """
    Reads one answer in chunked encoding, as it comes.

    `feed` returns the times that events carry; how the bytes were cut changes nothing. `is_complete`: the last
    chunk was read. `has_done`: the stream said that this was all.
    """

    def __init__(self) -> None:
        self.status = 0
        self.is_complete = False
        self.has_done = False
        self._framed = b""
        self._text = b""
        self._left = 0
        """Bytes of the current chunk that are still to come, with the line end after it."""

    def feed(self, data: bytes) -> list[int]:
        """
        Read more; return the times in events that became complete.

        Raises:
            ValueError: this is no answer in chunks.
        """
        self._framed += data
        if self.status or self._read_head():
            while not self.is_complete and (self._read_chunk() if self._left else self._read_size()):
                pass
        *events, self._text = self._text.split(b"\n\n")
        self.has_done = self.has_done or b"data: [DONE]" in events
        return [int(found[1]) for event in events if (found := CONTENT.search(event))]

    def _read_head(self) -> bool:
        head, end, rest = self._framed.partition(b"\r\n\r\n")
        if not end:
            return False
        if b"transfer-encoding: chunked" not in head.lower():
            raise ValueError(f"no stream: {self._framed[:300]!r}")
        self.status = int(head.split(b" ", 2)[1])
        self._framed = rest
        return True

    def _read_size(self) -> bool:
        size, end, rest = self._framed.partition(b"\r\n")
        if not end:
            return False
        self._left = int(size, 16) + 2
        if self._left > 2:
            self._framed = rest
            return True
        self.is_complete = len(rest) >= 2
        self._left = 0
        return False

    def _read_chunk(self) -> bool:
        part, self._framed = self._framed[: self._left], self._framed[self._left :]
        self._text += part[: self._left - 2] if self._left > 2 else b""
        self._left -= len(part)
        return bool(part)


@dataclass
class Seen:
    """What all streams saw, times in nanoseconds."""

    streams: int = 0
    events: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    firsts: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """By how much the time between two events differs from what it was when they were sent."""


class Slot:
    """One place for streams, on one connection: `count` of them, one after the other."""

    def __init__(self, seen: Seen, connection: socket.socket, request: bytes, events: int, count: int) -> None:
        self.socket = connection
        self.left = count
        self._seen = seen
        self._is_open = not isinstance(connection, ssl.SSLSocket)
        self._request = request
        self._expected = events
        if self._is_open:
            self._begin()

    def ready(self) -> None:
        """Read what there is."""
        try:
            if not self._is_open:
                self.socket.do_handshake()
                self._is_open = True
                self._begin()
            data = self.socket.recv(65536)
            if data:
                self._read(data, time.monotonic_ns())
            else:
                self._fail("the connection was closed in mid-stream")
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except (OSError, ValueError) as e:
            self._fail(str(e))

    def _begin(self) -> None:
        self._decoder = Decoder()
        self._events = 0
        self._last = 0, 0
        self._asked = time.monotonic_ns()
        self.socket.sendall(self._request)  # it fits into the empty buffer

    def _read(self, data: bytes, now: int) -> None:
        for sent in self._decoder.feed(data):
            received_before, sent_before = self._last
            if self._events:
                self._seen.gaps.append(abs((now - received_before) - (sent - sent_before)))
            else:
                self._seen.firsts.append(now - self._asked)
            self._seen.delays.append(now - sent)
            self._last = now, sent
            self._events += 1
        if self._decoder.is_complete:
            self._finish()

    def _finish(self) -> None:
        self._seen.events += self._events
        if (self._decoder.status, self._events, self._decoder.has_done) != (200, self._expected, True):
            self._fail(f"status {self._decoder.status}, {self._events} events, [DONE]: {self._decoder.has_done}")
            return
        self._seen.streams += 1
        self.left -= 1
        if self.left:
            self._begin()

    def _fail(self, error: str) -> None:
        self.left = 0
        self._seen.errors.append(error)


def stream(options: argparse.Namespace) -> Seen:
    """Take all streams, and return what was seen."""
    seen = Seen()
    request = options.request.read()
    context = None
    if options.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    epoll = select.epoll()
    slots: dict[int, Slot] = {}
    begun = time.monotonic()
    starts = [begun + number * options.spread / options.streams for number in range(options.streams)]
    starts.reverse()
    while starts or slots:
        now = time.monotonic()
        if now > begun + options.timeout:
            seen.errors += [f"not finished within {options.timeout:g} s"] * (len(starts) + len(slots))
            break
        if starts and starts[-1] <= now:
            starts.pop()
            connection = _connect(options.host, options.port, context)
            slots[connection.fileno()] = Slot(seen, connection, request, options.events, options.count)
            epoll.register(connection, select.EPOLLIN)
        for number, _ in epoll.poll(max(0.0, starts[-1] - time.monotonic()) if starts else 1.0):
            slots[number].ready()
            if not slots[number].left:
                slots.pop(number).socket.close()
    seen.seconds = time.monotonic() - begun
    return seen


def _connect(host: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context:
        connection = context.wrap_socket(connection, do_handshake_on_connect=False)
    connection.setblocking(False)
    if context:
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.do_handshake()
    return connection


def main() -> None:
    parser = argparse.ArgumentParser(description="Take streams, and print what they were like.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--request", type=argparse.FileType("rb"), required=True, help="file of a whole request")
    parser.add_argument("--streams", type=int, required=True, help="how many at a time")
    parser.add_argument("--count", type=int, default=1, help="how many each, one after the other")
    parser.add_argument("--events", type=int, required=True, help="events with content that a stream must have")
    parser.add_argument("--spread", type=float, required=True, help="seconds over which the first ones begin")
    parser.add_argument("--timeout", type=float, required=True, help="seconds after which it is given up")
    options = parser.parse_args()
    gc.disable()
    seen = stream(options)
    milliseconds = {
        f"{name}_p{share}": percentile(values, share / 100) / 1e6
        for name, values in (("first", seen.firsts), ("delay", seen.delays), ("gap", seen.gaps))
        for share in (50, 99)
        if values
    }
    first_error = next(iter(seen.errors), "")
    counts = {"streams": seen.streams, "events": seen.events, "seconds": seen.seconds}
    print(json.dumps(counts | {"errors": len(seen.errors), "first_error": first_error} | milliseconds))


if __name__ == "__main__":
    main()

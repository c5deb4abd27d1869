"""
Load of calls that each have a connection of their own; times include the connection.

A few places make one call after the other for a time; calls that have begun are finished, so that processor time
divides evenly. Run as a program it prints what it saw as JSON: ``python -m tests.bench.connecting --help``.
"""

import argparse
import asyncio
import encodings.idna  # noqa: F401  # the loop asks for it, when another user may no longer read it
import gc
import json
import os
import re
import ssl
import time
from dataclasses import dataclass, field

from tests.bench.figures import percentile

CALL_SECONDS = 20.0
"""How long one call may take."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass
class Seen:
    """What all calls saw, times in seconds."""

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Call(asyncio.Protocol):
    """One call. `answer` becomes the whole answer, as soon as it is complete."""

    def __init__(self, request: bytes) -> None:
        self.answer = asyncio.get_running_loop().create_future()
        self._request = request
        self._read = b""

    def connection_made(self, transport):
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data):
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        length = _LENGTH.search(self._read, 0, end + 2) if end >= 0 else None
        if length and len(self._read) >= end + 4 + int(length[1]):
            self._finish()

    def connection_lost(self, _):
        self._finish()

    def _finish(self) -> None:
        if not self.answer.done():
            self.answer.set_result(self._read)
            self._transport.close()


async def call(options: argparse.Namespace) -> Seen:
    """Make calls, and return what was seen."""
    seen = Seen()
    request, expected = options.request.read(), options.expect.encode()
    loop = asyncio.get_running_loop()
    context = None
    if options.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def make_one() -> str:
        async with asyncio.timeout(CALL_SECONDS):
            _, made = await loop.create_connection(lambda: Call(request), options.host, options.port, ssl=context)
            answer = await made.answer
        is_good = answer.startswith(b"HTTP/1.1 200 ") and len(answer) >= options.least and expected in answer
        return "" if is_good else f"no good answer: {answer[:200]!r}"

    async def place() -> None:
        while time.monotonic() < end:
            before = time.monotonic()
            try:
                error = await make_one()
            except OSError as e:  # a timeout, too
                error = repr(e)
            if error:
                seen.errors.append(error)
            else:
                seen.times.append(time.monotonic() - before)

    gc.disable()
    begun = time.monotonic()
    end = begun + options.seconds
    await asyncio.gather(*(place() for _ in range(options.places)))
    seen.seconds = time.monotonic() - begun
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Make calls, each on a connection of its own.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--request", type=argparse.FileType("rb"), required=True, help="file of a whole request")
    parser.add_argument("--places", type=int, required=True, help="how many calls at a time")
    parser.add_argument("--seconds", type=float, required=True, help="for how long calls begin")
    parser.add_argument("--least", type=int, required=True, help="bytes that a good answer has at least")
    parser.add_argument("--expect", required=True, help="text that a good answer has")
    parser.add_argument("--uid", type=int, help="whose connections they are")
    options = parser.parse_args()
    if options.uid is not None:
        os.setuid(options.uid)
    seen = asyncio.run(call(options))
    counts = {"good": len(seen.times), "seconds": seen.seconds, "errors": len(seen.errors)}
    times = {f"p{share}_ms": 1000 * percentile(seen.times, share / 100) for share in (50, 99) if seen.times}
    print(json.dumps(counts | {"first_error": next(iter(seen.errors), "")} | times))


if __name__ == "__main__":
    main()

"""
An HTTP/1.1 client that takes nothing for granted.

It tells a complete answer from one that was cut, notices bytes that nobody asked for, and hangs
up where it is told to. It never retries. Framing is h11's, which is strict.
"""

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Literal

import h11

from tests.soak.asking import Ask

READ_BYTES = 64 * 1024
NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds: closing sends a reset."""
PATIENCE_SECONDS = 15.0
"""How long an answer may take before the client gives up: longer than the policy's timeouts."""
GOODBYE_SECONDS = 20.0
"""How long the proxy may take to close a connection after it said that it would."""

type End = Literal["complete", "cut", "nothing", "left", "gave-up", "bad-framing"]


@dataclass(slots=True)
class Answer:
    """What came back. `end`: how it ended; `excess`: bytes that nobody had asked for."""

    end: End = "nothing"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    excess: bytes = b""
    problem: str = ""
    reused: bool = False
    address: str = ""
    began: float = 0.0
    ended: float = 0.0


class Line:
    """One connection to the proxy, for one call at a time."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._wire = h11.Connection(h11.CLIENT)
        self._watch = None
        self._used = 0
        self.address = "{}:{}".format(*writer.get_extra_info("sockname")[:2])

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def call(self, ask: Ask, key: str) -> Answer:
        """Make a call. Afterwards `is_open` tells whether the connection can have another one."""
        answer = Answer(reused=self._used > 0, address=self.address, began=time.monotonic())
        self._used += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._converse(ask, key, answer)
        except TimeoutError:
            answer.end = "gave-up"
        except h11.RemoteProtocolError as e:
            # h11 says the same of an end that comes too early and of bytes that are no HTTP.
            answer.end = "cut" if "peer" in str(e) and "closed" in str(e) else "bad-framing"
            answer.problem = str(e)
        except OSError as e:
            answer.end = "cut" if answer.status is not None else "nothing"
            answer.problem = repr(e)
        answer.ended = time.monotonic()
        if answer.end == "complete":
            await self._after(answer)
        if answer.end != "complete" or not ask.keep:
            self.close()
        return answer

    async def _converse(self, ask, key, answer):
        content = ask.content
        if ask.leave and ask.leave.when == "body":
            await self._send(ask, key, content, share=ask.leave.after)
            self._leave(ask, answer)
            return
        await self._send(ask, key, content)
        if ask.leave and ask.leave.when == "sent":
            await asyncio.sleep(ask.leave.after)
            self._leave(ask, answer)
            return
        parts = []
        try:
            await self._read(ask, answer, parts)
        finally:
            answer.body = b"".join(parts)

    async def _read(self, ask, answer, parts):
        enough = ask.leave.after if ask.leave else float("inf")
        while answer.end != "complete":
            match self._wire.next_event():
                case h11.NEED_DATA:
                    received = await self._reader.read(READ_BYTES)
                    self._wire.receive_data(received)
                    if not received and answer.status is None:
                        answer.problem = "closed before an answer"
                        return
                case h11.Response(status_code=status, headers=headers):
                    answer.status, answer.end = status, "cut"
                    answer.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers}
                case h11.Data(data=data):
                    parts.append(bytes(data))
                    if (enough := enough - len(data)) <= 0:
                        self._leave(ask, answer)
                        return
                case h11.EndOfMessage():
                    answer.end = "complete"

    async def _send(self, ask, key, content, share=None):
        headers = [
            ("host", ask.host),
            ("authorization", f"Bearer {key}"),
            ("content-type", "application/json"),
            ("x-request-tag", ask.tag),
            ("x-standin", ask.settings),
            ("transfer-encoding", "chunked") if ask.chunked else ("content-length", str(len(content))),
        ]
        headers += [] if ask.keep else [("connection", "close")]
        wire = self._wire.send(h11.Request(method="POST", target=f"http://{ask.host}{ask.path}", headers=headers))
        sent = content if share is None else content[: int(share * len(content))]
        if ask.chunked:  # in two parts that travel apart
            self._writer.write(wire)
            await self._writer.drain()
            wire, half = b"", len(sent) // 2
            wire += self._wire.send(h11.Data(data=sent[:half])) if half else b""
            sent = sent[half:]
        wire += self._wire.send(h11.Data(data=sent)) if sent else b""
        if share is None:
            wire += self._wire.send(h11.EndOfMessage())
        self._writer.write(wire)
        await self._writer.drain()

    def _leave(self, ask, answer):
        answer.end = "left"
        if ask.leave.how == "reset":
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.close()

    async def _after(self, answer):
        """Take what should not be there, and see whether a close that was announced comes."""
        answer.excess = self._wire.trailing_data[0]
        if self._wire.their_state is h11.DONE and self._wire.our_state is h11.DONE:
            self._wire.start_next_cycle()
            return
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                while more := await self._reader.read(READ_BYTES):
                    answer.excess += more
        except TimeoutError:
            answer.problem = "the connection stays open after it was said to close"
        except OSError:
            pass
        self.close()

    @property
    def is_open(self):
        return not self._writer.is_closing()

    def rest(self):
        """Watch the connection while nothing is asked for."""
        self._watch = asyncio.create_task(self._reader.read(READ_BYTES))

    async def wake(self):
        """Stop watching; return what came meanwhile: None for nothing, empty when it was closed."""
        self._watch.cancel()
        await asyncio.wait({self._watch})
        if self._watch.cancelled():
            return None
        return b"" if self._watch.exception() else self._watch.result()

    def close(self):
        with contextlib.suppress(OSError):
            self._writer.close()

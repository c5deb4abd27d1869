"""
One client's TCP connection: requests read from it, the steps of answers carried out on it.

Promises to notice at once, even while silent, that the client has gone: something reads
for as long as an answer is being sent. What a client sends meanwhile is kept for later.
A client that half-closes its side counts as gone.

HTTP/1.1 framing is h11's; closing, cutting and resetting are done here on the socket.
"""

import asyncio
import contextlib
import http
import socket
import struct
import time
from collections.abc import Iterable
from typing import Protocol, assert_never

import h11

from sidestream.demo.delivery import End, Head, Leave, Pause, Piece, Stall, Step
from sidestream.demo.received import Received

READ_BYTES = 64 * 1024
"""How much is read from the socket at once."""

MAX_HEAD_BYTES = 256 * 1024
"""How long a request's head may be."""

NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds: closing sends a reset."""

_STATUSES = frozenset(http.HTTPStatus)


class Provider(Protocol):
    """Who is behind the connection."""

    def reply(self, request: Received) -> Iterable[Step]:
        """Take note of a request and decide how to answer."""

    def client_left(self) -> None:
        """Take note that the client went away before its answer was complete."""


class Connection:
    """The conversation with one client, from accept to close."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        provider: Provider,
        *,
        number: int,
        server_name: str | None,
    ) -> None:
        """Take over a connection whose TLS, if any, is established; `number` identifies it."""
        self._reader = reader
        self._writer = writer
        self._provider = provider
        self._number = number
        self._server_name = server_name
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._held = b""
        self._aborted = False

    async def converse(self) -> None:
        """Answer request after request until either side closes; then close."""
        try:
            while (request := await self._next_request()) and await self._deliver(request):
                self._wire.start_next_cycle()
            self._writer.close()
        except h11.RemoteProtocolError as e:
            self._refuse(e.error_status_hint)
        except OSError:
            pass
        finally:
            if not self._writer.is_closing():
                self.abort()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once, whatever is going on; an answer that this ends is not the client's doing."""
        self._aborted = True
        self._writer.transport.abort()

    async def _next_request(self) -> Received | None:
        """Read one complete request; None when the client closes instead."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match self._wire.next_event():
                case h11.Request() as head:
                    pass
                case h11.Data(data=part):
                    body += part
                case h11.EndOfMessage() if head is not None:
                    return self._received(head, bytes(body))
                case h11.NEED_DATA:
                    if self._wire.they_are_waiting_for_100_continue:
                        go_on = h11.InformationalResponse(status_code=100, headers=[])
                        await self._send(self._wire.send(go_on) or b"")
                    self._wire.receive_data(await self._reader.read(READ_BYTES))
                case _:
                    return None

    def _received(self, head: h11.Request, body: bytes) -> Received:
        return Received(
            method=head.method.decode("ascii"),
            path=head.target.decode("latin-1"),
            headers=[(k.decode("ascii"), v.decode("latin-1")) for k, v in head.headers],
            body=body,
            at=time.monotonic(),
            server_name=self._server_name,
            connection=self._number,
        )

    async def _deliver(self, request: Received) -> bool:
        """Answer while listening for the client to leave; return whether the connection goes on."""
        bodiless = request.method == "HEAD"
        speaking = asyncio.create_task(self._speak(self._provider.reply(request), bodiless=bodiless))
        listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait({speaking, listening}, return_when=asyncio.FIRST_COMPLETED)
            if speaking.done():
                with contextlib.suppress(OSError):
                    return speaking.result()
        finally:
            speaking.cancel()
            listening.cancel()
            await asyncio.gather(speaking, listening, return_exceptions=True)
        if not self._aborted:
            self._provider.client_left()
        self.abort()
        return False

    async def _listen(self) -> None:
        """Read until the client leaves; what it sends before that is kept."""
        with contextlib.suppress(OSError):
            while content := await self._reader.read(READ_BYTES):
                self._wire.receive_data(content)

    async def _speak(self, steps: Iterable[Step], *, bodiless: bool) -> bool:
        """Carry out `steps`; return whether another request may follow."""
        for step in steps:
            match step:
                case Head(status, headers):
                    # Held until the body begins, so that a short answer is one segment.
                    reason = http.HTTPStatus(status).phrase if status in _STATUSES else ""
                    # h11 takes text for ASCII; what a client's header had is echoed as it came.
                    sent = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
                    response = h11.Response(status_code=status, reason=reason, headers=sent)
                    self._held = self._wire.send(response) or b""
                case Piece(content):
                    framed = b"" if bodiless else self._wire.send(h11.Data(content))
                    await self._send(framed or b"")
                case End():
                    # Not awaited: the client may leave the moment it has the last byte.
                    self._write(self._wire.send(h11.EndOfMessage()) or b"")
                case Pause(seconds):
                    await self._send(b"")
                    await asyncio.sleep(seconds)
                case Stall():
                    await self._send(b"")
                    await asyncio.Event().wait()
                case Leave(how):
                    await self._send(b"")
                    self._leave(how)
                    return False
                case _:
                    assert_never(step)
        return self._wire.our_state is h11.DONE and self._wire.their_state is h11.DONE

    async def _send(self, content: bytes) -> None:
        self._write(content)
        await self._writer.drain()

    def _write(self, content: bytes) -> None:
        """Write what was held and `content`."""
        if self._held or content:
            self._writer.write(self._held + content)
            self._held = b""

    def _leave(self, how: str) -> None:
        transport = self._writer.transport
        if how == "close":
            self._writer.close()
            return
        if how == "reset":
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        transport.abort()

    def _refuse(self, status: int) -> None:
        """Answer what is no HTTP request, if there still is someone to answer."""
        if self._wire.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [("content-length", "0"), ("connection", "close")]
            response = h11.Response(status_code=status, headers=headers)
            self._writer.write(self._wire.send(response) or b"")
        self._writer.close()

"""
One HTTP/1.1 connection to a provider, one request at a time.

Bytes are parsed by llhttp (httptools). Interim answers (1xx) are skipped and trailers dropped; an answer
that ends without being complete is a failure, never an end. Reading stops while nobody takes
what was read.
"""

import asyncio
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any

import httptools

from sidestream.core.attempts import Failure
from sidestream.core.snapshot import Endpoint

MAX_HEAD_BYTES = 256 * 1024
"""How large the head of an answer may be, in bytes."""

MAX_WAITING_BYTES = 256 * 1024
"""How much of a body may wait to be taken before reading stops, in bytes."""

_NO_BODY = (204, 304)


class AttemptFailed(Exception):
    """The attempt failed; `failure` says how. `is_silent`: before the provider said a word."""

    def __init__(self, failure: Failure, *, is_silent: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.is_silent = is_silent


@dataclass(slots=True)
class Answer:
    """The head of an answer as it came: lower-case names. `has_body`: whether a body may follow, as the request was."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]] = field(repr=False)
    has_body: bool = True

    def get(self, name: bytes) -> str:
        """Return the value of the field `name`, several joined, ``""`` if there is none."""
        return ", ".join(value.decode("latin-1") for own, value in self.fields if own == name)


class Connection(asyncio.Protocol):
    """A connection to `endpoint`. `uses`: how many requests it has taken."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.opened_at = time.monotonic()
        self.idle_since = 0.0
        self.uses = 0
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._error: Failure | None = None
        self._is_closed = False
        self._reset()

    def _reset(self) -> None:
        self._answer: Answer | None = None
        self._reason = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._is_paused = False
        self._is_head_only = False
        self._is_until_end = False
        self._is_complete = False
        self._keeps_alive = False
        self._is_busy = False

    # What the upstream half does with it.

    @property
    def is_reusable(self) -> bool:
        """Tell whether another request may follow the last one."""
        return (
            not self._is_closed
            and self._error is None
            and self._is_complete
            and not self._is_head_only
            and not self._is_until_end
            and self._keeps_alive
            and self._transport.get_write_buffer_size() == 0
        )

    @property
    def is_closed(self) -> bool:
        """Tell whether it is gone."""
        return self._is_closed

    @property
    def is_complete(self) -> bool:
        """Tell whether all of the answer is here."""
        return self._is_complete

    @property
    def is_until_end(self) -> bool:
        """Tell whether only the end of the connection ended the answer, so that nobody knows whether it was cut."""
        return self._is_until_end

    @property
    def tls(self) -> ssl.SSLObject | None:
        """Its TLS, if it has any."""
        tls = self._transport.get_extra_info("ssl_object")
        return tls if isinstance(tls, ssl.SSLObject) else None

    @property
    def peername(self) -> tuple[str, int] | None:
        """The provider's address."""
        name = self._transport.get_extra_info("peername")
        return name[:2] if name else None

    def send(self, head: bytes, body: bytes, *, is_head_only: bool) -> None:
        """Send a request. `is_head_only`: its answer will have no body, whatever it says."""
        self._reset()
        self._is_busy = True
        self.uses += 1
        self._is_head_only = is_head_only
        if len(body) < MAX_WAITING_BYTES:
            self._transport.write(head + body)
        else:
            self._be_patient()
            self._transport.write(head)
            self._transport.write(body)

    async def answer(self) -> Answer:
        """
        Wait for the head of the answer.

        Raises:
            AttemptFailed: none came.
        """
        while self._answer is None:
            if self._error is not None:
                raise AttemptFailed(self._error, is_silent=self._head_bytes == 0)
            await self._wait()
        return self._answer

    async def read(self) -> bytes:
        """
        Wait for more of the body; ``b""`` is its end.

        Raises:
            AttemptFailed: it broke off.
        """
        while not self._chunks:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise AttemptFailed(self._error)
            await self._wait()
        taken = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return taken

    def abort(self) -> None:
        """Close it at once; nothing more is sent."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _be_patient(self) -> None:
        """Let the provider take a large request as slowly as it wants: the kernel would take that for its end."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connected = self._transport.get_extra_info("socket")
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, message: str) -> None:
        if self._error is None and not self._is_complete:
            self._error = Failure("reset", message)

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if not self._is_busy or self._is_complete:
            self.abort()  # nobody asked for that
            return
        if self._answer is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("it changed the protocol")
        except httptools.HttpParserError:
            self._fail("what it sent is no HTTP")
        else:
            if self._answer is None and self._head_bytes > MAX_HEAD_BYTES:
                self._fail("the head of its answer is too large")
        if self._error is not None:
            self.abort()
        elif self._waiting_bytes > MAX_WAITING_BYTES and not self._is_paused and not self._is_complete:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Take note that nothing more comes; the transport closes itself."""
        self._end("the connection was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection is gone."""
        self._is_closed = True
        self._end("the connection was reset" if exc is not None else "the connection was closed", clean=exc is None)

    def _end(self, message: str, *, clean: bool = True) -> None:
        self._is_closed = True
        if self._answer is not None and self._is_until_end and clean and self._error is None:
            self._is_complete = True
        self._fail(message)
        self._wake()

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._is_complete:  # nobody asked for another
            self.abort()
            raise httptools.HttpParserError

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:  # otherwise it is a trailer
            self._fields.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        has_body = not self._is_head_only and status not in _NO_BODY
        self._answer = Answer(status, self._reason, self._fields, has_body)
        names = {name for name, _ in self._fields}
        if not has_body:
            self._is_complete = True
        else:
            self._is_until_end = b"content-length" not in names and not self._is_chunked()

    def on_body(self, body: bytes) -> None:
        if not self._is_head_only:
            self._chunks.append(body)
            self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._answer is None:  # an interim answer
            self._reason, self._fields = b"", []
        else:
            self._is_complete = True
            self._keeps_alive = self._parser.should_keep_alive()  # only here does the parser know

    def _is_chunked(self) -> bool:
        return any(name == b"transfer-encoding" and b"chunked" in value.lower() for name, value in self._fields)

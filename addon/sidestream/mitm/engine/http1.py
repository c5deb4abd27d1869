"""
mitmproxy's HTTP/1 server side, for clients that speak it badly.

mitmproxy answers a head that it can't read in HTML, quotes it in its log (keys and all),
closes without a word on a bad chunk, and fails on trailers. Here such a request gets an error
in OpenAI's shape, the log says what and not which bytes, and trailers are dropped: chat has none.
"""

import re
from collections.abc import Callable
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, HttpEvent, RequestProtocolError, ResponseHeaders
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server, TBodyReader

from sidestream.core.errors import ClientError

type Commands = layer.CommandGenerator[None]

MAX_HEAD_BYTES = 64 * 1024
"""How large the head of a request may be unless an option says otherwise, in bytes."""
MAX_AHEAD_BYTES = 64 * 1024 * 1024
"""How much a client may say before the last request is answered, in bytes: another request with its body."""

TOO_LARGE = "the request's head is too large"
BAD_LINE = "the request line or a header line is malformed"
BAD_LENGTH = "the Content-Length or Transfer-Encoding is malformed"
BAD_BODY = "the body's chunks are malformed"
TOO_MUCH_AHEAD = "too much was said before the answer"

_HEAD_END = re.compile(rb"\n\r?\n")  # as h11 has it


class InvalidRequest(RequestProtocolError):
    """The client is there, but what it sent is no HTTP."""


class Refusal(commands.SendData):
    """Our own answer to a client that sent no HTTP."""

    def __init__(self, conn: Connection, message: str) -> None:
        code = (431, "head_too_large") if message == TOO_LARGE else (400, "invalid_request")
        error = ClientError(*code, message)
        headers = {"content-type": "application/json", "connection": "close"}
        super().__init__(conn, http1.assemble_response(http.Response.make(error.status, error.body(), headers)))


class GovernedHttp1Server(Http1Server):
    """The client's side of an HTTP/1 connection."""

    body_reader: Any
    max_head_bytes = MAX_HEAD_BYTES
    note_refusal: Callable[[str], object] = staticmethod(str)
    is_ending: Callable[[], bool] = staticmethod(bool)

    @property
    def is_idle(self) -> bool:
        """Tell whether no request is under way, nor begun."""
        return self.state == self.read_headers and not len(self.buf)

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseHeaders) and self.is_ending() and self._may_be_the_last(event.response):
            response = event.response.copy()  # what pages and dumps show is what the provider said
            response.headers["connection"] = "close"
            event = ResponseHeaders(event.stream_id, response, event.end_stream)
        yield from super().send(event)

    def _may_be_the_last(self, response: http.Response) -> bool:
        is_connect = self.request is not None and self.request.method.upper() == "CONNECT"
        return response.status_code >= 200 and not is_connect

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        # Empty lines may come first (RFC 9112, 2.2). mitmproxy would take one of them, and wait for more.
        if self.buf._data.startswith((b"\r", b"\n")):
            said = bytes(self.buf)
            self.buf.maybe_extract_at_most(len(said) - len(said.lstrip(b"\r\n")))
        if len(self.buf) > self.max_head_bytes and not _HEAD_END.search(self.buf._data, 0, self.max_head_bytes):
            self.note_refusal("head_too_large")
            yield from self._refuse(TOO_LARGE)
            return
        for command in super().read_headers(event):
            if type(command) is commands.SendData:
                yield Refusal(self.conn, BAD_LENGTH if self.request else BAD_LINE)
            elif isinstance(command, commands.Log):
                yield commands.Log("a client sent something that is no HTTP request", command.level)
            elif isinstance(command, ReceiveHttp) and type(command.event) is RequestProtocolError:
                yield ReceiveHttp(InvalidRequest(self.stream_id, BAD_LENGTH, command.event.code))
            else:
                yield command

    def read_body(self, event: events.Event) -> Commands:
        if not isinstance(self.body_reader, _BodyReader):
            self.body_reader = _BodyReader(self.body_reader)
        reader: _BodyReader = self.body_reader  # the next request has another one
        yield from super().read_body(event)
        # What is left is the head of a chunk, or trailers.
        is_endless = self.state == self.read_body and len(self.buf) > self.max_head_bytes
        if (reader.is_bad or is_endless) and self.state != self.done:
            yield from self._refuse(BAD_BODY)
            yield ReceiveHttp(InvalidRequest(self.stream_id, BAD_BODY, ErrorCode.GENERIC_CLIENT_ERROR))

    def wait(self, event: events.Event) -> Commands:
        yield from super().wait(event)
        if len(self.buf) > MAX_AHEAD_BYTES and self.state != self.done:
            yield from self._refuse(TOO_MUCH_AHEAD)
            yield ReceiveHttp(InvalidRequest(self.stream_id, TOO_MUCH_AHEAD, ErrorCode.GENERIC_CLIENT_ERROR))

    def _refuse(self, message: str) -> Commands:
        """Say `message`, if no answer has begun, and read nothing more."""
        self.state = self.done
        if self.response is None or self.response.status_code < 200:
            yield Refusal(self.conn, message)
        yield commands.CloseConnection(self.conn)


class TrailerlessHttp1Client(Http1Client):
    """The server's side of an HTTP/1 connection, for servers that send trailers."""

    body_reader: Any

    @classmethod
    def specialise(cls, top: layer.Layer) -> None:
        """Turn the stock client at the end of the chain that starts at `top` into this one."""
        current: layer.Layer | None = top
        while current is not None:
            if type(current) is Http1Client:
                current.__class__ = cls
            current = getattr(current, "child_layer", None)

    def read_body(self, event: events.Event) -> Commands:
        if not isinstance(self.body_reader, _WithoutTrailers):
            self.body_reader = _WithoutTrailers(self.body_reader)
        yield from super().read_body(event)


class _WithoutTrailers:
    """Reads a body without its trailers."""

    def __init__(self, reader: TBodyReader) -> None:
        self._reader = reader

    def __call__(self, buffer: ReceiveBuffer) -> h11.Event | None:
        event = self._reader(buffer)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event

    def read_eof(self) -> h11.Event:
        return self._reader.read_eof()


class _BodyReader(_WithoutTrailers):
    """Reads a client's body. `is_bad`: its framing is broken, so nothing more can be read."""

    is_bad = False

    def __call__(self, buffer: ReceiveBuffer) -> h11.Event | None:
        try:
            return super().__call__(buffer)
        except h11.ProtocolError:
            self.is_bad = True
            return None

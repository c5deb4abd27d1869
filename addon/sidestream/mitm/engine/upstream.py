"""
The upstream half as mitmproxy's layers see it: a connection that is none.

To an `HttpStream`, `UpstreamLayer` is the connection to a provider. It hands the request to the upstream half,
and gives what comes from there to the stream, as mitmproxy's own events. The stream keeps its hooks and its flow.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mitmproxy import http
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer
from mitmproxy.proxy.layers.http._base import HttpConnection, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestEndOfMessage,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.proxy.server import ConnectionHandler

from sidestream.core.attempts import Attempts, Try
from sidestream.core.calls import Broken, Call, End, Head, Outgoing, Part, Upstream, last_parts
from sidestream.core.errors import Fault
from sidestream.core.exchange import Exchange
from sidestream.core.planning import Plan

type Commands = layer.CommandGenerator[None]

MAX_WAITING_BYTES = 64 * 1024
"""How much of an answer may wait for a client that is slow, in bytes; asyncio's own mark."""

CUT_OFF = Broken("shutting_down", "")
"""What ends a call that takes longer than the proxy may."""


class Calling(Protocol):
    """What the addon knows of an exchange that is sent on."""

    exchange: Exchange
    attempts: Attempts
    first: Try
    call: Call | None

    def plan(self, attempt: Try) -> Plan:
        """Return what is sent for `attempt`, and show it in the flow."""


@dataclass
class UpstreamEvent(events.Event):
    """Parts of an answer for the stream whose connection `connection` stands for."""

    connection: Server
    parts: Sequence[Part]


class UpstreamFailed(ResponseProtocolError):
    """There is no answer, or no more of it."""

    def __init__(self, stream_id: int, broken: Broken) -> None:
        super().__init__(stream_id, broken.message, ErrorCode.GENERIC_SERVER_ERROR)
        self.fault: Fault = broken.fault


class GetUpstream(GetHttpConnection):
    """Get a connection that stands for the upstream half."""

    def __init__(self, calling: Calling, flow: http.HTTPFlow) -> None:
        super().__init__((flow.request.host, flow.request.port), flow.request.scheme == "https", None)
        self.calling = calling
        self.flow = flow


class UpstreamLayer(HttpConnection):
    """One exchange's connection to wherever its attempts go."""

    def __init__(self, context: Context, conn: Server, caller: "FlowCaller", upstream: Upstream) -> None:
        super().__init__(context, conn)
        self._caller = caller
        self._upstream = upstream
        self.stream_id = caller.stream_id

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, UpstreamEvent):
            for part in event.parts:
                yield ReceiveHttp(self._event_of(part))
        elif isinstance(event, RequestEndOfMessage):
            self._caller.calling.call = self._upstream.call(self._caller)
        elif isinstance(event, RequestProtocolError):
            self.cancel()

    def cancel(self) -> None:
        """End the call: nobody waits for it any more."""
        self._caller.cancel()

    def _event_of(self, part: Part) -> HttpEvent:
        match part:
            case Head():
                self._caller.has_begun = True
                return ResponseHeaders(self.stream_id, self._caller.response(part), end_stream=False)
            case bytes():
                return ResponseData(self.stream_id, part)
            case End():
                self._caller.calling.call = None
                return ResponseEndOfMessage(self.stream_id)
            case Broken():
                self._caller.calling.call = None
                return UpstreamFailed(self.stream_id, part)


class FlowCaller:
    """The `Caller` that a flow is. What the upstream half tells it goes through mitmproxy's layers."""

    def __init__(
        self, calling: Calling, flow: http.HTTPFlow, stream_id: int, handler: ConnectionHandler, governed: HttpLayer
    ) -> None:
        self.calling = calling
        self.stream_id = stream_id
        self.exchange = calling.exchange
        self.attempts = calling.attempts
        self.first = calling.first
        self.plan = calling.plan
        self.conn = Server(address=(flow.request.host, flow.request.port))
        self.conn.state = ConnectionState.OPEN
        self._flow = flow
        self._handler = handler
        self._governed = governed
        self._relieved: asyncio.Future[None] | None = None
        self.has_begun = False

    def cancel(self) -> bool:
        """End the call, if it is under way; return whether it was."""
        call, self.calling.call = self.calling.call, None
        if call is not None:
            call.cancel()
        return call is not None

    def cut_off(self) -> Sequence[Part]:
        """End the call, if it is under way; return what its client is still told."""
        if not self.cancel():
            return ()
        meter = self.exchange.meter
        return last_parts(CUT_OFF, in_stream=self.has_begun and meter is not None and meter.complete is False)

    def outgoing(self, planned: Plan) -> Outgoing:
        """Return the flow's request as it is written, with the name of the endpoint that it goes to."""
        request = self._flow.request
        fields = [(name, value) for name, value in request.headers.fields if name.lower() != b"host"]
        fields.insert(0, (b"Host", planned.attempt.endpoint.authority.encode("ascii")))
        return Outgoing(request.data.method, request.data.path, fields, request.raw_content or b"")

    def response(self, head: Head) -> http.Response:
        """Return `head` as the client gets it, framed for the protocol that it speaks."""
        request, fields = self._flow.request, list(head.fields)
        is_http1 = not request.is_http2
        if head.length is not None:
            fields.append((b"content-length", b"%d" % head.length))
        elif is_http1 and head.status not in (204, 304) and request.method != "HEAD":
            if request.http_version == "HTTP/1.1":
                fields.append((b"transfer-encoding", b"chunked"))
            else:
                fields.append((b"connection", b"close"))
        if is_http1 and request.http_version == "HTTP/1.1" and "close" in request.headers.get("connection", "").lower():
            fields.append((b"connection", b"close"))
        return http.Response(
            http_version=b"HTTP/1.1" if is_http1 else b"HTTP/2.0",
            status_code=head.status,
            reason=head.reason if is_http1 else b"",
            headers=http.Headers(fields),
            content=None,
            trailers=None,
            timestamp_start=time.time(),
            timestamp_end=None,
        )

    async def deliver(self, parts: Sequence[Part]) -> None:
        """Pass parts of the answer on to the client."""
        await self._handler.server_event(UpstreamEvent(self.conn, parts))

    @property
    def is_congested(self) -> bool:
        """Tell whether the client is slower than the answer."""
        return self._waiting_bytes() > MAX_WAITING_BYTES

    async def relief(self) -> None:
        """Wait until the client can take more."""
        if self._waiting_in_streams() > MAX_WAITING_BYTES:
            self._relieved = asyncio.get_running_loop().create_future()
            await self._relieved
        else:
            await self._handler.drain_writers()

    def look(self) -> None:
        """Take note that the client has said something: it may have made room."""
        if self._relieved is not None and not self._relieved.done() and self._waiting_in_streams() <= MAX_WAITING_BYTES:
            self._relieved.set_result(None)

    def _waiting_bytes(self) -> int:
        io = self._handler.transports.get(self._handler.client)
        writer = io.writer if io is not None else None
        in_socket = writer.transport.get_write_buffer_size() if isinstance(writer, asyncio.StreamWriter) else 0
        return in_socket + self._waiting_in_streams()

    def _waiting_in_streams(self) -> int:
        """Return how much waits for the windows of HTTP/2: mitmproxy would let it grow without a bound."""
        server = self._governed.connections.get(self._governed.context.client)
        if not isinstance(server, Http2Server):
            return 0
        return sum(len(waiting.data) for waiting in server.h2_conn.stream_buffers.get(self.stream_id, ()))

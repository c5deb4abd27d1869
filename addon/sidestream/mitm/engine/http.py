"""
mitmproxy's HTTP layer, with what no hook can do.

- A governed request goes to the upstream half, which gets its answer (`mitm.engine.upstream`). Only an upgrade to
  WebSocket takes mitmproxy's own way: to a connection that is verified as the policy says, and with a key that is put
  into a copy of the request, so that it never is in the flow that pages, dumps and logs show.
- A request body is held up to a bound.
- Errors that mitmproxy would answer in HTML are answered in OpenAI's shape.
- An exception in a layer ends the client's connection with an error; mitmproxy would leave it waiting.
"""

import copy
import logging
from weakref import WeakKeyDictionary

from mitmproxy import flow as flows
from mitmproxy import http
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.net.http.http1 import assemble_response
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpErrorHook,
    HttpLayer,
    HttpRequestHeadersHook,
    HttpStream,
    SendHttp,
)
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server

from sidestream.core.errors import INTERNAL_ERROR, SHUTTING_DOWN, ClientError, client_error
from sidestream.core.snapshot import Endpoint
from sidestream.mitm.engine.clients import handler_of
from sidestream.mitm.engine.ending import CutOff, NoMoreRequests, is_idle, last_layer, say_goodbye
from sidestream.mitm.engine.faults import fault_of, fault_of_answer
from sidestream.mitm.engine.governor import Governor
from sidestream.mitm.engine.http1 import GovernedHttp1Server, TrailerlessHttp1Client
from sidestream.mitm.engine.http2 import forget_streams, make_http2_server
from sidestream.mitm.engine.upstream import (
    FlowCaller,
    GetUpstream,
    UpstreamEvent,
    UpstreamLayer,
)

logger = logging.getLogger(__name__)

type Commands = layer.CommandGenerator[None]

MULTIPLEXED = (b"h2", b"h3")
"""ALPN names of protocols whose client side is mitmproxy's own."""

endpoints: WeakKeyDictionary[Server, Endpoint] = WeakKeyDictionary()
"""Connections that are opened for a provider → where they go. TLS is set up from it."""


BODY_TOO_LARGE = "Request body exceeds mitmproxy's body_size_limit."
"""What mitmproxy says of a request that is longer than its option allows."""
BEYOND_MAX_BODY = "the request's body is larger than sidestream_max_body allows"


def fork(context: Context) -> Context:
    """Return what `context.fork()` does. That makes a connection and drops it, which is no small part of a call."""
    forked = copy.copy(context)
    forked.layers = context.layers.copy()
    return forked


class GovernedHttpStream(HttpStream):
    """One request and its answer."""

    governor: Governor
    depth = 0
    """How many events it is being told of, one within the other."""

    def let_go(self) -> None:
        """
        Refer to itself no more, once it is over: so it goes now, with its flow and the bodies.

        Otherwise all of it waits for Python's collector.
        """
        self.context.layers.clear()
        self.client_state = self.server_state = _over

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        attempt = self.governor.attempt_of(self.flow)
        if attempt is None:
            assert not self.governor.is_governed(self.flow), "a governed request is sent as planned, or not at all"
            return (yield from super().make_server_connection())
        calling = self.governor.calling(self.flow)
        if calling is not None and "upgrade" not in self.flow.request.headers:
            conn, error = yield GetUpstream(calling, self.flow)
        else:
            conn, error = yield GetProviderConnection(attempt.endpoint)
        if error:
            failure = ResponseProtocolError(self.stream_id, error, ErrorCode.CONNECT_FAILED)
            yield from self.handle_protocol_error(failure)
            return False
        self.context.server = self.flow.server_conn = conn
        return True

    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:  # noqa: FBT001 the signature is mitmproxy's
        if request and self._is_too_large():
            # As mitmproxy does it for its own option, which would also cut what is none of ours.
            if not self.request_body_buf:
                yield HttpRequestHeadersHook(self.flow)
            self.flow.error = flows.Error(BEYOND_MAX_BODY)
            self.governor.note_fault(self.flow, "body_too_large")
            yield HttpErrorHook(self.flow)
            too_large = ResponseProtocolError(self.stream_id, BEYOND_MAX_BODY, ErrorCode.REQUEST_TOO_LARGE)
            yield SendHttp(too_large, self.context.client)
            self.client_state = self.state_errored
            self.flow.live = False
            return True
        return (yield from super().check_body_size(request))

    def _is_too_large(self) -> bool:
        held = len(self.request_body_buf)
        if held:
            length = held
        else:
            written = self.flow.request.headers.get("content-length", "")
            length = int(written) if written.isdecimal() else 0
        limit = self.governor.max_body_bytes(self.flow) if length else None
        return limit is not None and length > limit

    def start_request_stream(self) -> Commands:
        if self.flow.response:
            self.client_state = self.state_consume_request_body  # another addon has answered; mitmproxy would fail
        else:
            yield from super().start_request_stream()

    def handle_connect_regular(self) -> Commands:
        # `lazy` is for policies, whose original address may be dead. For anything else the client
        # is to see whether the host is there, and a server that speaks first must be heard.
        if not self.governor.governs(self.flow.request.host) and not self.flow.response:
            error = yield commands.OpenConnection(self.context.server)
            if error:
                address = f"{self.flow.request.host}:{self.flow.request.port}"
                self.flow.response = http.Response.make(502, f"Cannot connect to {address}: {error}\n")
        yield from super().handle_connect_regular()


def _over(_: events.Event) -> Commands:
    yield from ()


class GetProviderConnection(GetHttpConnection):
    """Open or reuse a connection to `endpoint`, and to no other that has the same address."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__((endpoint.host, endpoint.port), endpoint.tls, None)
        self.endpoint = endpoint

    def connection_spec_matches(self, connection: Connection) -> bool:
        return (
            isinstance(connection, Server)
            and endpoints.get(connection) == self.endpoint
            and super().connection_spec_matches(connection)
        )


class GovernedHttpLayer(HttpLayer):
    """One client connection that speaks HTTP."""

    governor: Governor
    answered: set[int]
    gone: set[Server]
    calls: dict[Connection, FlowCaller]
    has_failed = False

    @classmethod
    def specialise(cls, top: layer.Layer, governor: Governor) -> None:
        """Turn every stock HTTP layer in the chain that starts at `top` into this one."""
        current: layer.Layer | None = top
        while current is not None:
            if type(current) is HttpLayer:
                current.__class__ = cls
                assert isinstance(current, cls)
                current.governor, current.answered, current.gone, current.calls = governor, set(), set(), {}
            current = getattr(current, "child_layer", None)

    def _handle_event(self, event: events.Event) -> Commands:
        if self.has_failed:
            return
        if isinstance(event, events.Start):
            self._make_server()
        try:
            if isinstance(event, UpstreamEvent):
                yield from self._pass_answer(event)
            elif isinstance(event, NoMoreRequests | CutOff):
                yield from self._end(event)
            else:
                yield from super()._handle_event(event)
                self._look_at_calls()
            if isinstance(event, events.ConnectionClosed) and isinstance(event.connection, Server):
                self.gone.add(event.connection)
                self._forget_gone()
            if self.governor.is_ending() and not isinstance(event, events.Start) and is_idle(self):
                yield from say_goodbye(self)
        except Exception:
            logger.exception("a layer failed; the client's connection is closed")
            yield from self._give_up()

    def _make_server(self) -> None:
        if self.context.client.alpn not in MULTIPLEXED:
            server = GovernedHttp1Server(fork(self.context))
            server.max_head_bytes, server.note_refusal = self.governor.max_head_bytes(), self.governor.note_refusal
            server.is_ending = self.governor.is_ending
            self.connections.setdefault(self.context.client, server)
        elif self.context.client.alpn == b"h2":
            multiplexed = make_http2_server(fork(self.context), self.governor.max_head_bytes())
            self.connections.setdefault(self.context.client, multiplexed)

    def _give_up(self) -> Commands:
        self.has_failed = True
        for stream in self.streams.values():
            if (flow := getattr(stream, "flow", None)) is not None:
                self.governor.note_fault(flow, "internal_error")
        for called in self.connections.values():
            if isinstance(called, UpstreamLayer):
                called.cancel()
        conn = self.connections.get(self.context.client)
        if isinstance(conn, Http1Server) and conn.response is None:
            yield commands.SendData(self.context.client, assemble_response(_response(INTERNAL_ERROR, close=True)))
        yield commands.CloseConnection(self.context.client)

    def _pass_answer(self, event: UpstreamEvent) -> Commands:
        child = self.connections.get(event.connection)
        if child is not None:
            yield from self.event_to_child(child, event)
            self._forget_call(event.connection)
            return
        for stream in list(self.streams.values()):
            if stream.child_layer is not None:  # what was asked for is within a tunnel
                yield from self.event_to_child(stream, event)

    def _end(self, event: NoMoreRequests | CutOff) -> Commands:
        for stream in list(self.streams.values()):
            if stream.child_layer is not None and isinstance(last_layer(stream.child_layer), HttpLayer):
                yield from self.event_to_child(stream, event)
        if isinstance(event, NoMoreRequests):
            return
        for caller in list(self.calls.values()):
            if parts := caller.cut_off():
                yield from self._pass_answer(UpstreamEvent(caller.conn, parts))
        server, client = self.connections.get(self.context.client), self.context.client
        is_unanswered = isinstance(server, Http1Server) and server.request is not None and server.response is None
        if is_unanswered and client.state & ConnectionState.CAN_WRITE:
            yield commands.SendData(client, assemble_response(_response(SHUTTING_DOWN, close=True)))
        yield from say_goodbye(self)

    def _look_at_calls(self) -> None:
        for conn, caller in list(self.calls.items()):
            caller.look()
            self._forget_call(conn)

    def _forget_call(self, conn: Connection) -> None:
        called = self.connections.get(conn)
        if isinstance(called, UpstreamLayer) and called.stream_id not in self.streams:
            called.cancel()
            called.context.layers.clear()  # in which it is, so that it goes now
            del self.connections[conn], self.calls[conn]

    def _forget_gone(self) -> None:
        # mitmproxy keeps every connection that a client ever needed, with the last request on it. One that is
        # closed is still to be told so: only after that does nothing more come for it.
        in_use = {stream.context.server for stream in self.streams.values()} | self.waiting_for_establishment.keys()
        for conn in self.gone - in_use:
            if conn.state is ConnectionState.CLOSED:
                self.gone.discard(conn)
                self.connections.pop(conn, None)

    def _forget_streams(self, client: layer.Layer) -> None:
        """Forget the numbers of streams that are over."""
        self.answered &= self.streams.keys()
        if isinstance(client, Http2Server):
            forget_streams(client, self.streams.keys())

    def _drop_stream(self, stream_id: int) -> None:
        """Drop a stream whose client knows that it failed: mitmproxy keeps those that it ends itself, body and call."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.child_layer is None:
            del self.streams[stream_id]

    def make_stream(self, stream_id: int) -> Commands:
        stream = GovernedHttpStream(fork(self.context), stream_id)
        stream.governor = self.governor
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> Commands:
        if isinstance(event, GetUpstream):
            stream = self.command_sources.pop(event)
            assert isinstance(stream, HttpStream)
            handler = handler_of(self.context.client)
            caller = FlowCaller(event.calling, event.flow, stream.stream_id, handler, self)
            self.calls[caller.conn] = caller
            self.connections[caller.conn] = UpstreamLayer(
                fork(self.context), caller.conn, caller, self.governor.upstream()
            )
            yield from self.event_to_child(stream, GetHttpConnectionCompleted(event, (caller.conn, None)))
            return
        for command in super().get_connection(event, reuse=reuse):
            if isinstance(command, commands.OpenConnection) and isinstance(event, GetProviderConnection):
                assert isinstance(command.connection, Server)
                endpoints[command.connection] = event.endpoint
            yield command

    def event_to_child(self, child: layer.Layer, event: events.Event) -> Commands:
        stream = self.streams.get(event.stream_id) if isinstance(event, HttpEvent) else None
        flow = getattr(stream, "flow", None)
        if flow is not None:
            if isinstance(child, UpstreamLayer):
                pass
            elif isinstance(event, RequestHeaders) and child is not stream:
                TrailerlessHttp1Client.specialise(child)
                event = self._on_the_wire(flow, event)
            elif isinstance(event, RequestProtocolError | ResponseProtocolError) and child is stream:
                self.governor.note_fault(flow, fault_of(event))
            elif child is self.connections.get(self.context.client):
                if isinstance(event, ResponseHeaders) and event.response.status_code >= 200:
                    self._forget_streams(child)
                    self.answered.add(event.stream_id)
                elif isinstance(event, ResponseProtocolError) and self._can_answer(flow, event):
                    yield from self._answer(child, flow, event)
                    self._drop_stream(event.stream_id)
                    return
        if isinstance(child, GovernedHttpStream):
            yield from self._event_to_stream(child, event)
            return
        yield from super().event_to_child(child, event)
        if isinstance(event, ResponseProtocolError) and child is self.connections.get(self.context.client):
            self._drop_stream(event.stream_id)

    def _event_to_stream(self, stream: GovernedHttpStream, event: events.Event) -> Commands:
        stream.depth += 1
        yield from super().event_to_child(stream, event)
        stream.depth -= 1
        if not stream.depth and stream._paused is None and stream.stream_id not in self.streams:
            stream.let_go()

    def _on_the_wire(self, flow: http.HTTPFlow, event: RequestHeaders) -> RequestHeaders:
        attempt = self.governor.attempt_of(flow)
        if attempt is None:
            return event
        # A copy: the flow is what pages, dumps and logs show, and the client side still reads its Connection header.
        request = event.request.copy()
        if "upgrade" not in request.headers:
            _drop_connection_headers(request, keep={name for name, _ in attempt.set_headers})
        if attempt.key is not None:
            request.headers["authorization"] = f"Bearer {attempt.key.reveal()}"
        return RequestHeaders(event.stream_id, request, event.end_stream, event.replay_flow)

    def _can_answer(self, flow: http.HTTPFlow, event: ResponseProtocolError) -> bool:
        return (
            event.stream_id not in self.answered
            and bool(self.context.client.state & ConnectionState.CAN_WRITE)
            and event.code.http_status_code() is not None
            and self.governor.is_governed(flow)
        )

    def _answer(self, client: layer.Layer, flow: http.HTTPFlow, event: ResponseProtocolError) -> Commands:
        is_http1 = isinstance(client, Http1Server)
        error = client_error(fault_of_answer(event), event.message)
        assert error is not None, "whom mitmproxy answers is there"
        response = _response(error, close=is_http1)
        following: list[events.Event] = [ResponseHeaders(event.stream_id, response)]
        if flow.request.method != "HEAD":
            following.append(ResponseData(event.stream_id, response.raw_content or b""))
        # After a whole answer, HTTP/1 takes the error as what it is told to do: close.
        following.append(event if is_http1 else ResponseEndOfMessage(event.stream_id))
        self.answered.add(event.stream_id)
        for part in following:
            yield from super().event_to_child(client, part)


def _response(error: ClientError, *, close: bool) -> http.Response:
    headers = {"content-type": "application/json"} | ({"connection": "close"} if close else {})
    return http.Response.make(error.status, error.body(), headers)


def _drop_connection_headers(request: http.Request, keep: set[str]) -> None:
    """Drop `Connection` and the headers it names, which end here (RFC 9110, 7.6.1)."""
    # Whoever names `host` or `content-length` wants to break what comes after us.
    keep = keep | {"host", "content-length", "transfer-encoding"}
    named = request.headers.pop("connection", "").lower().split(",")
    for name in {part.strip() for part in named} - keep:
        request.headers.pop(name, None)

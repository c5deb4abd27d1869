"""
What `mitm.engine` relies on in mitmproxy. When one of these fails, mitmproxy moved: read what
changed before the pin is widened.
"""

import asyncio
import gc
import inspect
from weakref import WeakKeyDictionary

import pytest
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import addonmanager, connection, http
from mitmproxy.addons import default_addons
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS, TlsConfig
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, mode_servers, server
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import _base, _events, _http1, _http2, _http_h2
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.test import tflow
from mitmproxy.tools.web.master import WebMaster
from OpenSSL import SSL

from sidestream.mitm.addon import FORCED_OPTIONS
from sidestream.mitm.engine.http import (
    BODY_TOO_LARGE,
    GetProviderConnection,
    GovernedHttpLayer,
    GovernedHttpStream,
    fork,
)
from sidestream.mitm.engine.http1 import GovernedHttp1Server
from sidestream.mitm.engine.relay import PatientConnectionHandler
from sidestream.mitm.engine.transparent import PatientTransparentProxy, UndecidedLayer
from sidestream.mitm.engine.upstream import UpstreamLayer


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (http_layers.HttpLayer.event_to_child, ["self", "child", "event"]),
        (http_layers.HttpLayer.get_connection, ["self", "event", "reuse"]),
        (http_layers.HttpLayer.make_stream, ["self", "stream_id"]),
        (http_layers.HttpStream.__init__, ["self", "context", "stream_id"]),
        (http_layers.HttpStream.make_server_connection, ["self"]),
        (http_layers.HttpStream.handle_connect_regular, ["self"]),
        (http_layers.HttpStream.handle_protocol_error, ["self", "event"]),
        (http_layers.HttpStream.check_body_size, ["self", "request"]),
        (http_layers.HttpStream.start_request_stream, ["self"]),
        (http_layers.GetHttpConnectionCompleted, ["command", "reply"]),
        (_base.HttpConnection.__init__, ["self", "context", "conn"]),
        (_base.ReceiveHttp, ["event"]),
        (_events.ResponseData, ["stream_id", "data"]),
        (_events.ResponseEndOfMessage, ["stream_id"]),
        (server.ConnectionHandler.server_event, ["self", "event"]),
        (server.ConnectionHandler.drain_writers, ["self"]),
        (ReceiveBuffer.maybe_extract_at_most, ["self", "count"]),
        (_http1.Http1Server.read_headers, ["self", "event"]),
        (_http1.Http1Server.read_body, ["self", "event"]),
        (_http1.Http1Server.wait, ["self", "event"]),
        (_events.RequestHeaders, ["stream_id", "request", "end_stream", "replay_flow"]),
        (_events.ResponseHeaders, ["stream_id", "response", "end_stream"]),
        (_events.ResponseProtocolError, ["stream_id", "message", "code"]),
        (http_layers.GetHttpConnection, ["address", "tls", "via", "transport_protocol"]),
        (layer.NextLayer._ask, ["self"]),
        (server.ConnectionHandler.close_connection, ["self", "connection", "half_close"]),
        (server.ConnectionHandler.on_timeout, ["self"]),
        (commands.RequestWakeup, ["delay"]),
    ],
)
def test_the_signatures_are_the_known_ones(function, names):
    assert parameters(function) == names


@pytest.mark.parametrize(
    ("ours", "stock", "overridden"),
    [
        (
            GovernedHttpLayer,
            http_layers.HttpLayer,
            ["_handle_event", "make_stream", "get_connection", "event_to_child"],
        ),
        (
            GovernedHttpStream,
            http_layers.HttpStream,
            ["make_server_connection", "handle_connect_regular", "check_body_size", "start_request_stream"],
        ),
        (UpstreamLayer, _base.HttpConnection, ["_handle_event"]),
        (GetProviderConnection, http_layers.GetHttpConnection, ["connection_spec_matches"]),
        (GovernedHttp1Server, _http1.Http1Server, ["read_headers", "read_body", "wait"]),
        (PatientTransparentProxy, modes.TransparentProxy, ["_handle_event"]),
        (UndecidedLayer, layer.NextLayer, ["_handle_event", "_ask"]),
        (
            PatientConnectionHandler,
            mode_servers.ProxyConnectionHandler,
            ["server_event", "close_connection", "drain_writers", "on_timeout"],
        ),
    ],
)
def test_what_is_overridden_is_there_to_be_overridden(ours, stock, overridden):
    assert issubclass(ours, stock)
    assert [name for name in overridden if not hasattr(stock, name)] == []
    assert [name for name in overridden if name not in vars(ours)] == []


def test_requests_and_answers_are_routed_by_event_to_child():
    source = inspect.getsource(http_layers.HttpLayer.event_to_child)

    assert "conn = self.connections[command.connection]" in source
    assert "yield from self.event_to_child(conn, command.event)" in source
    assert "yield from self.event_to_child(stream, command.event)" in source


def test_a_connection_is_opened_within_get_connection():
    source = inspect.getsource(http_layers.HttpLayer.get_connection)

    assert "event.connection_spec_matches(connection)" in source
    assert "yield from self.event_to_child(stack[0], events.Start())" in source


# --- where the upstream half joins in --------------------------------------------------------------


def test_a_stream_waits_for_its_connection_until_it_is_told_of_it():
    source = inspect.getsource(http_layers.HttpLayer)

    assert "self.command_sources[command] = child" in source
    assert "yield from self.get_connection(command)" in source
    assert "stream = self.command_sources.pop(event)" in inspect.getsource(http_layers.HttpLayer.get_connection)
    assert http_layers.GetHttpConnection.blocking is True
    assert "connection, err = yield GetHttpConnection(" in inspect.getsource(
        http_layers.HttpStream.make_server_connection
    )


def test_a_layer_begins_without_connections_and_streams():
    top = http_layers.HttpLayer(Context(tflow.tclient_conn(), Options()), http_layers.HTTPMode.regular)

    assert (top.connections, top.streams, top.command_sources) == ({}, {}, {})
    assert top.waiting_for_establishment == {}


def test_a_fork_of_a_context_is_what_mitmproxy_makes(mitmproxy):
    context = Context(tflow.tclient_conn(), mitmproxy.options)
    context.layers = ["a layer"]

    forked = fork(context)

    assert vars(forked) == vars(context.fork())
    forked.layers.append("another")
    assert context.layers == ["a layer"]


def test_a_stream_that_is_over_is_forgotten():
    assert "self.streams.pop(command.stream_id, None)" in inspect.getsource(http_layers.HttpLayer.event_to_child)


def test_a_stream_within_a_tunnel_has_a_child():
    top = http_layers.HttpStream(Context(tflow.tclient_conn(), Options()), 1)

    assert top.child_layer is None
    assert "self.child_layer = layer.NextLayer(self.context)" in inspect.getsource(http_layers.HttpStream)


def test_an_event_of_any_kind_goes_through_a_layer_that_waits():
    source = inspect.getsource(layer.Layer.handle_event)

    assert "self._paused_event_queue.append(event)" in source
    assert layer.Layer(Context(tflow.tclient_conn(), Options()))._paused is None


def test_a_length_is_asked_before_a_body_and_at_each_part_of_it():
    first = inspect.getsource(http_layers.HttpStream.state_wait_for_request_headers)
    later = inspect.getsource(http_layers.HttpStream.state_consume_request_body)

    assert "yield from self.check_body_size(True)" in first
    assert "yield from self.check_body_size(True)" in later
    assert "self.request_body_buf += event.data" in later


def test_what_waits_for_a_window_of_http2_can_be_weighed(mitmproxy):
    top = _http2.Http2Server(Context(tflow.tclient_conn(), mitmproxy.options))

    assert top.h2_conn.stream_buffers.get(1, ()) == ()
    assert "data" in inspect.get_annotations(_http_h2.SendH2Data)


def test_what_http2_keeps_and_how_much_of_a_head_it_reads_are_as_known(mitmproxy):
    top = _http2.Http2Server(Context(tflow.tclient_conn(), mitmproxy.options))

    assert top.streams == {}
    assert top.h2_conn.decoder.max_header_list_size == top.h2_conn.local_settings.max_header_list_size == 64 * 1024
    assert "for stream_id in self.streams" in inspect.getsource(_http2.Http2Connection.close_connection)


def test_what_a_layer_is_told_is_carried_out_before_server_event_returns():
    source = inspect.getsource(server.ConnectionHandler.server_event)

    assert "async with self._server_event_lock" in source
    assert "layer_commands = self.layer.handle_event(event)" in source


def test_what_is_taken_out_of_a_buffer_is_gone_and_nothing_is_taken_of_nothing():
    buffer = ReceiveBuffer()
    buffer += b"\r\nGET"

    assert buffer.maybe_extract_at_most(0) is None
    assert bytes(buffer.maybe_extract_at_most(2)) == b"\r\n"
    assert bytes(buffer) == b"GET"


def test_the_client_side_of_a_connection_may_be_set_beforehand():
    assert "self.connections.setdefault(self.context.client, http_conn)" in inspect.getsource(
        http_layers.HttpLayer._handle_event
    )


def test_every_error_code_that_has_a_status_is_one_that_clients_are_told_of():
    statuses = {code.http_status_code() for code in _events.ErrorCode}

    assert statuses == {None, 400, 413, 502}


def test_only_one_layer_is_paused_by_its_command():
    assert "command.blocking = self" in inspect.getsource(layer.Layer)


def test_a_server_connection_tells_how_far_it_came():
    conn = connection.Server(address=("192.0.2.1", 80))

    assert (conn.timestamp_start, conn.timestamp_tcp_setup, conn.error) == (None, None, None)
    assert "command.connection.timestamp_start = time.time()" in inspect.getsource(
        server.ConnectionHandler.open_connection
    )


def test_the_handler_of_a_client_is_found_before_it_starts():
    source = inspect.getsource(server.ConnectionHandler)

    assert "self.max_conns[command.connection.address]" in source
    assert "handler" in parameters(Proxyserver.register_connection)
    assert "connections" in inspect.getsource(Proxyserver.__init__)


def test_a_connection_that_breaks_off_is_read_to_its_end_like_others():
    source = inspect.getsource(server.ConnectionHandler.handle_connection)

    assert "data = await reader.read(65535)" in source
    assert "except OSError:\n                break" in source
    assert "await self.server_event(events.ConnectionClosed(connection))" in source
    assert "await self.drain_writers()" in source
    assert "writer.close()" in source


async def test_a_reader_remembers_what_broke_it_off():
    reader = asyncio.StreamReader()
    reader.set_exception(failure := ConnectionResetError())

    assert reader.exception() is failure
    assert (reader._exception, reader._buffer, reader._eof, reader._transport) == (failure, b"", False, None)


def test_a_reader_is_told_what_broke_it_off_while_its_socket_is_open():
    lost = inspect.getsource(asyncio.selector_events._SelectorTransport._call_connection_lost)
    told = inspect.getsource(asyncio.StreamReaderProtocol.connection_lost)

    assert lost.index("self._protocol.connection_lost(exc)") < lost.index("self._sock.close()")
    assert "reader.set_exception(exc)" in told
    assert told.index("reader.set_exception(exc)") < told.index("super().connection_lost(exc)")


def test_a_connection_is_read_by_its_own_task():
    source = inspect.getsource(server.ConnectionHandler)

    assert "self.transports[self.client].handler = handler" in source
    assert "handler=asyncio.current_task()" in source
    assert "self.close_connection(command.connection, False)" in source


def test_addons_are_asked_in_the_order_of_the_chain():
    assert "for i in self.chain" in inspect.getsource(addonmanager.AddonManager.trigger_event)


def test_tls_that_an_addon_set_up_is_taken():
    assert "if tls_start.ssl_conn is not None:\n            return" in inspect.getsource(TlsConfig.tls_start_server)


@pytest.mark.parametrize(
    "name",
    [
        "SSL_get0_param",
        "X509_VERIFY_PARAM_set_hostflags",
        "X509_VERIFY_PARAM_set1_host",
        "X509_VERIFY_PARAM_set1_ip",
    ],
)
def test_openssl_verifies_names(name):
    assert hasattr(SSL._lib, name)
    assert DEFAULT_HOSTFLAGS


def test_a_copied_request_is_another_request():
    request = http.Request.make("POST", "http://dashscope.aliyuncs.com/", b"{}")

    request.copy().headers["authorization"] = "Bearer sk-marker"

    assert "authorization" not in request.headers


def test_events_are_told_apart_by_their_type():
    assert issubclass(_events.RequestProtocolError, _events.HttpEvent)
    assert not issubclass(_events.HttpEvent, events.ConnectionEvent)


# --- the client's side of HTTP/1 -------------------------------------------------------------------


def drive_http1(content):
    """Say `content` to mitmproxy's own server side of HTTP/1; return the commands that it gives."""
    top = _http1.Http1Server(Context(tflow.tclient_conn(), Options()))
    list(top.handle_event(events.Start()))
    return top, list(top.handle_event(events.DataReceived(top.conn, content)))


def test_a_head_that_cannot_be_read_is_answered_before_anything_else_is_said_of_it():
    _, without_request = drive_http1(b"no HTTP\r\n\r\n")
    _, with_request = drive_http1(b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n")

    assert list(map(type, without_request)) == [commands.SendData, commands.CloseConnection, commands.Log]
    assert list(map(type, with_request)) == [commands.SendData, commands.CloseConnection, ReceiveHttp, ReceiveHttp]
    assert type(with_request[-1].event) is _events.RequestProtocolError


def test_what_is_read_is_kept_where_it_is_looked_for():
    top, _ = drive_http1(b"GET / HTTP/1.1\r\ncontent-length: 5\r\n\r\n")

    assert (top.request.method, top.response, top.state) == ("GET", None, top.read_body)
    assert callable(top.body_reader)
    assert callable(top.body_reader.read_eof)
    assert callable(top.done)


def test_trailers_still_are_what_mitmproxy_fails_on():
    with pytest.raises(NotImplementedError):
        drive_http1(b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n")


def test_a_request_that_is_too_long_is_called_that():
    assert "body exceeds mitmproxy's body_size_limit." in inspect.getsource(http_layers.HttpStream.check_body_size)
    assert BODY_TOO_LARGE == "Request body exceeds mitmproxy's body_size_limit."


# --- what is reached into --------------------------------------------------------------------------


def test_the_error_codes_are_the_known_ones():
    assert {code.name for code in _events.ErrorCode if code.http_status_code() == 502} == {
        "CONNECT_FAILED",
        "GENERIC_SERVER_ERROR",
        "RESPONSE_VALIDATION_FAILED",
        "RESPONSE_TOO_LARGE",
    }
    assert {code.name for code in _events.ErrorCode if code.http_status_code() is None} == {
        "PASSTHROUGH_CLOSE",
        "KILL",
        "HTTP_1_1_REQUIRED",
        "CLIENT_DISCONNECTED",
        "CANCEL",
    }


def test_options_that_are_forced_or_refused_are_there(mitmproxy):
    assert not mitmproxy.options.proxy_debug
    for name, value in FORCED_OPTIONS.items():
        assert getattr(mitmproxy.options, name) != value  # or there would be nothing to force


def test_a_connections_handler_has_what_is_looked_at():
    annotations = inspect.get_annotations(server.ConnectionHandler)

    assert {"transports", "max_conns", "layer"} <= annotations.keys()
    assert {"handler", "reader", "writer"} <= inspect.get_annotations(server.ConnectionIO).keys()
    assert isinstance(Proxyserver().connections, dict)


def test_a_server_connection_can_be_remembered_without_being_kept():
    remembered = WeakKeyDictionary({connection.Server(address=("192.0.2.1", 80)): "endpoint"})

    gc.collect()

    assert len(remembered) == 0


def test_scripts_are_asked_before_the_pages_show_anything():
    names = [type(addon).__name__ for addon in default_addons()]
    source = inspect.getsource(WebMaster.__init__)

    assert "ScriptLoader" in names
    assert source.index("*addons.default_addons()") < source.index("self.view,")


def test_what_clients_said_is_logged_by_one_logger():
    assert server.logger.name == "mitmproxy.proxy.server"
    assert "self.log(command.message, command.level)" in inspect.getsource(server.ConnectionHandler.server_event)


def test_a_connection_that_was_not_redirected_is_logged_as_an_error():
    assert 'logger.error(f"Transparent mode failure: {e!r}")' in inspect.getsource(mode_servers)

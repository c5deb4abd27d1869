"""
What `mitm.engine` relies on in mitmproxy. When one of these fails, mitmproxy moved: read what
changed before the pin is widened.
"""

import inspect

import pytest
from mitmproxy import addonmanager, connection, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS, TlsConfig
from mitmproxy.proxy import commands, events, layer, server
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import _events, _http1
from OpenSSL import SSL

from sidestream.mitm.engine.http import GetProviderConnection, GovernedHttpLayer, GovernedHttpStream
from sidestream.mitm.engine.http1 import GovernedHttp1Server
from sidestream.mitm.engine.transparent import PatientTransparentProxy, UndecidedLayer


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
        (_http1.Http1Server.read_headers, ["self", "event"]),
        (_http1.Http1Server.read_body, ["self", "event"]),
        (_events.RequestHeaders, ["stream_id", "request", "end_stream", "replay_flow"]),
        (_events.ResponseHeaders, ["stream_id", "response", "end_stream"]),
        (_events.ResponseProtocolError, ["stream_id", "message", "code"]),
        (http_layers.GetHttpConnection, ["address", "tls", "via", "transport_protocol"]),
        (layer.NextLayer._ask, ["self"]),
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
        (GovernedHttpStream, http_layers.HttpStream, ["make_server_connection", "handle_connect_regular"]),
        (GetProviderConnection, http_layers.GetHttpConnection, ["connection_spec_matches"]),
        (GovernedHttp1Server, _http1.Http1Server, ["read_headers", "read_body"]),
        (PatientTransparentProxy, modes.TransparentProxy, ["_handle_event"]),
        (UndecidedLayer, layer.NextLayer, ["_handle_event", "_ask"]),
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

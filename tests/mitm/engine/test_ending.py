"""How connections end when the proxy does: which layer is asked, and when nothing is under way."""

import pytest
from hyperframe.frame import GoAwayFrame
from mitmproxy.connection import ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.proxy.layers.http._http_h2 import SendH2Data
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from sidestream.mitm.engine.ending import is_idle, last_layer, say_goodbye
from sidestream.mitm.engine.handling import HooksAtOnce
from sidestream.mitm.engine.http1 import GovernedHttp1Server
from sidestream.mitm.engine.transparent import PatientTransparentProxy
from tests.mitm.driver import Drive

REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture
def context(mitmproxy):
    made = Context(tflow.tclient_conn(), mitmproxy.options)
    made.server.address = ("192.0.2.1", 80)
    made.options.connection_strategy = "lazy"
    return made


def regular(context):
    return modes.HttpProxy(context)


def reverse(context):
    context.client.proxy_mode = ProxyMode.parse("reverse:http://a.test")
    return modes.ReverseProxy(context)


def transparent(context):
    top = modes.TransparentProxy(context)
    PatientTransparentProxy.specialise(top)
    return top


@pytest.mark.parametrize("make", [regular, reverse, transparent])
def test_what_has_said_nothing_ends_in_a_layer_that_is_undecided(context, make):
    top = HooksAtOnce(None, make(context))

    list(top.handle_event(events.Start()))

    assert isinstance(last_layer(top), layer.NextLayer)


@pytest.mark.parametrize("make", [regular, reverse, transparent])
@pytest.mark.parametrize("choose", [lambda given: layers.HttpLayer(given, HTTPMode.transparent), layers.TCPLayer])
def test_what_was_chosen_is_the_last(context, make, choose):
    top, chosen = make(context), []

    def next_layer(undecided):
        undecided.layer = choose(undecided.context)
        chosen.append(undecided.layer)

    Drive(top, {"next_layer": next_layer}).start().say(REQUEST)

    assert [last_layer(top)] == chosen


@pytest.mark.parametrize(("said", "wanted"), [(b"", True), (b"GET", False), (REQUEST, False)])
def test_a_connection_is_idle_until_a_request_begins(said, wanted):
    server = GovernedHttp1Server(Context(tflow.tclient_conn(), Options()))
    list(server.handle_event(events.Start()))
    list(server.handle_event(events.DataReceived(server.conn, said)))

    assert server.is_idle == wanted


def http2_layer(context):
    """Return a layer whose client speaks HTTP/2, and what speaks with it."""
    top = layers.HttpLayer(context, HTTPMode.transparent)
    server = top.connections[context.client] = Http2Server(context)
    server.h2_conn.initiate_connection()
    server.h2_conn.data_to_send()
    return top, server


def test_a_client_of_http2_is_told_which_of_its_requests_were_seen(context):
    top, _ = http2_layer(context)

    goodbye, closing = say_goodbye(top)

    assert goodbye.data[3:4] == bytes([GoAwayFrame.type])
    assert isinstance(closing, commands.CloseConnection)


def test_nothing_is_said_on_a_connection_that_is_closed(context):
    context.client.state = ConnectionState.CLOSED
    top, _ = http2_layer(context)

    assert list(say_goodbye(top)) == []


def test_a_connection_of_http2_is_idle_when_no_stream_is_left_and_no_answer_waits_for_room(context):
    top, server = http2_layer(context)
    seen = [is_idle(top)]
    server.h2_conn.stream_buffers[1].append(SendH2Data(b"rest", end_stream=True))
    seen.append(is_idle(top))
    server.h2_conn.stream_buffers.clear()
    top.streams[1] = None
    seen.append(is_idle(top))

    assert seen == [True, False, False]

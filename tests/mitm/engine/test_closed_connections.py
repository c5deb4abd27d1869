"""What a client's connection keeps of the provider connections that it needed."""

from types import SimpleNamespace

from mitmproxy.connection import ConnectionState, Server

from sidestream.mitm.engine.http import GovernedHttpLayer


def make_server(state):
    server = Server(address=("192.0.2.1", 443))
    server.state = state
    return server


def make_layer(*servers, used_by_streams=()):
    streams = {number: SimpleNamespace(context=SimpleNamespace(server=server)) for number, server in used_by_streams}
    layer = GovernedHttpLayer.__new__(GovernedHttpLayer)
    layer.connections = dict.fromkeys(servers, "layer")
    layer.streams, layer.waiting_for_establishment = streams, {}
    layer.gone = set()
    return layer


def test_a_closed_connection_is_forgotten_and_an_open_one_is_kept():
    closed, opened = make_server(ConnectionState.CLOSED), make_server(ConnectionState.OPEN)
    layer = make_layer(closed, opened)
    layer.gone = {closed, opened}

    layer._forget_gone()

    assert list(layer.connections) == [opened]


def test_a_closed_connection_that_a_stream_still_has_is_kept():
    closed = make_server(ConnectionState.CLOSED)
    layer = make_layer(closed, used_by_streams=[(5, closed)])
    layer.gone = {closed}

    layer._forget_gone()

    assert list(layer.connections) == [closed]


def test_a_closed_connection_that_was_not_told_so_is_kept():
    closed = make_server(ConnectionState.CLOSED)
    layer = make_layer(closed)

    layer._forget_gone()

    assert list(layer.connections) == [closed]

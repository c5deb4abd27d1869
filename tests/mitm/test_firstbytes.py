"""What becomes of a connection, told from its first bytes. tests/transparent has real ones."""

import ssl

import pytest
from mitmproxy import exceptions
from mitmproxy.options import Options
from mitmproxy.proxy import events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from sidestream.core.snapshot import Snapshot
from sidestream.mitm.engine.transparent import UndecidedLayer
from sidestream.mitm.firstbytes import choose_layer, coverage_of

HOST = "dashscope.aliyuncs.com"
SNAPSHOT = Snapshot("test", {HOST: None})
STOCK = "what the stock addon chooses"

HEAD = b"POST / HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"
OTHER_HEAD = HEAD.replace(HOST.encode(), b"other.example")
CLIENT_HELLO = b"\x16\x03\x01\x00\x05hello"


def make_undecided(data=b"", *, mode="transparent", kind=layer.NextLayer, server_data=b"", protocol="tcp"):
    client, server = tflow.tclient_conn(), tflow.tserver_conn()
    client.proxy_mode, client.transport_protocol = ProxyMode.parse(mode), protocol
    server.timestamp_start = server.timestamp_tcp_setup = server.error = None
    server.address = None if mode == "regular" else ("192.0.2.7", 80)
    context = Context(client, Options())
    context.server = server
    undecided = kind(context)
    for conn, said in ((client, data), (server, server_data)):
        if said:
            undecided.events.append(events.DataReceived(conn, said))
    return undecided


def choose(undecided, *, intercept_tls=False):
    """Return what was chosen: `STOCK`, or a layer."""
    asked = []
    choose_layer(undecided, SNAPSHOT, intercept_tls=intercept_tls, stock=asked.append)
    return STOCK if asked else undecided.layer


def test_a_head_that_names_a_policys_host_is_read():
    assert choose(make_undecided(HEAD)) == STOCK


@pytest.mark.parametrize(
    "data",
    [
        OTHER_HEAD,
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET key\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"SSH-2.0-client\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["another host", "no host", "memcached", "redis", "postgres", "ssh", "h2c"],
)
def test_anything_else_is_passed_through(data):
    chosen = choose(make_undecided(data))

    assert isinstance(chosen, layers.TCPLayer)
    assert chosen.flow is None  # ignored: nothing is kept of it


@pytest.mark.parametrize("length", range(len(HEAD) - 1))
def test_a_head_that_is_not_complete_waits_for_the_rest(length):
    with pytest.raises(exceptions.AddonHalt):
        choose(make_undecided(HEAD[: length + 1]))


def test_a_head_that_will_never_be_complete_is_passed_through():
    undecided = make_undecided(HEAD[:-2], kind=UndecidedLayer)
    undecided.complete = True

    assert isinstance(choose(undecided), layers.TCPLayer)


def test_a_server_that_speaks_first_is_passed_through():
    assert isinstance(choose(make_undecided(HEAD, server_data=b"220 ready\r\n")), layers.TCPLayer)


def test_tls_is_passed_through_unless_it_is_to_be_read():
    assert isinstance(choose(make_undecided(CLIENT_HELLO)), layers.TCPLayer)


@pytest.mark.parametrize("mode", ["regular", "reverse:http://demo-llm-server"])
@pytest.mark.parametrize("data", [HEAD, OTHER_HEAD, CLIENT_HELLO, b"GET"])
def test_a_proxy_that_was_asked_for_by_name_reads_all(mode, data):
    assert choose(make_undecided(data, mode=mode)) == STOCK


def test_datagrams_are_passed_through_where_they_were_redirected():
    assert isinstance(choose(make_undecided(b"\xc0", mode="local", protocol="udp")), layers.UDPLayer)


def test_a_destination_that_is_being_opened_is_waited_for():
    undecided = make_undecided(b"SSH-2.0-client\r\n")
    undecided.context.server.timestamp_start = 1.0

    with pytest.raises(exceptions.AddonHalt):
        choose(undecided)


def client_hello(name):
    """Return what a TLS client says first to the server `name`."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def covered(data, *, intercept_tls=False, mode="transparent"):
    undecided = make_undecided(data, mode=mode)
    if choose(undecided, intercept_tls=intercept_tls) == STOCK:
        undecided.layer = layers.HttpLayer(undecided.context, HTTPMode.transparent)
    return coverage_of(undecided, SNAPSHOT, intercept_tls=intercept_tls)


@pytest.mark.parametrize(
    ("data", "intercept_tls", "coverage"),
    [
        (HEAD, False, "governed"),
        (client_hello(HOST), True, "governed"),
        (client_hello(HOST), False, "no_interception"),
        (OTHER_HEAD.replace(b"other.example", b"api.deepseek.com"), False, "unknown_host"),
        (client_hello("api.openai.com"), True, "unknown_host"),
        (client_hello("api.openai.com"), False, "unknown_host"),
        (client_hello("other.example"), True, None),
        (OTHER_HEAD, False, None),
        (b"SSH-2.0-client\r\n", False, None),
        (CLIENT_HELLO, False, None),
    ],
)
def test_traffic_that_looks_like_an_llms_is_told_by_what_became_of_it(data, intercept_tls, coverage):
    assert covered(data, intercept_tls=intercept_tls) == coverage


def test_what_was_not_redirected_is_not_told():
    assert covered(HEAD, mode="regular") is None

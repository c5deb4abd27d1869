"""The HTTP layer, fed without sockets: what goes to a provider, and what a client is told."""

import json

import pytest
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from sidestream.core.secret import Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig, Provider, Snapshot
from sidestream.mitm.current import Current
from sidestream.mitm.engine.http import GovernedHttpLayer, GovernedHttpStream
from sidestream.mitm.requests import RequestHooks
from sidestream.mitm.runtime import Runtime, Settings
from tests.mitm.driver import Drive

KEY = "sk-marker-engine"
CLIENT_KEY = "sk-marker-clients"


def make_provider(host, port=8000, key=KEY):
    endpoint = Endpoint("192.0.2.7", port, host, tls=False)
    config = OpenAIConfig(model="m-1", key=Secret(key) if key else None)
    return Provider(f"default/{host}", host, endpoint, "/v1/chat/completions", config)


class Source:
    def __init__(self, *providers):
        self.snapshot = Snapshot("test", {provider.host: provider for provider in providers})


@pytest.fixture
def drive(mitmproxy):
    """A client's connection, in regular mode, with all hooks of requests. `records` and `flows`: what came of it."""
    current, records, flows = Current(), [], []
    current.settings = Settings(policies="test")
    providers = (make_provider("a.test"), make_provider("also-a.test"), make_provider("b.test", 8001))
    current.runtime = Runtime(Source(*providers), (records.append,))
    hooks = RequestHooks(current)
    client = tflow.tclient_conn()
    client.proxy_mode = ProxyMode.parse("regular")
    context = Context(client, mitmproxy.options)
    top = HttpLayer(context, HTTPMode.regular)
    GovernedHttpLayer.specialise(top, hooks)
    drive = Drive(top)
    drive.hooks = {name: getattr(hooks, name) for name in ("request", "responseheaders", "response", "error")}
    drive.hooks["requestheaders"] = lambda flow: (flows.append(flow), hooks.requestheaders(flow))
    drive.current, drive.records, drive.flows = current, records, flows
    return drive.start()


def request(host="a.test", *lines, body=b'{"messages": []}'):
    head = [f"POST http://{host}/ HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def answer(body=b"{}"):
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def test_the_key_is_on_the_wire_and_never_in_the_flow(drive):
    drive.say(request("a.test", f"authorization: Bearer {CLIENT_KEY}"))

    [provider] = drive.opened
    [flow] = drive.flows
    assert drive.sent[provider].count(f"authorization: Bearer {KEY}\r\n".encode()) == 1
    assert CLIENT_KEY.encode() not in drive.sent[provider]
    assert flow.request.headers["authorization"] == "Bearer [redacted]"
    assert KEY not in repr(flow.get_state())


def test_what_a_client_says_of_its_own_connection_stays_here(drive):
    drive.say(request("a.test", "connection: close, x-hop, host, content-length", "x-hop: 1", "x-other: 1"))
    [provider] = drive.opened
    drive.say(answer(), provider)

    sent = drive.sent[provider].lower()
    assert b"connection" not in sent
    assert b"x-hop" not in sent
    assert b"x-other: 1" in sent
    assert b"host: a.test" in sent
    assert b"content-length: " in sent
    assert drive.client in drive.closed  # it is for us to close


def test_a_connection_is_used_again_for_the_same_endpoint_only(drive):
    for host in ("a.test", "b.test", "a.test"):
        drive.say(request(host))
        drive.say(answer(), drive.opened[-1] if host == "b.test" else drive.opened[0])

    assert [conn.address for conn in drive.opened] == [("192.0.2.7", 8000), ("192.0.2.7", 8001)]


def test_two_providers_at_one_address_do_not_share_a_connection(drive):
    for host in ("a.test", "also-a.test"):
        drive.say(request(host))
        drive.say(answer(), drive.opened[-1])

    assert len(drive.opened) == 2


def test_a_provider_that_cannot_be_reached_is_an_error_in_openais_shape(drive):
    drive.failure = "refused"

    drive.say(request())

    head, _, body = drive.sent[drive.client].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["error"]["code"] == "provider_unreachable"
    assert [(record.status, record.error) for record in drive.records] == [(502, "provider_unreachable")]
    assert drive.records[0].bytes_out == len(body)


@pytest.mark.parametrize(
    "said", [b"", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", answer()[:-1]]
)
def test_a_provider_that_breaks_off_is_an_error_in_openais_shape(drive, said):
    drive.say(request())
    [provider] = drive.opened
    if said:
        drive.say(said, provider)
    if provider not in drive.closed:
        drive.leave(provider)

    head, _, body = drive.sent[drive.client].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["error"]["code"] == "provider_failed"
    assert [(record.status, record.error) for record in drive.records] == [(502, "provider_failed")]


def test_the_error_keeps_its_shape_when_the_policy_is_gone_meanwhile(drive):
    drive.say(request())
    drive.current.runtime = Runtime(Source(), drive.current.runtime.sinks)
    drive.leave(drive.opened[0])

    assert b'"code": "provider_failed"' in drive.sent[drive.client]


def test_a_client_that_leaves_takes_the_providers_connection_with_it(drive):
    drive.say(request())

    drive.leave()

    assert drive.opened[0] in drive.closed
    assert [record.error for record in drive.records] == ["client_disconnected"]


@pytest.mark.parametrize("method", ["make_server_connection", "state_wait_for_response_headers"])
def test_a_bug_in_a_layer_is_an_error_and_not_silence(drive, monkeypatch, caplog, method):
    def fail(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(GovernedHttpStream, method, fail)

    drive.say(request())
    for provider in drive.opened:
        drive.say(answer(), provider)
    drive.leave()

    assert drive.sent[drive.client].count(b"HTTP/1.1 500 ") == 1
    assert b'"code": "internal_error"' in drive.sent[drive.client]
    assert b"a bug of ours" not in drive.sent[drive.client]
    assert drive.client in drive.closed
    assert "a bug of ours" in caplog.text


def test_a_host_that_no_policy_names_goes_where_it_was_going(drive):
    drive.say(request("other.test:81", f"authorization: Bearer {CLIENT_KEY}", "connection: keep-alive"))

    [server] = drive.opened
    assert server.address == ("other.test", 81)
    assert f"authorization: Bearer {CLIENT_KEY}".encode() in drive.sent[server]
    assert b"connection: keep-alive" in drive.sent[server]
    assert drive.records == []

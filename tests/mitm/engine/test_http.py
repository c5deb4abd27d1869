"""The HTTP layer, fed without sockets: what goes to a provider, and what a client is told."""

import asyncio
import functools
import json

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow, tutils

from sidestream.core.calls import Broken, End, Head
from sidestream.core.secret import Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig, Provider, Snapshot
from sidestream.mitm.current import Current
from sidestream.mitm.engine import http as engine
from sidestream.mitm.engine.http import BEYOND_MAX_BODY, GovernedHttpLayer, GovernedHttpStream
from sidestream.mitm.requests import RequestHooks
from sidestream.mitm.runtime import Runtime, Settings
from tests.mitm.driver import Drive, FakeHandler, FakeUpstream, finish

KEY = "sk-marker-engine"
CLIENT_KEY = "sk-marker-clients"


def make_provider(host, port=8000, *, tls=False):
    endpoint = Endpoint("192.0.2.7", port, host, tls=tls, server_name=host if tls else "")
    config = OpenAIConfig(model="m-1", key=Secret(KEY))
    return Provider(f"default/{host}", host, endpoint, "/v1/chat/completions", config)


class Source:
    def __init__(self, *providers):
        self.snapshot = Snapshot("test", {provider.host: provider for provider in providers})


@pytest.fixture
def upstream():
    return FakeUpstream()


@pytest.fixture
def quiet(mitmproxy, monkeypatch, upstream):
    """
    A client's connection that has not begun, in regular mode, with all hooks of requests.

    `records` and `flows`: what came of it.
    """
    current, records, flows = Current(), [], []
    current.settings = Settings(policies="test", max_body_bytes=1000, max_exchanges=3)
    providers = (
        make_provider("a.test"),
        make_provider("also-a.test"),
        make_provider("b.test", 8001),
        make_provider("tls.test", 8443, tls=True),
    )
    current.runtime = Runtime(Source(*providers), (records.append,), upstream)
    hooks = RequestHooks(current)
    client = tflow.tclient_conn()
    client.proxy_mode = ProxyMode.parse("regular")
    context = Context(client, mitmproxy.options)
    top = HttpLayer(context, HTTPMode.regular)
    GovernedHttpLayer.specialise(top, hooks)
    drive = Drive(top)
    drive.hooks = {name: getattr(hooks, name) for name in ("request", "responseheaders", "response", "error")}
    drive.hooks["requestheaders"] = lambda flow: (flows.append(flow), hooks.requestheaders(flow))
    drive.current, drive.records, drive.flows, drive.handler = current, records, flows, FakeHandler(drive)
    monkeypatch.setattr(engine, "handler_of", lambda _: drive.handler)
    return drive


@pytest.fixture
def drive(quiet):
    """The connection of a client of HTTP/1."""
    return quiet.start()


def request(host="a.test", *lines, body=b'{"messages": []}', version="1.1"):
    head = [f"POST http://{host}/ HTTP/{version}", f"host: {host}", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


UPGRADE = ("connection: upgrade", "upgrade: websocket")
"""Headers of a request that takes mitmproxy's own way to the provider."""
STREAM = Head(200, b"OK", [(b"content-type", b"text/event-stream")], None)


def whole(body=b"{}", status=200):
    """Return an answer as the upstream half delivers it."""
    return Head(status, b"OK", [(b"content-type", b"application/json")], len(body)), body, End.END


def answer(body=b"{}"):
    """Return an answer as a provider sends it."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def told(drive):
    """Return what the client was told last: the head in lower case, and the body."""
    head, _, body = drive.sent[drive.client].rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    return head.lower(), body


# --- a governed request ----------------------------------------------------------------------------


def test_a_governed_request_is_handed_to_the_upstream_half_and_opens_nothing(drive, upstream):
    drive.say(request("a.test", f"authorization: Bearer {CLIENT_KEY}"))

    [(attempt, outgoing)] = upstream.outgoing
    fields = dict(outgoing.fields)
    assert drive.opened == []
    assert (outgoing.method, outgoing.target, fields[b"Host"]) == (b"POST", b"/v1/chat/completions", b"a.test")
    assert json.loads(outgoing.body) == {"messages": [], "model": "m-1"}
    assert attempt.key.reveal() == KEY


def test_the_key_is_in_the_attempt_and_never_in_the_flow(drive, upstream):
    drive.say(request("a.test", f"authorization: Bearer {CLIENT_KEY}", f"x-api-key: {CLIENT_KEY}"))

    [(_, outgoing)] = upstream.outgoing
    [flow] = drive.flows
    assert flow.request.headers["authorization"] == "Bearer [redacted]"
    for shown in (repr(flow.get_state()), str(outgoing.fields), repr(drive.top.calls), repr(upstream.callers)):
        assert KEY not in shown
        assert CLIENT_KEY not in shown


def test_an_answer_goes_to_the_client_and_into_the_record(drive, upstream):
    drive.say(request())

    upstream.deliver(*whole(b'{"model": "m-1"}'))

    head, body = told(drive)
    [record] = drive.records
    assert head.startswith(b"200 ok\r\n")
    assert b"content-length: 16" in head
    assert body == b'{"model": "m-1"}'
    assert (record.status, record.error, record.bytes_out) == (200, None, 16)
    assert [attempt.provider for attempt in record.attempts] == ["default/a.test"]


def test_an_answer_of_no_known_length_comes_in_chunks_as_it_comes(drive, upstream):
    drive.say(request())

    upstream.deliver(STREAM)
    upstream.deliver(b"data: 1\n\n")
    before = told(drive)
    upstream.deliver(b"data: [DONE]\n\n", End.END)

    assert b"transfer-encoding: chunked" in before[0]
    assert before[1] == b"9\r\ndata: 1\n\n\r\n"
    assert told(drive)[1] == b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    assert drive.client not in drive.closed


@pytest.mark.parametrize(
    ("head", "lines", "version", "framing"),
    [
        (STREAM, (), "1.0", b"connection: close"),
        (STREAM, ("connection: close",), "1.1", b"connection: close"),
        (whole()[0], ("connection: close",), "1.1", b"connection: close"),
    ],
)
def test_a_connection_that_is_not_to_be_kept_is_closed_after_the_answer(drive, upstream, head, lines, version, framing):
    drive.say(request("a.test", *lines, version=version))

    upstream.deliver(head, b"{}", End.END)

    assert framing in told(drive)[0]
    assert drive.client in drive.closed


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_is_not_framed(drive, upstream, status):
    drive.say(request())

    upstream.deliver(Head(status, b"None", [], None), End.END)

    head, body = told(drive)
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert body == b""


def test_one_connection_of_a_client_serves_one_exchange_after_the_other(drive, upstream):
    for host in ("a.test", "b.test", "a.test"):
        drive.say(request(host))
        upstream.deliver(*whole())

    assert [attempt.endpoint.port for attempt, _ in upstream.outgoing] == [8000, 8001, 8000]
    assert [record.status for record in drive.records] == [200] * 3
    assert drive.client not in drive.closed


def test_nothing_is_kept_of_a_call_that_is_over(drive, upstream):
    for _ in range(3):
        drive.say(request())
        upstream.deliver(*whole())

    assert drive.top.calls == {}
    assert drive.top.streams == {}
    assert len(drive.top.answered) == 1
    assert set(drive.top.connections) == {drive.client}


@pytest.mark.parametrize(
    ("fault", "status"), [("provider_unreachable", 502), ("provider_timeout", 504), ("provider_failed", 502)]
)
def test_no_answer_is_an_error_in_openais_shape(drive, upstream, fault, status):
    drive.say(request())

    upstream.deliver(Broken(fault, "it failed in a test"))

    head, body = told(drive)
    assert head.startswith(b"%d " % status)
    assert json.loads(body)["error"]["code"] == fault
    assert json.loads(body)["error"]["message"].endswith("it failed in a test")
    assert [(record.status, record.error) for record in drive.records] == [(status, fault)]
    assert drive.records[0].bytes_out == len(body)


def test_an_answer_that_breaks_off_ends_without_its_end(drive, upstream):
    drive.say(request())
    upstream.deliver(STREAM, b"data: 1\n\n")

    upstream.deliver(Broken("provider_failed", "it hung up"))

    assert drive.sent[drive.client].count(b"HTTP/1.1 ") == 1
    assert not drive.sent[drive.client].endswith(b"0\r\n\r\n")
    assert drive.client in drive.closed
    assert [(record.status, record.error) for record in drive.records] == [(200, "provider_failed")]


def test_the_error_keeps_its_shape_when_the_policy_is_gone_meanwhile(drive, upstream):
    drive.say(request())
    drive.current.runtime = Runtime(Source(), drive.current.runtime.sinks, FakeUpstream())

    upstream.deliver(Broken("provider_failed", "it hung up"))

    assert b'"code": "provider_failed"' in drive.sent[drive.client]


@pytest.mark.parametrize("parts", [(), (STREAM,), (STREAM, b"data: 1\n\n")])
def test_a_client_that_leaves_ends_the_call(drive, upstream, parts):
    drive.say(request())
    upstream.deliver(*parts)

    drive.leave()

    assert upstream.cancelled == 1
    assert drive.top.calls == {}
    assert [record.error for record in drive.records] == ["client_disconnected"]


def test_what_comes_for_a_client_that_has_left_goes_nowhere(drive, upstream):
    drive.say(request())
    drive.leave()

    upstream.deliver(*whole())

    assert drive.client not in drive.sent
    assert len(drive.records) == 1


def test_a_call_that_is_over_is_not_cancelled(drive, upstream):
    drive.say(request())
    upstream.deliver(*whole())

    drive.leave()

    assert upstream.cancelled == 0


def test_a_bug_in_the_upstream_half_is_an_error_and_not_silence(drive, monkeypatch, upstream):
    monkeypatch.setattr(upstream, "call", raise_a_bug)

    drive.say(request())

    assert told(drive)[0].startswith(b"500 ")
    assert drive.client in drive.closed


@pytest.mark.parametrize(("waiting", "is_congested"), [(0, False), (64 * 1024, False), (64 * 1024 + 1, True)])
def test_a_client_that_does_not_read_is_noticed(drive, monkeypatch, upstream, waiting, is_congested):
    drive.say(request())
    [caller] = upstream.callers

    monkeypatch.setattr(type(caller), "_waiting_bytes", lambda _: waiting)

    assert caller.is_congested is is_congested


def test_relief_of_a_client_of_http1_is_that_its_socket_took_what_there_was(drive, upstream):
    drive.say(request())
    [caller] = upstream.callers

    finish(caller.relief())

    assert drive.handler.drained == 1
    assert not caller.is_congested


# --- clients of HTTP/2 -----------------------------------------------------------------------------


@pytest.fixture
def h2_drive(quiet):
    """The connection of a client of HTTP/2."""
    quiet.client.alpn = b"h2"
    return quiet.start()


@pytest.fixture
def h2_client(h2_drive):
    """A client of HTTP/2, which has said hello. What it says goes out with `speak`."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    speak(h2_drive, client)
    return client


def speak(drive, client):
    drive.say(client.data_to_send())


def hear(drive, client):
    """Return what the client has been told since."""
    return client.receive_data(drive.sent.pop(drive.client, b""))


H2_HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]


def ask(drive, client, stream_id):
    client.send_headers(stream_id, H2_HEAD)
    client.send_data(stream_id, b'{"messages": []}', end_stream=True)
    speak(drive, client)


def test_parallel_streams_get_each_its_own_answer(h2_drive, upstream, h2_client):
    ask(h2_drive, h2_client, 1)
    ask(h2_drive, h2_client, 3)

    upstream.deliver(*whole(b"[3]"), to=1)
    upstream.deliver(*whole(b"[1]"), to=0)

    heard = [event for event in hear(h2_drive, h2_client) if isinstance(event, DataReceived) and event.data]
    assert [(event.stream_id, event.data) for event in heard] == [(3, b"[3]"), (1, b"[1]")]
    assert [record.status for record in h2_drive.records] == [200, 200]


def test_nothing_is_kept_of_a_stream_that_is_over(h2_drive, upstream, h2_client):
    for number in (1, 3, 5):
        ask(h2_drive, h2_client, number)
        upstream.deliver(*whole())
        hear(h2_drive, h2_client)

    assert h2_drive.top.streams == {}
    assert h2_drive.top.answered == set(h2_drive.top.connections[h2_drive.client].streams) == {5}


def test_a_head_of_http2_that_is_too_large_is_refused_and_others_are_not(h2_drive, upstream, h2_client):
    ask(h2_drive, h2_client, 1)
    h2_client.send_headers(3, [*H2_HEAD, ("x-long", "x" * 70_000)], end_stream=True)
    speak(h2_drive, h2_client)

    upstream.deliver(*whole())

    heard = [event for event in hear(h2_drive, h2_client) if isinstance(event, ResponseReceived)]
    assert [(event.stream_id, event.headers[0][1]) for event in heard] == [(3, b"431"), (1, b"200")]
    assert [record.error for record in h2_drive.records] == ["head_too_large", None]
    assert h2_drive.hooks["request"].__self__.counts()["refused_head_too_large"] == 1


def test_a_head_of_http2_that_nobody_would_read_ends_the_connection(h2_drive, h2_client):
    plain = functools.partial(h2_client.encoder.encode, huffman=False)  # the other way takes hpack 15 seconds
    h2_client.encoder.encode = plain
    h2_client.send_headers(1, [*H2_HEAD, ("x-long", "x" * 300_000)], end_stream=True)
    speak(h2_drive, h2_client)

    assert h2_drive.client in h2_drive.closed


def test_nothing_is_kept_of_a_body_that_was_too_large(h2_drive, upstream, h2_client):
    for number in (1, 3):
        h2_client.send_headers(number, H2_HEAD)
        h2_client.send_data(number, b" " * 1001)
        speak(h2_drive, h2_client)
        h2_client.send_data(number, b" ", end_stream=True)
        speak(h2_drive, h2_client)

    assert [event.headers[0] for event in hear(h2_drive, h2_client) if isinstance(event, ResponseReceived)] == [
        (b":status", b"413")
    ] * 2
    assert h2_drive.top.streams == {}
    assert [record.error for record in h2_drive.records] == ["body_too_large"] * 2


def test_a_flow_that_is_killed_ends_its_call(h2_drive, upstream, h2_client):
    judge = h2_drive.hooks["responseheaders"]
    h2_drive.hooks["responseheaders"] = lambda flow: (judge(flow), flow.kill())
    ask(h2_drive, h2_client, 1)

    upstream.deliver(STREAM)

    assert upstream.cancelled == 1
    assert h2_drive.top.streams == h2_drive.top.calls == {}
    assert [record.error for record in h2_drive.records] == ["killed"]


def test_an_answer_to_http2_names_no_connection(h2_drive, upstream, h2_client):
    ask(h2_drive, h2_client, 1)

    upstream.deliver(STREAM, b"data: [DONE]\n\n", End.END)

    [head] = [event.headers for event in hear(h2_drive, h2_client) if isinstance(event, ResponseReceived)]
    assert {bytes(name) for name, _ in head} <= {b":status", b"content-type"}


def test_a_stream_that_its_client_resets_ends_its_call_and_no_other(h2_drive, upstream, h2_client):
    ask(h2_drive, h2_client, 1)
    ask(h2_drive, h2_client, 3)

    h2_client.reset_stream(1)
    speak(h2_drive, h2_client)

    assert upstream.cancelled == 1
    assert [record.error for record in h2_drive.records] == ["client_disconnected"]
    assert [caller.stream_id for caller in h2_drive.top.calls.values()] == [3]


async def test_what_waits_for_a_window_is_congestion_until_there_is_room(h2_drive, upstream, h2_client):
    ask(h2_drive, h2_client, 1)
    [caller] = upstream.callers

    upstream.deliver(STREAM, b"x" * 200_000)
    was_congested = caller.is_congested
    relief = asyncio.create_task(caller.relief())
    await asyncio.sleep(0)
    was_relieved = relief.done()
    h2_client.increment_flow_control_window(200_000)
    h2_client.increment_flow_control_window(200_000, 1)
    speak(h2_drive, h2_client)
    await relief

    assert (was_congested, was_relieved) == (True, False)
    assert not caller.is_congested
    assert sum(len(event.data) for event in hear(h2_drive, h2_client) if isinstance(event, DataReceived)) == 200_000


# --- limits ----------------------------------------------------------------------------------------

CHUNKED = b"POST http://a.test/ HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        [request(body=b" " * 1001)],
        [request(body=b" " * 1001)[:-1001]],
        [CHUNKED, b"3e9\r\n" + b" " * 1001 + b"\r\n"],
        [CHUNKED, *[b"64\r\n" + b" " * 100 + b"\r\n"] * 11],
    ],
    ids=["declared and sent", "declared", "one chunk", "many chunks"],
)
def test_a_body_that_is_too_large_is_refused(drive, upstream, said):
    for part in said:
        drive.say(part)

    head, body = told(drive)
    assert head.startswith(b"413 ")
    assert json.loads(body)["error"]["code"] == "body_too_large"
    assert drive.sent[drive.client].count(b"HTTP/1.1 ") == 1
    assert upstream.outgoing == []
    assert [(record.status, record.error) for record in drive.records] == [(413, "body_too_large")]
    assert json.loads(body)["error"]["message"] == drive.flows[0].error.msg == BEYOND_MAX_BODY


@pytest.mark.parametrize(
    "said",
    [
        request(body=b'{"messages": []}'.ljust(1000)),
        CHUNKED + b"3e8\r\n" + b'{"messages": []}'.ljust(1000) + b"\r\n0\r\n\r\n",
    ],
    ids=["declared", "one chunk"],
)
def test_a_body_that_is_as_large_as_it_may_be_is_sent(drive, upstream, said):
    drive.say(said)

    assert len(upstream.outgoing) == 1


def test_the_body_of_what_no_policy_names_may_have_any_size(drive):
    drive.say(request("other.test:81", body=b" " * 5000))

    [server] = drive.opened
    assert drive.sent[server].endswith(b" " * 5000)


def test_no_more_exchanges_are_taken_than_there_may_be(drive, upstream):
    hooks = drive.hooks["request"].__self__
    for _ in range(3):
        hooks.requestheaders(tflow.tflow(req=tutils.treq(host="a.test", headers=[(b"host", b"a.test")])))

    drive.say(request())

    head, body = told(drive)
    assert head.startswith(b"503 ")
    assert b"retry-after: 1" in head
    assert json.loads(body)["error"]["code"] == "too_many_exchanges"
    assert upstream.outgoing == []
    assert [(record.status, record.error) for record in drive.records] == [(503, "too_many_exchanges")]


def test_an_exchange_that_is_over_makes_room(drive, upstream):
    for _ in range(5):
        drive.say(request())
        upstream.deliver(*whole())

    assert [record.status for record in drive.records] == [200] * 5


# --- an upgrade, which takes mitmproxy's own way ---------------------------------------------------


def test_the_key_of_an_upgrade_is_on_the_wire_and_never_in_the_flow(drive, upstream):
    drive.say(request("a.test", *UPGRADE, f"authorization: Bearer {CLIENT_KEY}"))

    [provider] = drive.opened
    [flow] = drive.flows
    assert drive.sent[provider].count(f"authorization: Bearer {KEY}\r\n".encode()) == 1
    assert CLIENT_KEY.encode() not in drive.sent[provider]
    assert flow.request.headers["authorization"] == "Bearer [redacted]"
    assert KEY not in repr(flow.get_state())
    assert upstream.outgoing == []


def test_an_upgrade_is_asked_for_at_the_provider(drive):
    drive.say(request("a.test", *UPGRADE, "sec-websocket-version: 13"))

    sent = drive.sent[drive.opened[0]].lower()
    assert b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n" in sent
    assert b"host: a.test\r\n" in sent


def test_a_connection_is_used_again_for_the_same_endpoint_only(drive):
    for host in ("a.test", "b.test", "a.test"):
        drive.say(request(host, *UPGRADE))
        drive.say(answer(), drive.opened[-1] if host == "b.test" else drive.opened[0])

    assert [conn.address for conn in drive.opened] == [("192.0.2.7", 8000), ("192.0.2.7", 8001)]


def test_two_providers_at_one_address_do_not_share_a_connection(drive):
    for host in ("a.test", "also-a.test"):
        drive.say(request(host, *UPGRADE))
        drive.say(answer(), drive.opened[-1])

    assert len(drive.opened) == 2


@pytest.mark.parametrize("host", ["a.test", "b.test", "tls.test"])
def test_where_an_upgrade_goes_is_known_when_its_connection_is_opened(drive, host):
    drive.say(request(host, *UPGRADE))

    [provider] = drive.opened
    assert engine.endpoints[provider] == drive.current.snapshot.hosts[host].endpoint
    assert ("tls_start_server" in drive.called) is (host == "tls.test")


def test_nothing_is_sent_before_tls_is_there(drive):
    drive.say(request("tls.test", *UPGRADE))

    assert drive.opened[0] not in drive.sent


def test_a_provider_that_cannot_be_reached_is_an_error_in_openais_shape(drive):
    drive.failure = "refused"

    drive.say(request("a.test", *UPGRADE))

    head, body = told(drive)
    assert head.startswith(b"502 ")
    assert json.loads(body)["error"]["code"] == "provider_unreachable"
    assert [(record.status, record.error) for record in drive.records] == [(502, "provider_unreachable")]
    assert drive.records[0].bytes_out == len(body)


@pytest.mark.parametrize(
    "said", [b"", b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", answer()[:-1]]
)
def test_a_provider_that_breaks_off_is_an_error_in_openais_shape(drive, said):
    drive.say(request("a.test", *UPGRADE))
    [provider] = drive.opened
    if said:
        drive.say(said, provider)
    if provider not in drive.closed:
        drive.leave(provider)

    head, body = told(drive)
    assert head.startswith(b"502 ")
    assert json.loads(body)["error"]["code"] == "provider_failed"
    assert [(record.status, record.error) for record in drive.records] == [(502, "provider_failed")]


def test_a_client_that_leaves_takes_the_providers_connection_with_it(drive):
    drive.say(request("a.test", *UPGRADE))

    drive.leave()

    assert drive.opened[0] in drive.closed
    assert [record.error for record in drive.records] == ["client_disconnected"]


# --- bugs, and what is not governed ----------------------------------------------------------------


def raise_a_bug(*_, **__):
    raise RuntimeError("a bug of ours")


@pytest.mark.parametrize("lines", [(), UPGRADE], ids=["call", "upgrade"])
@pytest.mark.parametrize("method", ["make_server_connection", "state_wait_for_response_headers"])
def test_a_bug_in_a_layer_is_an_error_and_not_silence(drive, monkeypatch, caplog, upstream, method, lines):
    monkeypatch.setattr(GovernedHttpStream, method, raise_a_bug)

    drive.say(request("a.test", *lines))
    for provider in drive.opened:
        drive.say(answer(), provider)
    for at in range(len(upstream.callers)):
        upstream.deliver(*whole(), to=at)
    drive.leave()

    assert drive.sent[drive.client].count(b"HTTP/1.1 500 ") == 1
    assert b'"code": "internal_error"' in drive.sent[drive.client]
    assert b"a bug of ours" not in drive.sent[drive.client]
    assert drive.client in drive.closed
    assert "a bug of ours" in caplog.text


def test_a_bug_in_a_layer_ends_the_call(drive, monkeypatch, upstream):
    monkeypatch.setattr(GovernedHttpStream, "state_wait_for_response_headers", raise_a_bug)
    drive.say(request())

    upstream.deliver(STREAM)

    assert upstream.cancelled == 1


def test_a_host_that_no_policy_names_goes_where_it_was_going(drive, upstream):
    drive.say(request("other.test:81", f"authorization: Bearer {CLIENT_KEY}", "connection: keep-alive"))

    [server] = drive.opened
    assert server.address == ("other.test", 81)
    assert f"authorization: Bearer {CLIENT_KEY}".encode() in drive.sent[server]
    assert b"connection: keep-alive" in drive.sent[server]
    assert drive.records == []
    assert upstream.outgoing == []

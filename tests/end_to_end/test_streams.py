"""Streams through a real proxy: event by event, byte for byte, and never a clean end that was none."""

import itertools
import json
import queue
import ssl
import time

import httpx2
import pytest

from tests.scripted import EVENT_STREAM, LAST_CHUNK, TIMEOUT_SECONDS, chunk, scripted, sized
from tests.world import provider_document, sidestream_run

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
EVENTS = 50

EVENT = b'data: {"model": "m-1", "choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
STOP = b'data: {"model": "m-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"model": "m-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n'
ERROR = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
DONE = b"data: [DONE]\n\n"


class Player:
    """
    A provider that sends what `play` was given, piece by piece.

    A piece is bytes, or "cut", "reset", "stall" (until the client leaves), "wait" (for `go`) or
    "pause" (20 ms). `sent`: when bytes were sent, by the monotonic clock.
    """

    def __init__(self):
        self.sent = []
        self.plays = queue.Queue()
        self.go = queue.Queue()
        self.left = queue.Queue()

    def play(self, *pieces, head=EVENT_STREAM):
        self.plays.put((head, pieces))

    def __call__(self, line, request):
        head, pieces = self.plays.get(timeout=TIMEOUT_SECONDS)
        line.send(head)
        for piece in pieces:
            match piece:
                case "cut":
                    return
                case "reset":
                    line.reset()
                    return
                case "stall":
                    line.wait_until_left()
                    self.left.put(True)
                    return
                case "wait":
                    self.go.get(timeout=TIMEOUT_SECONDS)
                case "pause":
                    time.sleep(0.02)
                case _:
                    self.sent.append(time.monotonic())
                    line.send(piece)
        if head is EVENT_STREAM:
            line.send(LAST_CHUNK)


@pytest.fixture(scope="module")
def player():
    return Player()


@pytest.fixture(scope="module")
def proxy(shared_world, player):
    policies = shared_world.policies("policies-of-streams")
    with scripted(player, shared_world.authority.issue("player.test")) as provider:
        (policies / "player.yaml").write_text(provider_document("player.test", provider.port))
        with sidestream_run(shared_world, "--intercept-tls", policies=policies) as proxy:
            yield proxy


@pytest.fixture(scope="module")
def trust(shared_world, proxy):
    return ssl.create_default_context(cafile=shared_world.folder / "confdir/mitmproxy-ca-cert.pem")


@pytest.fixture(scope="module", params=["http1", "http2"])
def make_client(request, proxy, trust):
    """Make clients that speak plain HTTP/1, or HTTP/2 over TLS."""
    how = {"base_url": "http://player.test"}
    if request.param == "http2":
        how = {"base_url": "https://player.test", "http2": True, "http1": False}
    return lambda: httpx2.Client(proxy=proxy.url, timeout=TIMEOUT_SECONDS, verify=trust, **how)


@pytest.fixture(scope="module")
def client(make_client):
    with make_client() as client:
        yield client


@pytest.fixture
def leaver(make_client):
    """A client that may leave: over HTTP/2, others would share its connection."""
    with make_client() as client:
        yield client


def begin(client, url="/v1/chat/completions", **headers):
    """Begin to read a stream."""
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    return client.stream("POST", url, json=CHAT | asked, headers=headers)


def begin_stand_in(client, settings):
    """Begin to read a stream of the stand-in, which behaves as told."""
    return begin(client, client.base_url.copy_with(host="dashscope.aliyuncs.com"), **{"x-standin": settings})


# --- when ----------------------------------------------------------------------------------------


def test_every_event_is_there_before_the_next_is_sent(proxy, player, client):
    pieces = [chunk(EVENT % b"%d" % number) for number in range(EVENTS)]
    player.play(*itertools.chain.from_iterable((piece, "wait") for piece in pieces), chunk(DONE))
    got = b""

    with begin(client) as answer:
        for part in answer.iter_raw():
            got += part
            if part.endswith(b"\n\n") and DONE not in part:
                player.go.put(True)  # only now does the provider send another

    assert got == b"".join(EVENT % b"%d" % number for number in range(EVENTS)) + DONE


def test_gaps_between_events_are_kept(player, client):
    pieces = [chunk(EVENT % b"%d" % number) for number in range(EVENTS)]
    player.play(*itertools.chain.from_iterable((piece, "pause") for piece in pieces), chunk(DONE))
    player.sent.clear()

    with begin(client) as answer:
        arrived = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]

    # A burst would bring the first events when the last were sent. Both clocks are this machine's.
    in_time = [there < later for there, later in zip(arrived, player.sent[3:], strict=False)]
    assert len(arrived) == EVENTS
    assert in_time.count(True) >= 40


def test_the_head_is_there_before_the_first_event(player, client):
    player.play("wait", chunk(DONE))

    with begin(client) as answer:
        player.go.put(True)  # the status is known by now
        assert answer.status_code == 200
        assert answer.read() == DONE


# --- what ----------------------------------------------------------------------------------------

BODIES = {
    "events": EVENT % b"hi" + DONE,
    "events with usage": EVENT % b"hi" + USAGE + DONE,
    "comments": b": keep-alive\n\n" + EVENT % b"hi" + b":\n\n" + DONE,
    "CRLF": (EVENT % b"hi" + DONE).replace(b"\n", b"\r\n"),
    "CR": (EVENT % b"hi" + DONE).replace(b"\n", b"\r"),
    "other fields": b"id: 1\nretry: 10\nevent: message\n" + EVENT % b"hi" + DONE,
    "data in two lines": b'data: {"model":\ndata: "m-1"}\n\n' + DONE,
    "no last blank line": EVENT % b"hi" + b"data: [DONE]",
    "no DONE": EVENT % b"hi" + STOP,
    "an error": EVENT % b"hi" + ERROR,
    "no events": b"",
    "not UTF-8": b"data: \xff\xfe\n\n" + DONE,
    "not JSON": b"data: {\n\ndata: \x00\n\n" + DONE,
    "a byte order mark": b"\xef\xbb\xbf" + EVENT % b"hi" + DONE,
    "text": (EVENT % "你好 🌊".encode()) * 3 + DONE,
    "a very long event": EVENT % (b"x" * 300_000) + DONE,
    "many events": EVENT % b"hi" * 2000 + DONE,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_client_gets_the_very_bytes_that_were_sent(player, client, body):
    player.play(*([chunk(body)] if body else []))

    with begin(client) as answer:
        assert b"".join(answer.iter_raw()) == body


@pytest.mark.parametrize("name", ["text", "CRLF", "events with usage"])
def test_however_they_were_cut(player, client, name):
    body = BODIES[name]
    player.play(*(chunk(bytes([byte])) for byte in body))

    with begin(client) as answer:
        assert b"".join(answer.iter_raw()) == body


def test_a_stream_of_known_length_and_one_that_ends_with_its_connection(player, client):
    body = BODIES["events with usage"]
    until_closed = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"

    for head in (sized(body, b"text/event-stream"), until_closed + body):
        player.play(head=head)
        with begin(client) as answer:
            assert b"".join(answer.iter_raw()) == body


def test_a_compressed_stream_is_read_and_goes_on_as_it_was_before(world, proxy, client):
    settings = "gzip=1 split=1 comments=1 crlf=1 usage=always"

    with proxy.recording() as records, begin_stand_in(client, settings) as answer:
        said = answer.read().decode()

    assert "content-encoding" not in answer.headers
    assert "🌊" in said
    assert said.endswith("data: [DONE]\r\n\r\n")
    assert [(record["error"], record["prompt_tokens"]) for record in records] == [(None, 1)]


# --- how it ends ---------------------------------------------------------------------------------


def assert_is_told_of_the_end(said, *, is_complete):
    """A client that waits for more is told that nothing comes."""
    code = json.loads(said.removeprefix(b"data: "))["error"]["code"] if said else None
    assert code == (None if is_complete else "provider_failed")


def read(answer, got, then):
    for part in answer.iter_raw():
        got += part
        then()


@pytest.mark.parametrize("ending", ["cut", "reset"])
@pytest.mark.parametrize("pieces", [(), (EVENT % b"hi",), (EVENT % b"hi", DONE)], ids=["at once", "one event", "DONE"])
def test_a_stream_that_breaks_off_never_ends_cleanly(proxy, player, client, ending, pieces):
    # A reset can overtake bytes, so the client says when it has them.
    player.play(*map(chunk, pieces), *(["wait"] if pieces else []), ending)
    wanted, got = b"".join(pieces), bytearray()

    with proxy.recording() as records, pytest.raises(httpx2.RemoteProtocolError), begin(client) as answer:
        read(answer, got, then=lambda: got == wanted and player.go.put(True))

    [record] = records
    assert got[: len(wanted)] == wanted
    assert_is_told_of_the_end(bytes(got[len(wanted) :]), is_complete=DONE in pieces)
    assert (record["error"], record["status"]) == ("provider_failed", 200)
    assert record["bytes_out"] == len(got)
    assert proxy.is_alive


def test_a_body_shorter_than_it_was_announced_never_ends_cleanly(proxy, player, client):
    body = EVENT % b"hi" + DONE
    player.play("cut", head=sized(body, b"text/event-stream")[:-10])

    with proxy.recording() as records, pytest.raises(httpx2.RemoteProtocolError), begin(client) as answer:
        answer.read()

    assert [record["error"] for record in records] == ["provider_failed"]


def test_json_that_breaks_off_is_an_error_and_no_half_object(proxy, player, client):
    player.play("cut", head=sized(b'{"model": "m-1"}')[:-5])

    with proxy.recording() as records, begin(client) as answer:
        error = answer.json() if answer.read() else None

    assert answer.status_code == 502
    assert (error["error"]["type"], error["error"]["code"]) == ("sidestream_error", "provider_failed")
    assert [(record["status"], record["error"]) for record in records] == [(502, "provider_failed")]


def test_a_clean_end_in_the_middle_of_an_answer_is_none(proxy, player, client):
    player.play(chunk(EVENT % b"hi"))

    with proxy.recording() as records, pytest.raises(httpx2.RemoteProtocolError), begin(client) as answer:
        answer.read()

    [record] = records
    assert (record["status"], record["error"], record["response_model"]) == (200, "provider_failed", "m-1")


def test_an_error_in_a_stream_is_recorded(proxy, player, client):
    player.play(chunk(EVENT % b"hi" + ERROR + DONE))

    with proxy.recording() as records, begin(client) as answer:
        answer.read()

    assert [(record["status"], record["error"]) for record in records] == [(200, "error_in_stream")]


@pytest.mark.parametrize("pieces", [(), (EVENT % b"hi",)], ids=["before an event", "after an event"])
def test_a_client_that_leaves_a_silent_stream_frees_the_provider(proxy, player, leaver, pieces):
    player.play(*map(chunk, pieces), "stall")

    with proxy.recording() as records:
        with begin(leaver) as answer:
            assert list(itertools.islice(answer.iter_raw(), len(pieces))) == list(pieces)
        leaver.close()
        assert player.left.get(timeout=TIMEOUT_SECONDS)

    [record] = records
    assert (record["error"], record["status"]) == ("client_disconnected", 200)
    assert record["bytes_out"] == sum(map(len, pieces))


def test_a_client_that_leaves_before_the_answer_frees_the_provider(world, proxy, leaver):
    leaver.timeout = 0.3

    with proxy.recording() as records:
        with pytest.raises(httpx2.ReadTimeout), begin_stand_in(leaver, "first-byte=60"):
            pass
        leaver.close()
        world.dashscope.wait_for(lambda standin: standin.aborted == 1)

    assert [(record["error"], record["status"]) for record in records] == [("client_disconnected", None)]


def test_a_reader_that_is_slow_holds_up_nobody_else(player, client):
    big = chunk(EVENT % (b"x" * 1_000_000))
    player.play(*[big] * 8, chunk(DONE))

    with begin(client) as slow:
        player.play(chunk(DONE))
        with begin(client) as other:
            assert other.read() == DONE
        assert slow.read().endswith(DONE)


def test_trailers_of_a_provider_harm_no_answer(proxy, player, client):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    player.play(head=head + chunk(b'{"model": "m-1"}') + b"0\r\nx-checksum: 1\r\n\r\n")

    with proxy.recording() as records, begin(client) as answer:
        content = answer.read()

    assert (answer.status_code, content) == (200, b'{"model": "m-1"}')
    assert [(record["status"], record["error"]) for record in records] == [(200, None)]

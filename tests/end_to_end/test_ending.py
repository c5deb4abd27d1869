"""The end of a real proxy: nothing new, then what is under way, then itself; and what takes too long is told so."""

import concurrent.futures
import contextlib
import json
import queue
import signal
import socket
import ssl

import httpx2
import pytest

from tests.scripted import EVENT_STREAM, LAST_CHUNK, TIMEOUT_SECONDS, chunk, scripted, sized
from tests.world import free_port, listens, provider_document, sidestream_run, wait_for

CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
EVENT = b'data: {"model": "m-1", "choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
HOST = "ending.test"
REQUEST = f"GET http://{HOST}/v1/models HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
BYTES = b"\x00\x01\r\n\r\n"
LONG = 60
"""A grace that no test waits for, in seconds."""


class Slow:
    """A provider whose streams begin, and go on when the test says so. `begun`: one for each that has come."""

    def __init__(self):
        self.begun, self.go = queue.Queue(), queue.Queue()

    def __call__(self, line, request):
        if b"/models" in request:
            line.send(sized(b"{}"))
            return
        if b"/embeddings" not in request:
            line.send(EVENT_STREAM + chunk(EVENT))
        self.begun.put(True)
        if self.go.get(timeout=TIMEOUT_SECONDS) == "end":
            line.send(chunk(EVENT + DONE) + LAST_CHUNK)
        else:
            line.wait_until_left()


class Raw:
    """A client that reads and writes bytes."""

    def __init__(self, proxy, *said):
        self.connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_SECONDS)
        self.say(*said)

    def say(self, *said):
        for part in said:
            self.connection.sendall(part)

    def hear(self, end=b"\r\n\r\n"):
        """Read until `end` was said, or to the end."""
        heard = b""
        while not heard.endswith(end) and (part := self.connection.recv(65536)):
            heard += part
        return heard


@pytest.fixture(scope="module")
def slow():
    return Slow()


@pytest.fixture(scope="module")
def policies(shared_world, slow):
    folder = shared_world.policies("policies-of-endings")
    with scripted(slow, shared_world.authority.issue(HOST)) as provider:
        (folder / "ending.yaml").write_text(provider_document(HOST, provider.port))
        yield folder


@contextlib.contextmanager
def running(world, policies, grace, *flags):
    with sidestream_run(world, "--grace", str(grace), *flags, policies=policies) as proxy:
        try:
            yield proxy
        finally:
            proxy.process.kill()  # it has ended, or a test failed and nobody waits for it


@pytest.fixture(scope="module")
def elsewhere():
    """Somebody whom no policy names, and who says everything again."""
    with scripted(lambda line, request: line.send(request)) as server:
        yield server


def begin(proxy, slow, url=f"http://{HOST}", **how):
    """Begin to read a stream, over a connection of its own."""
    client = httpx2.Client(proxy=proxy.url, timeout=TIMEOUT_SECONDS, **how)
    request = client.build_request("POST", f"{url}/v1/chat/completions", json=CHAT)
    answer = client.send(request, stream=True)
    assert slow.begun.get(timeout=TIMEOUT_SECONDS)
    return answer


def tunnel(proxy, server):
    """Connect to `server` through the proxy."""
    client = Raw(proxy, b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % server.port)
    assert client.hear().startswith(b"HTTP/1.1 200")
    return client


def read_to_a_broken_end(answer):
    parts = []
    with pytest.raises(httpx2.RemoteProtocolError):
        parts.extend(answer.iter_raw())
    return b"".join(parts)


def ended(proxy):
    """Return what the proxy says of its end."""
    [line] = (line for line in proxy.said.splitlines() if " INFO ended " in line)
    return {name: float(value) for name, value in (field.split("=") for field in line.split() if "=" in field)}


# --- within the grace --------------------------------------------------------------------------------


class Seen:
    """What was seen of an end."""


@pytest.fixture(scope="module")
def seen(shared_world, policies, slow, elsewhere):
    """All that may be under way when the signal comes, and what becomes of it."""
    admin, seen = free_port(), Seen()
    with running(shared_world, policies, LONG, "--intercept-tls", f"--admin=127.0.0.1:{admin}") as proxy:
        trust = ssl.create_default_context(cafile=shared_world.folder / "confdir/mitmproxy-ca-cert.pem")
        plain = begin(proxy, slow)
        multiplexed = begin(proxy, slow, f"https://{HOST}", http2=True, http1=False, verify=trust)
        passing = tunnel(proxy, elsewhere)
        idle, silent, half = Raw(proxy, REQUEST), Raw(proxy), Raw(proxy, REQUEST[:40])
        seen.before = idle.hear(b"{}")
        seen.ready_before = httpx2.get(f"http://127.0.0.1:{admin}/healthz/ready", trust_env=False).status_code

        proxy.process.send_signal(signal.SIGTERM)

        wait_for(lambda: not listens(proxy.port))
        seen.of_idle = idle.hear()
        seen.ready = httpx2.get(f"http://127.0.0.1:{admin}/healthz/ready", trust_env=False)
        seen.live = httpx2.get(f"http://127.0.0.1:{admin}/healthz/live", trust_env=False)
        half.say(REQUEST[40:])
        seen.of_half = half.hear(b"never")
        slow.go.put("end")
        slow.go.put("end")
        seen.plain, seen.multiplexed = plain.read(), multiplexed.read()
        seen.was_alive = proxy.process.poll() is None
        passing.say(BYTES)
        seen.passed = passing.hear(b"never")
        seen.status = proxy.process.wait(TIMEOUT_SECONDS)
        seen.of_silent = silent.hear()
        seen.records, seen.said = proxy.records, ended(proxy)
    return seen


def test_streams_end_whole(seen):
    assert seen.plain == seen.multiplexed == EVENT + EVENT + DONE
    assert {record["error"] for record in seen.records} == {None}


def test_a_connection_that_is_kept_alive_is_closed_at_once(seen):
    assert seen.before.startswith(b"HTTP/1.1 200")
    assert seen.of_idle == b""


def test_a_request_that_has_begun_is_answered_and_its_connection_closed(seen):
    assert seen.of_half.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in seen.of_half.lower()
    assert b"connection: close" not in seen.before.lower()


def test_what_passes_through_lives_on(seen):
    assert seen.was_alive
    assert seen.passed == BYTES


def test_it_is_alive_and_not_ready(seen):
    assert seen.ready_before == 200
    assert (seen.ready.status_code, seen.ready.text) == (503, "not ready: it is ending\n")
    assert seen.live.status_code == 200


def test_it_ends_well_and_says_so(seen):
    assert seen.status == 0
    assert seen.said["exchanges_finished_at_end"] == 3
    assert seen.said["connections_finished_at_end"] == 4
    assert seen.said["exchanges_cut"] == seen.said["connections_cut"] == 0


def test_who_has_said_nothing_holds_nobody_up(seen):
    assert seen.of_silent == b""


# --- past it -----------------------------------------------------------------------------------------


def test_what_takes_longer_than_the_grace_is_told_so_and_recorded(shared_world, policies, slow, elsewhere):
    with running(shared_world, policies, 1) as proxy, concurrent.futures.ThreadPoolExecutor() as threads:
        stream, passing = begin(proxy, slow), tunnel(proxy, elsewhere)
        client = httpx2.Client(proxy=proxy.url, timeout=TIMEOUT_SECONDS)
        unanswered = threads.submit(client.post, f"http://{HOST}/v1/embeddings", json={"input": "hi"})
        assert slow.begun.get(timeout=TIMEOUT_SECONDS)

        proxy.process.send_signal(signal.SIGINT)
        got = read_to_a_broken_end(stream)
        answer = unanswered.result(TIMEOUT_SECONDS)
        status = proxy.process.wait(TIMEOUT_SECONDS)
        slow.go.put("stall")
        slow.go.put("stall")
        with pytest.raises(ConnectionResetError):
            passing.hear()

    event = json.loads(got.removeprefix(EVENT).removeprefix(b"data: "))
    records = {record["operation"]: record for record in proxy.records}
    assert status == 0
    assert event["error"]["code"] == "shutting_down"
    assert (answer.status_code, answer.json()) == (503, event)
    assert [(record["error"], record["status"]) for record in records.values()] == [
        ("shutting_down", 200),
        ("shutting_down", 503),
    ]
    assert (records["chat"]["events_out"], records["chat"]["bytes_out"]) == (1, len(got))
    assert (ended(proxy)["exchanges_cut"], ended(proxy)["connections_cut"]) == (2, 3)


def test_a_second_signal_ends_the_grace(shared_world, policies, slow):
    with running(shared_world, policies, LONG) as proxy:
        stream = begin(proxy, slow)
        proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not listens(proxy.port))

        proxy.process.send_signal(signal.SIGTERM)

        read_to_a_broken_end(stream)
        assert proxy.process.wait(TIMEOUT_SECONDS) == 0
        slow.go.put("stall")
    assert [record["error"] for record in proxy.records] == ["shutting_down"]

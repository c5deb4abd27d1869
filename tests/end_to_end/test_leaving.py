"""Clients that leave, or do not read: no provider works for nobody, and nothing piles up in between."""

import contextlib
import json
import queue
import socket
import threading
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from tests.scripted import EVENT_STREAM, TIMEOUT_SECONDS, Line, chunk, scripted
from tests.wire import H2, tunnel
from tests.world import provider_document, sidestream_run, wait_for

BODY = b'{"messages": [], "stream": true}'
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
SOUND = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD = {":method": "POST", ":scheme": "https", ":path": "/v1/chat/completions", "content-type": "application/json"}

PIECE_BYTES = 32 * 1024
FLOOD_BYTES = 200 * 1024 * 1024
"""How much a provider would send to a client that took it."""
MOST_ON_THE_WAY = 48 * 1024 * 1024
"""
How much of it may be anywhere between the two, in bytes: most of it in the buffers of the proxy's two sockets, of which
the kernel lets one grow to 32 MB where the machine is busy.
"""
MOST_GROWN = 16 * 1024 * 1024
"""How much larger the proxy may be meanwhile, in bytes."""
SOCKET_BYTES = 64 * 1024
"""How much the sockets of the two ends hold, about; the kernel would let them grow to megabytes."""
QUIET_SECONDS = 2.0
"""After this time without a byte sent, the provider can send no more. The idle timeout is half of it."""


class Provider:
    """
    A provider that waits, or sends as much as it can.

    `asked`: hosts whose request has come. `left`: hosts whose client has gone. `sent`: bytes of a flood, and when last.
    """

    def __init__(self):
        self.asked = queue.Queue()
        self.left = queue.Queue()
        self.sent = 0
        self.sent_at = time.monotonic()

    def __call__(self, line: Line, request: bytes) -> None:
        host = request.lower().partition(b"host: ")[2].partition(b"\r\n")[0].decode()
        self.asked.put(host)
        match host.partition(".")[0]:
            case "silent":
                pass
            case "head":
                line.send(EVENT_STREAM)
            case "stream":
                line.send(EVENT_STREAM + chunk(EVENT % b"hi"))
            case "done":
                line.send(EVENT_STREAM + chunk(EVENT % b"hi" + b"data: [DONE]\n\n"))
            case "json":
                line.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"model":')
            case "events":
                self._flood(line, EVENT_STREAM, EVENT % (b"x" * PIECE_BYTES))
            case "sound":
                self._flood(line, SOUND, b"x" * PIECE_BYTES)
        line.wait_until_left()
        self.left.put(host)

    def _flood(self, line: Line, head: bytes, piece: bytes) -> None:
        self.sent, framed = 0, chunk(piece)
        line.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        with contextlib.suppress(OSError):
            line.send(head)
            while self.sent < FLOOD_BYTES:
                line.connection.sendall(framed)
                self.sent += len(framed)
                self.sent_at = time.monotonic()

    def forget(self) -> None:
        self.asked, self.left, self.sent, self.sent_at = queue.Queue(), queue.Queue(), 0, time.monotonic()


class Hanging:
    """Listens, and lets clients wait for TLS."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.asked = queue.Queue()
        self.left = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return self.listener.getsockname()[1]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._wait, args=(connection,), daemon=True).start()

    def _wait(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_SECONDS)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            self.asked.put("hanging.leave.test")
            while connection.recv(65536):
                pass
        self.left.put("hanging.leave.test")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture(scope="module")
def provider():
    return Provider()


@pytest.fixture(autouse=True)
def _nothing_has_happened(provider):
    provider.forget()


@pytest.fixture(scope="module")
def hanging():
    hanging = Hanging()
    yield hanging
    hanging.close()


@pytest.fixture(scope="module")
def stages(provider, hanging):
    return provider, hanging


@pytest.fixture(scope="module")
def proxy(shared_world, provider, hanging):
    policies = shared_world.policies("policies-of-leaving")
    kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMRoute"}
    with scripted(provider, shared_world.authority.issue("*.leave.test")) as stage:
        documents = [provider_document("hanging.leave.test", hanging.port)]
        documents += [
            provider_document(f"{name}.leave.test", stage.port)
            for name in ("silent", "head", "stream", "done", "json", "events", "sound")
        ]
        for name in ("events", "sound"):
            rule = {"backendRefs": [{"providerHost": f"{name}.leave.test"}], "timeouts": {"streamIdle": "1s"}}
            spec = {"host": f"{name}.routes.test", "rules": [rule]}
            documents.append(json.dumps(kind | {"metadata": {"name": name}, "spec": spec}))
        (policies / "leaving.yaml").write_text("\n---\n".join(documents))
        with sidestream_run(shared_world, "--intercept-tls", policies=policies) as proxy:
            yield proxy


# --- leaving -------------------------------------------------------------------------------------


def write_request(host: str) -> bytes:
    head = f"POST http://{host}/v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(BODY)}\r\n\r\n"
    return head.encode() + BODY


@contextlib.contextmanager
def left_http1(proxy, proxy_ca, host):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_SECONDS) as client:
        client.sendall(write_request(host))
        yield


@contextlib.contextmanager
def left_http2(proxy, proxy_ca, host):
    with tunnel(proxy, proxy_ca, host) as client:
        H2(client).send(1, [(":authority", host), *HEAD.items()], BODY)
        yield


@contextlib.contextmanager
def reset_http2(proxy, proxy_ca, host):
    """Give up one stream; the connection stays."""
    with tunnel(proxy, proxy_ca, host) as client:
        connection = H2(client)
        connection.send(1, [(":authority", host), *HEAD.items()], BODY)
        yield
        connection.reset(1)
        wait_for(lambda: any(record["host"] == host for record in proxy.records[-3:]))


@pytest.mark.parametrize("client", [left_http1, left_http2, reset_http2])
@pytest.mark.parametrize("name", ["hanging", "silent", "head", "stream", "json"])
def test_a_client_that_leaves_ends_the_providers_connection(proxy, proxy_ca, stages, client, name):
    host = f"{name}.leave.test"
    asked = stages[name == "hanging"]

    with proxy.recording() as records:
        with client(proxy, proxy_ca, host):
            assert asked.asked.get(timeout=TIMEOUT_SECONDS) == host
        assert asked.left.get(timeout=TIMEOUT_SECONDS) == host

    [record] = records
    [attempt] = record["attempts"]
    assert (record["error"], attempt["error"]) == ("client_disconnected", "client_disconnected")
    assert proxy.is_alive


def test_a_client_that_leaves_once_it_has_all_events_has_its_answer(proxy, provider):
    with proxy.recording() as records, socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_SECONDS) as client:
        client.sendall(write_request("done.leave.test"))
        answer = b""
        while b"[DONE]" not in answer:
            part = client.recv(65536)
            assert part, "the answer goes on"
            answer += part
        client.close()
        assert provider.left.get(timeout=TIMEOUT_SECONDS) == "done.leave.test"

    [record] = records
    assert (record["status"], record["error"], record["attempts"][0]["error"]) == (200, None, None)


# --- not reading ---------------------------------------------------------------------------------


class Reader1:
    """A client over HTTP/1 that reads only what it is told to."""

    def __init__(self, proxy, proxy_ca, host):
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        self.socket.connect(("127.0.0.1", proxy.port))
        self.socket.sendall(write_request(host))

    def read(self, count):
        while count > 0:
            part = self.socket.recv(65536)
            assert part, "the answer goes on"
            count -= len(part)


class Reader2:
    """A client over HTTP/2 that opens the windows only while it reads; frames without a window come all the time."""

    def __init__(self, proxy, proxy_ca, host):
        self.socket = tunnel(proxy, proxy_ca, host)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.initiate_connection()
        self.http.send_headers(1, [(":authority", host), *HEAD.items()])
        self.http.send_data(1, BODY, end_stream=True)
        self.socket.sendall(self.http.data_to_send())
        self.shut = 0
        self._take()

    def _take(self):
        events = self.http.receive_data(self.socket.recv(65536))
        assert not any(isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated) for event in events)
        self.shut += sum(event.flow_controlled_length for event in events if isinstance(event, h2.events.DataReceived))
        self.socket.sendall(self.http.data_to_send())

    def read(self, count):
        while count > 0:
            self._take()
            count -= self.shut
            if self.shut:
                self.http.acknowledge_received_data(self.shut, 1)
            self.shut = 0
            self.socket.sendall(self.http.data_to_send())


def resident_bytes(proxy):
    for line in Path(f"/proc/{proxy.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("a process has memory")


@pytest.mark.parametrize("reader", [Reader1, Reader2], ids=["http1", "http2"])
@pytest.mark.parametrize("name", ["events", "sound"])
def test_a_client_that_does_not_read_holds_up_the_provider(proxy, proxy_ca, provider, reader, name):
    before = resident_bytes(proxy)

    with proxy.recording() as records:
        client = reader(proxy, proxy_ca, f"{name}.routes.test")
        client.read(1_000_000)
        wait_for(lambda: time.monotonic() - provider.sent_at > QUIET_SECONDS, timeout=60)
        on_the_way, grown = provider.sent, resident_bytes(proxy) - before
        client.read(on_the_way)  # what it did not read in time was no timeout
        client.socket.close()
        assert provider.left.get(timeout=TIMEOUT_SECONDS) == f"{name}.leave.test"

    assert on_the_way < MOST_ON_THE_WAY
    assert grown < MOST_GROWN
    assert [record["error"] for record in records] == ["client_disconnected"]

"""
A provider that is fast: it answers each call with the same bytes, over TLS, and refuses calls that were not rewritten.

Streams are of `EVENTS` events; the content of each is the time it was sent at, in nanoseconds of the monotonic
clock, which is the same for all programs of a machine. Besides, it serves what passes through: a small answer,
and as many bytes as are asked for. Telemetry over OTLP is taken, and forgotten.

Run as a program: ``python -m tests.bench.provider --help``.
"""

import argparse
import contextlib
import gc
import heapq
import itertools
import json
import re
import select
import socket
import ssl
import time

PATH = "/compatible-mode/v1/chat/completions"
KEY = "sk-bench-provider"
MODEL = "bench-sent-model"
PORTS = (8443, 8444)
"""Two providers, for those who choose between two."""
PLAIN_PORT = 80

EVENTS = 50
PIECE = memoryview(bytes(256 * 1024))

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_START = f"POST {PATH} HTTP/1.1\r\n".encode()
_AUTHORIZATION = f"\r\nauthorization: Bearer {KEY}\r\n".encode().lower()
_MODEL = f'"{MODEL}"'.encode()
_STREAM = re.compile(rb'"stream": ?true')
_USAGE_ASKED = re.compile(rb'"include_usage": ?true')

USAGE = {"prompt_tokens": 210, "completion_tokens": 60, "total_tokens": 270}


def _json(status: str, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def _closing(answer: bytes) -> bytes:
    return answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)


ANSWER = _json(
    "200 OK",
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "An answer. " * 29}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    },
)
NOT_REWRITTEN = _json("400 Bad Request", {"error": {"message": "path, key or model are not what they should be"}})
SMALL = _json("200 OK", {"greeting": "hello"})
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL}


def _event(document: object) -> bytes:
    return b"data: " + json.dumps(_CHUNK | document, separators=(",", ":")).encode() + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_TIME = b"1234567890123456789"
_CONTENT = _framed(
    _event(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": _TIME.decode()}, "finish_reason": None}]}
    )
)
_BEFORE_TIME, _AFTER_TIME = _CONTENT.split(_TIME)
_FINISH = _framed(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
_USAGE = _framed(_event({"choices": [], "usage": USAGE}))
_DONE = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Connection:
    """A client's connection."""

    def __init__(self, server: "Server", connection: socket.socket) -> None:
        self.socket = connection
        self._server = server
        self._is_open = not isinstance(connection, ssl.SSLSocket)
        self._unread = b""
        self._unsent = memoryview(b"")
        self._bulk_left = 0
        self._closes = False

    def ready(self, events: int) -> None:
        """Go on, now that something can be read or written."""
        try:
            if not self._is_open:
                self.socket.do_handshake()
                self._is_open = True
            if events & select.EPOLLOUT:
                self._flush()
            if events & ~select.EPOLLOUT:
                self._read()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError:
            self._server.forget(self)

    def send(self, data: bytes | memoryview) -> None:
        """Send `data` as soon as that is possible."""
        self._unsent = memoryview(bytes(self._unsent) + data) if self._unsent else memoryview(data)
        self._flush()

    def _flush(self) -> None:
        was_blocked = False
        try:
            while self._unsent or self._bulk_left:
                if not self._unsent:
                    self._unsent = PIECE[: self._bulk_left]
                    self._bulk_left -= len(self._unsent)
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except (ssl.SSLWantWriteError, BlockingIOError):
            was_blocked = True
        if was_blocked != self._server.is_writer(self):
            self._server.watch(self, writing=was_blocked)
        if self._closes and not was_blocked:
            self._server.forget(self)

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            self._server.forget(self)
            return
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._unread, 0, end + 2)
            after = end + 4 + (int(length[1]) if length else 0)
            if len(self._unread) < after:
                return
            head, body, self._unread = self._unread[: end + 2], self._unread[end + 4 : after], self._unread[after:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        lower = head.lower()
        self._closes = b"\r\nconnection: close\r\n" in lower
        if head.startswith(b"GET /bulk/"):
            self._bulk_left = int(head.split(b" ", 2)[1].removeprefix(b"/bulk/"))
            self.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self._bulk_left)
        elif head.startswith(b"GET /small"):
            self.send(_closing(SMALL) if self._closes else SMALL)
        elif head.startswith(b"POST /v1/"):
            self.send(SMALL)  # to a collector of telemetry, which it is, too
        elif not (head.startswith(_START) and _AUTHORIZATION in lower and _MODEL in body):
            self.send(NOT_REWRITTEN)
        elif _STREAM.search(body):
            self._closes = False
            self.send(_STREAM_HEAD)
            self._server.stream(self, usage_asked=bool(_USAGE_ASKED.search(body)))
        else:
            self.send(_closing(ANSWER) if self._closes else ANSWER)


class Server:
    """
    Serves at all addresses. `gap`: seconds between the events of a stream.

    It is a loop over epoll, and OpenSSL works on the sockets themselves: an event loop of a library costs twice
    the time for each event of a stream, which the load, on the same core, would lack.
    """

    def __init__(self, context: ssl.SSLContext, gap: float) -> None:
        self._context = context
        self._gap = gap
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._connections: dict[int, Connection] = {}
        self._writers: set[Connection] = set()
        self._streams: list[tuple[float, int, Connection, int, bytes]] = []
        """A heap: when the next event is due, a number, whose it is, how many are left, what comes after them."""
        self._numbers = itertools.count()

    def listen(self, port: int, *, tls: bool) -> None:
        listener = socket.create_server(("0.0.0.0", port), backlog=2048)
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener, tls
        self._epoll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        while True:
            wait = max(0.0, self._streams[0][0] - time.monotonic()) if self._streams else None
            for number, events in self._epoll.poll(wait):
                if number in self._listeners:
                    self._accept(*self._listeners[number])
                elif connection := self._connections.get(number):
                    connection.ready(events)
            while self._streams and self._streams[0][0] <= time.monotonic():
                self._send_event()

    def stream(self, connection: Connection, *, usage_asked: bool) -> None:
        """Begin a stream."""
        end = _FINISH + (_USAGE if usage_asked else b"") + _DONE
        heapq.heappush(self._streams, (time.monotonic(), next(self._numbers), connection, EVENTS, end))

    def watch(self, connection: Connection, *, writing: bool) -> None:
        """Let `connection` know when it can be written to."""
        self._epoll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if writing else 0))
        (self._writers.add if writing else self._writers.discard)(connection)

    def is_writer(self, connection: Connection) -> bool:
        return connection in self._writers

    def forget(self, connection: Connection) -> None:
        """Close a connection."""
        self._connections.pop(connection.socket.fileno(), None)
        self._writers.discard(connection)
        connection.socket.close()

    def _accept(self, listener: socket.socket, tls: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.setblocking(False)
                if tls:
                    accepted = self._context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                self._connections[accepted.fileno()] = Connection(self, accepted)
                self._epoll.register(accepted, select.EPOLLIN)

    def _send_event(self) -> None:
        due, number, connection, left, end = heapq.heappop(self._streams)
        if connection.socket.fileno() < 0:
            return
        try:
            if left:
                connection.send(b"%b%019d%b" % (_BEFORE_TIME, time.monotonic_ns(), _AFTER_TIME))
                heapq.heappush(self._streams, (due + self._gap, number, connection, left - 1, end))
            else:
                connection.send(end)
        except OSError:
            self.forget(connection)


def main() -> None:
    parser = argparse.ArgumentParser(description="Be the bench's provider until killed.")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--gap", type=float, default=0.02, help="seconds between the events of a stream")
    options = parser.parse_args()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate, options.key)
    server = Server(context, options.gap)
    for port in PORTS:
        server.listen(port, tls=True)
    server.listen(PLAIN_PORT, tls=False)
    gc.freeze()
    gc.disable()
    server.run()


if __name__ == "__main__":
    main()

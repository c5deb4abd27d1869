"""
What a protocol costs a client for each call, without any connection: CPU microseconds for writing a request and reading
its answer, by h2 (HTTP/2) and by httptools (HTTP/1.1), in turns.

Run as a program: ``python -m tests.bench.framing [CALLS]``.
"""

import statistics
import sys
import time
from collections.abc import Callable

import h2.events
import httptools
from h2.config import H2Configuration
from h2.connection import H2Connection

ROUNDS = 5
REQUEST, ANSWER = b"x" * 1000, b"y" * 600
FIELDS = [
    (b"host", b"api.example"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
    (b"accept-encoding", b"identity"),
    (b"content-length", b"1000"),
]
ANSWER_FIELDS = [(b"content-type", b"application/json"), (b"content-length", b"600"), (b"x-request-id", b"0123456789")]


def by_h2(calls: int) -> float:
    """Return the seconds of the client's side."""
    client = H2Connection(H2Configuration(header_encoding=None))
    server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    client.initiate_connection()
    server.initiate_connection()
    taken, path = 0.0, [(b":method", b"POST"), (b":path", b"/v1/chat/completions"), (b":scheme", b"https")]
    for _ in range(calls):
        begun = time.process_time()
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, [*path, (b":authority", b"api.example"), *FIELDS[1:]])
        client.send_data(stream, REQUEST, end_stream=True)
        sent = client.data_to_send()
        taken += time.process_time() - begun
        _take(server, sent)
        server.send_headers(stream, [(b":status", b"200"), *ANSWER_FIELDS])
        server.send_data(stream, ANSWER, end_stream=True)
        sent = server.data_to_send()
        begun = time.process_time()
        _take(client, sent)
        sent = client.data_to_send()
        taken += time.process_time() - begun
        _take(server, sent)
    return taken


def _take(connection: H2Connection, data: bytes) -> None:
    for event in connection.receive_data(data):
        if isinstance(event, h2.events.DataReceived):
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


class _Answer:
    """What httptools tells of an answer."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, part: bytes) -> None:
        self.body += part


def by_httptools(calls: int) -> float:
    """Return the seconds of the client's side."""
    line = b"POST /v1/chat/completions HTTP/1.1\r\n"
    answer_head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % field for field in ANSWER_FIELDS) + b"\r\n"
    begun = time.process_time()
    for _ in range(calls):
        b"".join((line, *(b"%b: %b\r\n" % field for field in FIELDS), b"\r\n", REQUEST))
        answer = _Answer()
        httptools.HttpResponseParser(answer).feed_data(answer_head + ANSWER)
        assert answer.body == ANSWER
    return time.process_time() - begun


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    ways: dict[str, Callable[[int], float]] = {"h2": by_h2, "httptools": by_httptools}
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(way(calls))
    for name, measured in seconds.items():
        print(f"{name:10} {1e6 * statistics.median(measured) / calls:8.1f} CPU µs for each call")


if __name__ == "__main__":
    main()

"""Talking to a proxy byte by byte, for what well-behaved clients do not do."""

import contextlib
import json
import socket
import ssl
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

TIMEOUT_SECONDS = 20.0
"""How long an answer may take before the test fails for it."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request; `status` is 0 when nothing did."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self):
        """The error in the body, in OpenAI's shape."""
        return json.loads(self.body)["error"]


def send(port, content, *, say_no_more=False):
    """Send `content`, and return all that comes until the proxy closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as client:
        with contextlib.suppress(ConnectionError):  # it may have heard enough
            client.sendall(content)
            if say_no_more:
                client.shutdown(socket.SHUT_WR)
        return read_to_the_end(client)


def read_to_the_end(client):
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            got += part
    return got


def parse(content):
    """Take apart answers that came one after another, each with a Content-Length or up to the end."""
    answers = []
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(status_line.split()[1])
        length = int(headers.get("content-length", 0 if status < 200 else len(content)))
        answers.append(Answer(status, headers, content[:length]))
        content = content[length:]
    return answers


def tunnel(proxy, ca_file, host):
    """Open a tunnel and in it a TLS session that speaks HTTP/2."""
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_SECONDS)
    client.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n\r\n".encode())
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    trust = ssl.create_default_context(cafile=ca_file)
    trust.set_alpn_protocols(["h2"])
    return trust.wrap_socket(client, server_hostname=host)


class H2:
    """One HTTP/2 connection, that sends whatever it is told to."""

    def __init__(self, client):
        self._client = client
        config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self._conn = h2.connection.H2Connection(config)
        self._conn.initiate_connection()

    def send(self, stream, headers, body=b""):
        self._conn.send_headers(stream, headers, end_stream=not body)
        if body:
            self._conn.send_data(stream, body, end_stream=True)
        self._client.sendall(self._conn.data_to_send())

    def reset(self, stream):
        self._conn.reset_stream(stream)
        self._client.sendall(self._conn.data_to_send())

    def read_until(self, kind, stream):
        """Read until an event of `kind` comes for `stream`, or the connection ends; return all events."""
        events = []
        while not any(isinstance(event, kind) and event.stream_id == stream for event in events):
            received = self._client.recv(65536)
            new = self._conn.receive_data(received) if received else [h2.events.ConnectionTerminated()]
            events += new
            if any(isinstance(event, h2.events.ConnectionTerminated) for event in new):
                break
            self._client.sendall(self._conn.data_to_send())
        return events

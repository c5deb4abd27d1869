"""
A provider that does exactly what a test says, byte for byte.

The stand-in answers as a provider does. This one is for what no provider should do, and for
tests that compare bytes or have to know when each of them was sent.
"""

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sidestream.demo.certificates import Certificate

TIMEOUT_SECONDS = 20.0
"""How long anything may take before the test fails for it."""

EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def sized(content: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        content_type,
        len(content),
        content,
    )


class Line:
    """One connection, as the script has it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def read_request(self) -> bytes:
        """Read one request, head and body; nothing when the client leaves instead."""
        content = bytearray()
        while b"\r\n\r\n" not in content:
            if not (part := self.connection.recv(65536)):
                return b""
            content += part
        length = re.search(rb"\r\ncontent-length: *([0-9]+)", content, re.IGNORECASE)
        end = content.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
        while len(content) < end:
            content += self.connection.recv(65536)
        return bytes(content)

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The TLS layer would say goodbye first.
        socket.socket(fileno=self.connection.detach()).close()

    def wait_until_left(self) -> None:
        """Wait until the client has gone."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.connection.recv(65536):
                pass


@dataclass
class Scripted:
    """`accepted`: connections. `requests`: what came, whole. `refused`: TLS handshakes that came to nothing."""

    port: int
    accepted: int = 0
    requests: list[bytes] = field(default_factory=list)
    refused: int = 0
    failures: list[Exception] = field(default_factory=list)


type Script = Callable[[Line, bytes], None]
"""What to do with a connection after its first request; it is closed at the end."""


@contextlib.contextmanager
def scripted(
    script: Script, certificate: Certificate | None = None, *, port: int = 0, greeting: bytes = b""
) -> Iterator[Scripted]:
    """
    Run `script` for every connection.

    Without `certificate` it speaks plain TCP. `greeting` is sent at once, before anything is read.
    """
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        provider = Scripted(listener.getsockname()[1])
        accepting = threading.Thread(target=_accept, args=(listener, script, context, greeting, provider), daemon=True)
        accepting.start()
        yield provider
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    assert not provider.failures


def _accept(listener, script, context, greeting, provider):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        provider.accepted += 1
        threading.Thread(target=_talk, args=(connection, script, context, greeting, provider), daemon=True).start()


def _talk(raw, script, context, greeting, provider):
    raw.settimeout(TIMEOUT_SECONDS)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        connection = context.wrap_socket(raw, server_side=True) if context else raw
    except OSError:
        provider.refused += 1
        raw.close()
        return
    with connection:
        try:
            line = Line(connection)
            line.send(greeting)
            if request := line.read_request():
                provider.requests.append(request)
                script(line, request)
        except ConnectionError:
            pass  # the proxy went first
        except Exception as e:  # noqa: BLE001 it fails the test, not only this thread
            provider.failures.append(e)

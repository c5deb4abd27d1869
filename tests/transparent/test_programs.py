"""
Real clients and servers of protocols that are none of ours understand each other as without redirection.

Each row is held twice, directly and redirected. What both programs made of it must be equal, and
every byte that one end sent, the other must have heard.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import pytest
import wsproto
import wsproto.events as ws

from tests.transparent import pods
from tests.transparent.tls import client_certificate, public_key_pin

HTTP = 80
LARGE = bytes(range(128)) * 1600
"""More than a window of HTTP/2, and than a record of TLS, holds."""


@dataclass
class Recorded:
    """A connection that remembers what went through it."""

    connection: socket.socket
    sent: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)

    def sendall(self, words: bytes) -> None:
        self.sent += words
        self.connection.sendall(words)

    def recv(self, count: int) -> bytes:
        words = self.connection.recv(count)
        self.heard += words
        return words

    def end(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)


class Encrypted:
    """TLS over a connection."""

    def __init__(self, below: Recorded, context: ssl.SSLContext, server_name: str | None = None) -> None:
        self._below, self._incoming, self._outgoing = below, ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server, server_hostname=server_name)
        self._run(self._tls.do_handshake)

    @property
    def agreed(self) -> list:
        """What both sides agreed on, and who the other one is."""
        return [
            self._tls.version(),
            self._tls.cipher(),
            self._tls.selected_alpn_protocol(),
            self._tls.getpeercert(True),
        ]

    def sendall(self, words: bytes) -> None:
        self._run(self._tls.write, words)

    def recv(self, count: int) -> bytes:
        with contextlib.suppress(ssl.SSLZeroReturnError):
            return self._run(self._tls.read, count)
        return b""

    def end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._below.sendall(self._outgoing.read())

    def _run(self, operation: Callable, *arguments):
        while True:
            try:
                done = operation(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._below.recv(65536)) or self._incoming.write_eof()
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.sendall(self._outgoing.read())


type Connection = Recorded | Encrypted


@dataclass(frozen=True, slots=True)
class Held:
    """What was made of a conversation at its ends. `is_intact`: what either sent, the other heard."""

    by_client: object
    by_server: object
    is_intact: bool


def hold(pod: pods.Pod, origin: socket.socket, row: "Row", *, uid: int) -> Held:
    """Let `row` take place, with the client as an app of `uid`."""

    def serve() -> object:
        with origin.accept()[0] as connection:
            connection.settimeout(pods.TIMEOUT_SECONDS)
            far.append(Recorded(connection))
            made = row.server(far[0])
            while far[0].recv(65536):
                pass
            return made

    far: list[Recorded] = []
    with pod.connect(*origin.getsockname()[:2], uid=uid) as connection, ThreadPoolExecutor(1) as thread:
        served, near = thread.submit(serve), Recorded(connection)
        by_client = row.client(near)
        near.end()
        by_server = served.result()
        while near.recv(65536):
            pass
    return Held(by_client, by_server, (near.sent, far[0].sent) == (far[0].heard, near.heard))


@dataclass(frozen=True, slots=True)
class Row:
    """A client and a server: each takes its end of a connection and returns what it made of the conversation."""

    client: Callable[[Recorded], object]
    server: Callable[[Recorded], object]


def over_tls(row: Row, trusting: ssl.SSLContext, serving: ssl.SSLContext) -> Row:
    """Return `row` in TLS; what both sides agree on is part of what they make of it."""

    def client(below: Recorded) -> list:
        connection = Encrypted(below, trusting, "other.example")
        return [*connection.agreed, row.client(connection), connection.end()]

    def server(below: Recorded) -> list:
        connection = Encrypted(below, serving)
        return [*connection.agreed, row.server(connection)]

    return Row(client, server)


# --- echo, WebSocket, HTTP/2 -------------------------------------------------------------------------------------


def say_and_hear(connection: Connection) -> bytes:
    connection.sendall(LARGE)
    return read_exactly(connection, len(LARGE))


def hear_and_say(connection: Connection) -> bytes:
    heard = read_exactly(connection, len(LARGE))
    connection.sendall(heard[::-1])
    return heard


def read_exactly(connection: Connection, count: int) -> bytes:
    heard = b""
    while len(heard) < count and (part := connection.recv(count - len(heard))):
        heard += part
    return heard


class Heard:
    """What came over a WebSocket, message by message however they were cut."""

    def __init__(self, connection: Connection, side: wsproto.ConnectionType) -> None:
        self.peer, self._connection = wsproto.WSConnection(side), connection
        self.made: list[object] = []
        self._parts: list[str | bytes] = []

    def say(self, *events: ws.Event) -> None:
        self._connection.sendall(b"".join(map(self.peer.send, events)))

    def hear(self) -> ws.Event:
        """Return the next event, a message when it is complete and whole."""
        while True:
            for event in self.peer.events():
                if not isinstance(event, ws.Message):
                    self.made.append(repr(event))
                    return event
                self._parts.append(event.data)
                if event.message_finished:
                    whole = type(event)(type(event.data)().join(self._parts))
                    self._parts.clear()
                    self.made.append(repr(whole))
                    return whole
            self.peer.receive_data(self._connection.recv(65536))


def call_over_websocket(connection: Connection) -> list:
    side = Heard(connection, wsproto.ConnectionType.CLIENT)
    side.say(ws.Request(host="other.example", target="/chat", subprotocols=["chat"]))
    side.hear()
    side.say(ws.TextMessage("hello"))
    side.hear()
    side.say(ws.BytesMessage(LARGE, message_finished=False), ws.Ping(b"there?"), ws.BytesMessage(b"the end"))
    side.hear()
    side.hear()
    side.say(ws.CloseConnection(1000, "bye"))
    side.hear()
    return side.made


def serve_websocket(connection: Connection) -> list:
    side = Heard(connection, wsproto.ConnectionType.SERVER)
    while True:
        match side.hear():
            case ws.Request():
                side.made.clear()  # its key is drawn
                side.say(ws.AcceptConnection(subprotocol="chat"))
            case ws.Message() as message:
                side.say(message)
            case ws.Ping() as ping:
                side.say(ping.response())
            case ws.CloseConnection() as close:
                side.say(close.response())
                return side.made


GRPC = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "other.example"),
    (":path", "/echo.Echo/Say"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def call_over_http2(connection: Connection) -> dict:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    for stream in (1, 3, 5, 7):
        peer.send_headers(stream, GRPC)
        peer.send_data(stream, b"\0\0\0\0\x01%d" % stream, end_stream=stream != 7)
    peer.reset_stream(7)
    peer.ping(b"8 bytes!")
    made = HeardOfStreams()
    while not (made.ended >= {1, 3, 5} and made.pings):
        connection.sendall(peer.data_to_send())
        for event in peer.receive_data(connection.recv(65536)):
            made.take(event, peer)
    peer.close_connection()
    connection.sendall(peer.data_to_send())
    return made.of_streams


def serve_http2(connection: Connection) -> dict:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    peer.initiate_connection()
    made, unsent = HeardOfStreams(), {}
    while not made.is_over:
        connection.sendall(peer.data_to_send())
        heard = connection.recv(65536)
        for event in peer.receive_data(heard):
            made.take(event, peer)
            if isinstance(event, h2.events.StreamEnded):
                peer.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                unsent[event.stream_id] = LARGE
        for stream in list(unsent):
            while unsent.get(stream) and (room := peer.local_flow_control_window(stream)):
                piece = unsent[stream][: min(room, peer.max_outbound_frame_size)]
                peer.send_data(stream, piece)
                unsent[stream] = unsent[stream][len(piece) :]
            if not unsent[stream]:
                peer.send_headers(stream, [("grpc-status", "0")], end_stream=True)
                del unsent[stream]
        made.is_over |= not heard
    return made.of_streams


class HeardOfStreams:
    """What came over HTTP/2, stream by stream however they were mixed."""

    def __init__(self) -> None:
        self.of_streams: dict[int, list] = {}
        self.ended: set[int] = set()
        self.pings: list[bytes] = []
        self.is_over = False

    def take(self, event: h2.events.Event, peer: h2.connection.H2Connection) -> None:
        stream = self.of_streams.setdefault(getattr(event, "stream_id", None) or 0, [])
        match event:
            case h2.events.DataReceived(data=words):
                peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if stream and isinstance(stream[-1], bytes):
                    words = stream.pop() + words
                stream.append(words)
            case h2.events.RequestReceived() | h2.events.ResponseReceived() | h2.events.TrailersReceived():
                stream.append((type(event).__name__, event.headers))
            case h2.events.StreamReset():
                stream.append(("reset", event.error_code))
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.PingAckReceived() | h2.events.PingReceived():
                self.pings.append(event.ping_data)
            case h2.events.ConnectionTerminated():
                self.is_over = True


# --- the rows ----------------------------------------------------------------------------------------------------

ECHO = Row(say_and_hear, hear_and_say)
WEBSOCKET = Row(call_over_websocket, serve_websocket)
HTTP2 = Row(call_over_http2, serve_http2)


@pytest.fixture(scope="session")
def rows(shared_outside) -> dict[str, Row]:
    authority = shared_outside.authority
    certificate, own = authority.issue("other.example", pods.ORIGIN_IPV6), client_certificate(authority)

    def trusting(*alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        context.set_alpn_protocols(alpn)
        return context

    def serving(*alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        context.set_alpn_protocols(alpn)
        return context

    # Trusts this one certificate, whoever issued it.
    pinning = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pinning.load_verify_locations(certificate.cert_file)
    pinning.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

    presenting, asking = trusting(), serving()
    presenting.load_cert_chain(own.cert_file, own.key_file)
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(authority.ca_file)

    old, old_server = trusting(), serving()
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    return {
        "bytes": ECHO,
        "TLS": over_tls(ECHO, trusting(), serving()),
        "TLS 1.2": over_tls(ECHO, old, old_server),
        "TLS with a pinned certificate": over_tls(ECHO, pinning, serving()),
        "TLS with a client's certificate": over_tls(ECHO, presenting, asking),
        "WebSocket": WEBSOCKET,
        "WebSocket over TLS": over_tls(WEBSOCKET, trusting("http/1.1"), serving("http/1.1")),
        "gRPC": HTTP2,
        "gRPC over TLS": over_tls(HTTP2, trusting("h2"), serving("h2")),
    }


NAMES = (
    "bytes",
    "TLS",
    "TLS 1.2",
    "TLS with a pinned certificate",
    "TLS with a client's certificate",
    "WebSocket",
    "WebSocket over TLS",
    "gRPC",
    "gRPC over TLS",
)


@pytest.mark.parametrize("address", [pods.ORIGIN, pods.ORIGIN_IPV6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", NAMES)
def test_both_programs_make_of_it_what_they_would_without_redirection(outside, pod, rows, name, address):
    with outside.listen(HTTP, address) as origin:
        direct = hold(pod, origin, rows[name], uid=pods.PROXY_UID)
        redirected = hold(pod, origin, rows[name], uid=pods.APP_UID)

    assert direct.is_intact
    assert redirected == direct


# --- curl --------------------------------------------------------------------------------------------------------


def serve_http1(connection: Connection) -> bytes:
    """Answer one request and return it, byte for byte."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += connection.recv(65536)
    head, _, body = heard.lower().partition(b"\r\n\r\n")
    if b"\r\nexpect: 100-continue" in head:
        assert body == b""
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
    is_chunked = b"\r\ntransfer-encoding: chunked" in head
    while len(body) < int(length or 0) or (is_chunked and not body.endswith(b"0\r\n\r\n")):
        part = connection.recv(65536)
        heard, body = heard + part, body + part
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nTrailer: x\r\n\r\nok")
    return heard


CURLS = {
    "HTTP/1.1": (["http://other.example/?a=1"], serve_http1),
    "HTTP/1.0": (["-0", "http://other.example/"], serve_http1),
    "over IPv6": (["-g", f"http://[{pods.ORIGIN_IPV6}]/"], serve_http1),
    "an upload that waits to be asked for": (
        ["-H", "Expect: 100-continue", "-d", LARGE[:50_000].hex(), "http://other.example/"],
        serve_http1,
    ),
    "an upload in chunks": (
        ["-H", "Transfer-Encoding: chunked", "-d", LARGE[:50_000].hex(), "http://other.example/"],
        serve_http1,
    ),
    "HTTP/2 with prior knowledge": (["--http2-prior-knowledge", "-d", "hi", "http://other.example/"], serve_http2),
    "HTTP/2 asked for by an upgrade that is declined": (["--http2", "http://other.example/"], serve_http1),
}


def curl(pod: pods.Pod, origin: socket.socket, arguments: list[str], server: Callable, *, uid: int) -> tuple:
    """Let curl call `server`; return its status, what it printed, and what the server made of it."""

    def serve() -> object:
        with origin.accept()[0] as connection:
            connection.settimeout(pods.TIMEOUT_SECONDS)
            return server(Recorded(connection))

    with ThreadPoolExecutor(1) as thread:
        served = thread.submit(serve)
        done = pod.curl("-i", *arguments, uid=uid, check=False)
        return done.returncode, done.stdout, done.stderr, served.result()


@pytest.mark.parametrize(("arguments", "server"), CURLS.values(), ids=CURLS)
def test_curl_says_and_hears_what_it_would_without_redirection(outside, pod, arguments, server):
    with outside.listen(HTTP, pods.ORIGIN_IPV6 if "-g" in arguments else pods.ORIGIN) as origin:
        direct = curl(pod, origin, arguments, server, uid=pods.PROXY_UID)
        redirected = curl(pod, origin, arguments, server, uid=pods.APP_UID)

    assert direct[0] == 0
    assert redirected == direct


def test_curl_finds_the_key_that_it_has_pinned(outside, pod):
    certificate = outside.authority.issue("other.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    trust = ["--cacert", str(outside.authority.ca_file), "--pinnedpubkey", f"sha256//{public_key_pin(certificate)}"]

    def serve(below: Recorded) -> bytes:
        return serve_http1(Encrypted(below, context))

    with outside.listen(HTTP) as origin:
        direct = curl(pod, origin, [*trust, f"https://other.example:{HTTP}/"], serve, uid=pods.PROXY_UID)
        redirected = curl(pod, origin, [*trust, f"https://other.example:{HTTP}/"], serve, uid=pods.APP_UID)

    assert direct[0] == 0
    assert redirected == direct

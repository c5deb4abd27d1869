"""
Providers that fail in every way they have: what each does, byte for byte.

A `Stage` plays them all. A play is a list of pieces: bytes, or what stands in capitals below. Which one a
request gets is in its path, so one listener serves for all that happens after TLS is there.
"""

import contextlib
import gzip
import itertools
import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import brotli

from sidestream.demo.certificates import Authority
from tests.scripted import EVENT_STREAM, LAST_CHUNK, TIMEOUT_SECONDS, Line, chunk, scripted
from tests.world import free_port

DOMAIN = "faults.test"

CUT = "cut"
"""End the connection without goodbye; what was sent arrives."""
RESET = "reset"
STALL = "stall"
"""Say nothing until the client leaves."""
DRIP = "drip"
"""Send a comment now and then until the client leaves."""
HEARD = "heard"
"""Wait until the client has something of the body: a reset could overtake it."""

type Play = list[bytes | str]


def event(delta: dict, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "m-1", "choices": [choice]}).encode() + b"\n\n"


def error_of(code: str) -> bytes:
    return json.dumps({"error": {"message": "no", "type": "made_up", "param": None, "code": code}}).encode()


def answer(status: bytes, body: bytes, *lines: bytes, content_type: bytes = b"application/json") -> bytes:
    """Write a whole answer. `lines`: more of its head."""
    described = [b"content-type: " + content_type, b"content-length: %d" % len(body)]
    return b"\r\n".join([b"HTTP/1.1 " + status, *described, *lines, b"", body])


def chunked(content_type: bytes, *lines: bytes) -> bytes:
    described = [b"content-type: " + content_type, b"transfer-encoding: chunked"]
    return b"\r\n".join([b"HTTP/1.1 200 OK", *described, *lines, b"", b""])


USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
ROLE = event({"role": "assistant", "content": ""})
HALF = ROLE + event({"content": "half"})
ERROR = b"data: " + error_of("overloaded") + b"\n\n"
COMMENTS = b": keep-alive\n\n" * 3
DONE = b"data: [DONE]\n\n"
TOLD_USAGE = b"data: " + json.dumps({"model": "m-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
ALL = ROLE + event({"content": "all"}) + event({"content": " good"}) + event({}, "stop") + TOLD_USAGE + DONE
WHOLE = json.dumps({"model": "m-1", "choices": [{"message": {"content": "all good"}}], "usage": USAGE}).encode()

STREAM = EVENT_STREAM
OLD_STREAM = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
OLD_JSON = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n"
JSON = b"application/json"
SSE = b"text/event-stream"
ZIPPED, BROTLI = b"content-encoding: gzip", b"content-encoding: br"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n"
BAD_CHUNK = b"no size\r\n"
HTML = b"<html>down</html>"

PLAYS: dict[str, Play] = {
    # Nothing of an answer.
    "closes at once": [CUT],
    "resets at once": [RESET],
    "garbage": [b"how do you do?\r\n\r\n"],
    "half a head": [STREAM[:30], CUT],
    "a head without end": [b"HTTP/1.1 200 OK\r\n", b"x: " + b"x" * 300_000, STALL],
    "changes the protocol": [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", STALL],
    "only interim answers": [HINTS, CUT],
    "two lengths": [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"],
    "never answers": [STALL],
    "stalls in the head": [STREAM[:30], STALL],
    # An answer that asks to go elsewhere.
    "429": [answer(b"429 Too Many Requests", error_of("slow_down"))],
    "429 for 7 s": [answer(b"429 Too Many Requests", error_of("slow_down"), b"retry-after: 7")],
    "408": [answer(b"408 Request Timeout", error_of("too_slow"))],
    "500": [answer(b"500 Internal Server Error", error_of("broken_down"))],
    "503 for 7 s": [answer(b"503 Service Unavailable", error_of("busy"), b"retry-after: 7")],
    "502 in HTML": [answer(b"502 Bad Gateway", HTML, content_type=b"text/html")],
    "500 that is cut": [answer(b"500 Internal Server Error", error_of("broken_down"))[:-5], CUT],
    # Answers.
    "400": [answer(b"400 Bad Request", error_of("bad_request"))],
    "401": [answer(b"401 Unauthorized", error_of("bad_key"))],
    "404": [answer(b"404 Not Found", error_of("no_such_model"))],
    "redirect": [answer(b"302 Found", b"", b"location: https://elsewhere.test/", content_type=b"text/plain")],
    # Streams that break off before content.
    "error event": [STREAM, chunk(ERROR), LAST_CHUNK],
    "role, error event": [STREAM, chunk(ROLE), chunk(ERROR), LAST_CHUNK],
    "no events": [STREAM, LAST_CHUNK],
    "only DONE": [STREAM, chunk(DONE), LAST_CHUNK],
    "role, end": [STREAM, chunk(ROLE), LAST_CHUNK],
    "stalls before an event": [STREAM, STALL],
    "comments, stall": [STREAM, chunk(COMMENTS), STALL],
    "comments for ever": [STREAM, DRIP],
    "role, stall": [STREAM, chunk(ROLE), STALL],
    "cut before an event": [STREAM, CUT],
    "role, cut": [STREAM, chunk(ROLE), CUT],
    "role, reset": [STREAM, chunk(ROLE), RESET],
    "cut in the first event": [STREAM, chunk(ROLE[:20]), CUT],
    "role, bad chunk": [STREAM, chunk(ROLE), BAD_CHUNK],
    "role, cut, HTTP/1.0": [OLD_STREAM, ROLE, CUT],
    "gzip that is none, stream": [chunked(SSE, ZIPPED), chunk(ALL), LAST_CHUNK],
    # JSON that breaks off.
    "JSON, cut": [answer(b"200 OK", WHOLE)[:-10], CUT],
    "JSON, reset": [answer(b"200 OK", WHOLE)[:-10], RESET],
    "JSON, stall": [answer(b"200 OK", WHOLE)[:-10], STALL],
    "JSON, bad chunk": [chunked(JSON), chunk(WHOLE[:-10]), BAD_CHUNK],
    "JSON, cut, chunks": [chunked(JSON), chunk(WHOLE[:-10]), CUT],
    "JSON, cut, HTTP/1.0": [OLD_JSON, WHOLE[:-10], CUT],
    "gzip that is none": [answer(b"200 OK", WHOLE, ZIPPED)],
    "gzip that is half": [answer(b"200 OK", gzip.compress(WHOLE)[:-20], ZIPPED)],
    "br that is half": [answer(b"200 OK", brotli.compress(WHOLE)[:-10], BROTLI)],
    # Streams that break off after content.
    "half, cut": [STREAM, chunk(HALF), CUT],
    "half, reset": [STREAM, chunk(HALF), HEARD, RESET],
    "half, stall": [STREAM, chunk(HALF), STALL],
    "half, comments, stall": [STREAM, chunk(HALF + COMMENTS), STALL],
    "half, comments for ever": [STREAM, chunk(HALF), DRIP],
    "half, error event": [STREAM, chunk(HALF + ERROR), LAST_CHUNK],
    "half, cut in an event": [STREAM, chunk(HALF + HALF[:30]), CUT],
    "half, end": [STREAM, chunk(HALF), LAST_CHUNK],
    "all but DONE, end": [STREAM, chunk(ALL.removesuffix(DONE)), LAST_CHUNK],
    "half, bad chunk": [STREAM, chunk(HALF), BAD_CHUNK],
    "half, cut, HTTP/1.0": [OLD_STREAM, HALF, CUT],
    "half, not gzip any more": [
        chunked(SSE, ZIPPED),
        chunk(gzip.compress(HALF)[:-8]),
        HEARD,
        chunk(bytes(50)),
        LAST_CHUNK,
    ],
    "half, short of its length": [answer(b"200 OK", HALF + ALL, content_type=SSE)[: -len(ALL)], CUT],
    "all, cut": [STREAM, chunk(ALL), CUT],
    # In good health, if odd.
    "stream": [STREAM, chunk(ALL), LAST_CHUNK],
    "stream, byte by byte": [STREAM, *(chunk(bytes([byte])) for byte in ALL), LAST_CHUNK],
    "stream, CRLF and comments": [STREAM, chunk((COMMENTS + ALL + COMMENTS).replace(b"\n", b"\r\n")), LAST_CHUNK],
    "stream of known length": [answer(b"200 OK", ALL, content_type=SSE)],
    "stream, hints": [HINTS, b"HTTP/1.1 100 Continue\r\n\r\n", HINTS, STREAM, chunk(ALL), LAST_CHUNK],
    "stream, trailers": [STREAM, chunk(ALL), b"0\r\nx-checksum: 1\r\n\r\n"],
    "stream, gzip": [
        chunked(SSE, ZIPPED),
        *(chunk(bytes(part)) for part in itertools.batched(gzip.compress(ALL), 9)),
        LAST_CHUNK,
    ],
    "stream, br": [chunked(SSE, BROTLI), chunk(brotli.compress(ALL)), LAST_CHUNK],
    "stream, zstd": [chunked(SSE, b"content-encoding: zstd"), chunk(b"\x28\xb5\x2f\xfd nobody reads this"), LAST_CHUNK],
    "stream, HTTP/1.0": [OLD_STREAM, ALL, CUT],
    "stream, closes": [chunked(SSE, b"connection: close"), chunk(ALL), LAST_CHUNK, CUT],
    "JSON": [answer(b"200 OK", WHOLE)],
    "JSON, chunks": [chunked(JSON), chunk(WHOLE[:9]), chunk(WHOLE[9:]), LAST_CHUNK],
    "JSON, hints": [HINTS, answer(b"200 OK", WHOLE)],
    "JSON, trailers": [chunked(JSON), chunk(WHOLE), b"0\r\nx-checksum: 1\r\n\r\n"],
    "JSON, gzip": [answer(b"200 OK", gzip.compress(WHOLE), ZIPPED)],
    "JSON, br": [answer(b"200 OK", brotli.compress(WHOLE), BROTLI)],
    "JSON, HTTP/1.0": [OLD_JSON, WHOLE, CUT],
    "JSON, more than its length": [answer(b"200 OK", WHOLE) + b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}"],
}
"""What is done after TLS is there: name → play."""

BEFORE_TLS = (
    "refused",
    "black hole",
    "no such name",
    "wrong certificate",
    "unknown CA",
    "plain text",
    "plain HTTP",
    "closes before TLS",
    "hangs before TLS",
)


def slug(name: str) -> str:
    """Return `name` as it may stand in a path and a host."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Received:
    """One request that a provider got. `play`: what it was asked for, by its path. `tag`: which call it is of."""

    play: str
    host: str
    key: str
    model: str
    tag: str


@dataclass
class Stage:
    """All providers. `endpoints`: where each that fails before TLS is there can be found."""

    ca_file: str
    port: int = 0
    endpoints: dict[str, dict] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    heard: defaultdict[str, threading.Event] = field(default_factory=lambda: defaultdict(threading.Event))

    def endpoint(self, play: str) -> dict:
        # Whoever is well is trusted by the proxy's own option.
        tls = {} if play in ("stream", "JSON") else {"tls": {"caFile": self.ca_file}}
        return {"host": "127.0.0.1", "port": self.port} | self.endpoints.get(play, {}) | tls

    def perform(self, line: Line, request: bytes) -> None:
        """Play what each request on a connection asks for."""
        with contextlib.suppress(OSError):  # the proxy may leave at any time
            while request:
                received = _read(request)
                self.received.append(received)
                if not self._play(line, _BY_SLUG[received.play], received.tag):
                    return
                request = line.read_request()

    def _play(self, line: Line, play: Play, tag: str) -> bool:
        for piece in play:
            match piece:
                case bytes():
                    line.send(piece)
                case "heard":
                    assert self.heard[tag].wait(TIMEOUT_SECONDS)
                case "stall":
                    line.wait_until_left()
                    return False
                case "drip":
                    while True:
                        line.send(chunk(COMMENTS))
                        time.sleep(0.05)
                case "reset":
                    line.reset()
                    return False
                case _:
                    return False
        return True


_BY_SLUG = {slug(name): play for name, play in PLAYS.items()}


def _read(request: bytes) -> Received:
    head, _, content = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = json.loads(content)
    play = first.split()[1].split("/")[1]
    return Received(
        play, fields["host"], fields.get("authorization", ""), body["model"], body["messages"][0]["content"]
    )


@contextlib.contextmanager
def make_stage(authority: Authority, another: Authority) -> Iterator[Stage]:
    """Set up all providers. `another`: a CA that nobody trusts."""
    stage = Stage(str(authority.ca_file))
    with contextlib.ExitStack() as stack:
        certificate = authority.issue(f"*.{DOMAIN}")
        stage.port = stack.enter_context(scripted(stage.perform, certificate)).port

        def put(name, issued=None, script=lambda line, _: None, greeting=b""):
            provider = stack.enter_context(scripted(script, issued, greeting=greeting))
            stage.endpoints[name] = {"host": "127.0.0.1", "port": provider.port}

        put("wrong certificate", authority.issue("somebody-else.test"))
        put("unknown CA", another.issue(f"*.{DOMAIN}"))
        put("plain text", greeting=b"220 this is no TLS\r\n")
        put("plain HTTP", greeting=b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        stage.endpoints["refused"] = {"host": "127.0.0.1", "port": free_port()}
        stage.endpoints["no such name"] = {"host": "nobody.invalid"}
        stage.endpoints["black hole"] = {"host": "127.0.0.1", "port": stack.enter_context(_black_hole())}
        stage.endpoints["hangs before TLS"] = {"host": "127.0.0.1", "port": stack.enter_context(_listener(128))}
        stage.endpoints["closes before TLS"] = {"host": "127.0.0.1", "port": stack.enter_context(_closer())}
        yield stage


@contextlib.contextmanager
def _listener(backlog: int) -> Iterator[int]:
    """Listen, and accept nobody: whom the backlog has room for gets a connection that says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def _black_hole() -> Iterator[int]:
    """Listen with no room left, so that a SYN is never answered."""
    with _listener(0) as port, contextlib.ExitStack() as stack:
        for _ in range(3):
            taken = stack.enter_context(socket.socket())
            taken.setblocking(False)
            taken.connect_ex(("127.0.0.1", port))
        yield port


@contextlib.contextmanager
def _closer() -> Iterator[int]:
    """Accept and close."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def close_all():
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    closing = threading.Thread(target=close_all, daemon=True)
    closing.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    closing.join()
    listener.close()

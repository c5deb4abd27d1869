"""
What a connection speaks, told from its first bytes.

The proxy must know whether a policy could name a connection before it touches it: what is
no policy's business is passed through unparsed. `sniff` never guesses. Only a complete
HTTP/1 request head counts as HTTP, so text protocols that look alike (`GET key`) are not
taken for it, and an incomplete head waits for the rest.

Source: RFC 9112, 2.1-3.2 (message, request line, absolute-form); RFC 8446, 5.1 (TLS record).
"""

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
"""How much of a request head is waited for, in bytes. A longer one is no HTTP to us."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """More bytes are needed to tell."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A TLS handshake starts."""


@dataclass(frozen=True, slots=True)
class Http:
    """An HTTP/1 request whose head is complete. `hosts`: every host it names, as written."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else."""


type FirstBytes = Incomplete | Tls | Http | Opaque

# CONNECT is not among them: where connections are redirected it is meant for a proxy of the app's own.
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"TRACE ", b"PATCH ", b"QUERY ")
_REQUEST_LINE = re.compile(rb"[A-Z]+ (\S+) HTTP/1\.[0-9]\r?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_HOST = re.compile(rb"^host[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)  # blanks in it would be tried again and again
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def sniff(data: bytes) -> FirstBytes:
    """Tell what a client that has sent `data` so far speaks."""
    if _starts(data, b"\x16\x03"):
        return Tls() if len(data) > 2 else Incomplete()
    head = data[:MAX_HEAD_BYTES].lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines may come first
    if not any(_starts(head, method) for method in _METHODS):
        return Opaque()
    line, newline, _ = head.partition(b"\n")
    if newline:
        request_line = _REQUEST_LINE.fullmatch(line)
        if request_line is None:
            return Opaque()
        if end := _HEAD_END.search(head):
            return Http(_hosts(request_line[1], head[len(line) + 1 : end.start()]))
    return Opaque() if len(data) > MAX_HEAD_BYTES else Incomplete()


def _starts(data: bytes, start: bytes) -> bool:
    """Tell whether `data` begins with `start`, or may still come to."""
    return data.startswith(start) or start.startswith(data)


def _hosts(target: bytes, fields: bytes) -> tuple[str, ...]:
    # All of them: which one a server would believe differs, and none may slip past a policy.
    found = [host.strip(b" \t\r") for host in _HOST.findall(fields)]
    if absolute := _ABSOLUTE.match(target):
        found.insert(0, absolute[1].rpartition(b"@")[2])
    return tuple(host.decode("utf-8", "replace") for host in found)

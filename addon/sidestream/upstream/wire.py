"""
The bytes of a request, and those of an error that repeats its key. This is the one place where a key is revealed.

Source: RFC 9112 (framing), RFC 6750 (`Authorization: Bearer`).
"""

import re

from sidestream.core.calls import Outgoing
from sidestream.core.secret import REDACTED, Secret

_ENDS_HERE = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
    }
)
"""Fields that are between the client and us only, or that are written anew (RFC 9110, 7.6.1)."""

SHORTEST_KEY = 8
"""A key shorter than this, in characters, is none: local servers are given words like `EMPTY`."""

_SENDS_BODY = frozenset({b"POST", b"PUT", b"PATCH", b"QUERY"})
_BREAK = re.compile(rb"[\r\n\0]")


def head_bytes(outgoing: Outgoing, key: Secret | None) -> bytes:
    """
    Return the head of `outgoing`, with `key` as its credential.

    Raises:
        ValueError: a field would break the head. The message does not hold it.
    """
    dropped = _ENDS_HERE | _named_by_connection(outgoing)
    lines = [b"%s %s HTTP/1.1" % (outgoing.method, outgoing.target)]
    for name, value in outgoing.fields:
        lower = name.lower()
        if lower not in dropped and not (key is not None and lower == b"authorization"):
            lines.append(b"%s: %s" % (name, value))
    if key is not None:
        lines.append(b"Authorization: Bearer " + key.reveal().encode("latin-1"))
    if outgoing.body or outgoing.method in _SENDS_BODY:
        lines.append(b"Content-Length: %d" % len(outgoing.body))
    if any(_BREAK.search(line) for line in lines):
        raise ValueError("a line of the request's head holds a line break or NUL")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def without_key(said: bytes, key: Secret | None) -> bytes:
    """Return what a provider `said` without `key`: some repeat in an error what they were sent."""
    written = key.reveal().encode("latin-1") if key is not None else b""
    return said.replace(written, REDACTED.encode()) if len(written) >= SHORTEST_KEY else said


def _named_by_connection(outgoing: Outgoing) -> frozenset[bytes]:
    # Whoever names `host` wants to break what comes after us.
    named = {
        part.strip().lower()
        for name, value in outgoing.fields
        if name.lower() == b"connection"
        for part in value.split(b",")
    }
    return frozenset(named - {b"host", b"content-type", b"accept-encoding"})

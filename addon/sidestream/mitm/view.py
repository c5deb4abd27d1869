"""
From a flow to what the policy sees of it.

A request can name its host in several places: the Host header, HTTP/2's `:authority`, the
target of an absolute-form request. They must agree, or somebody could be told two things.
"""

import re
import zlib

from mitmproxy import http
from mitmproxy.proxy.mode_specs import RegularMode, ReverseMode

from sidestream.core.body import Body, read_object
from sidestream.core.hosts import normalise_host
from sidestream.core.routing import RequestView
from sidestream.core.secret import CREDENTIAL_HEADERS, REDACTED, without_credentials
from sidestream.core.snapshot import Labels
from sidestream.mitm.fields import changed

MAX_DECODED_BYTES = 64 * 1024 * 1024
"""How large an encoded body may become, in bytes."""

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content-Encoding → what zlib is told. Others are rare in requests."""

_CREDENTIALS = frozenset(name.encode() for name in CREDENTIAL_HEADERS)

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[^\x00-\x20\x7f]+")
_BREAKS = re.compile(rb"[\r\n\0]")


def named_hosts(flow: http.HTTPFlow) -> frozenset[str]:
    """Return every host that the request of `flow` names, normalised."""
    request, mode = flow.request, flow.client_conn.proxy_mode
    names = request.headers.get_all("host")
    if request.authority and (request.is_http2 or not isinstance(mode, ReverseMode)):
        names.append(request.authority)
    if isinstance(mode, RegularMode) and flow.server_conn.address is None and request.host:
        names.append(request.host)  # the target of an absolute-form request; mitmproxy cut it off
    return frozenset(normalise_host(name) for name in names)


def is_well_formed(request: http.Request) -> bool:
    """
    Tell whether the head stays the same head when it is written as HTTP/1.

    mitmproxy takes folded lines, bare CR and NUL in values, and, from HTTP/2, spaces in the
    method and path; a provider could read another request in them (RFC 9112, 2.2, 3 and 5.2).
    """
    return (
        _METHOD.fullmatch(request.data.method) is not None
        and _TARGET.fullmatch(request.data.path) is not None
        and not any(_BREAKS.search(value) for _, value in request.headers.fields)
    )


def head_bytes(request: http.Request) -> int:
    """Return how large the head is, as HTTP/1 would write it."""
    return len(request.data.path) + sum(len(name) + len(value) + 4 for name, value in request.headers.fields)


def header_values(request: http.Request) -> dict[str, str]:
    """Return the headers by lower-case name, several values joined."""
    values: dict[str, str] = {}
    for name, value in request.headers.items(multi=True):
        key = name.lower()
        values[key] = f"{values[key]}, {value}" if key in values else value
    return values


def redact_credentials(request: http.Request) -> None:
    """Take the client's credentials out of what is shown; they are not for the provider either."""
    fields = request.headers.fields
    if found := {key for name, _ in fields if (key := name.lower()) in _CREDENTIALS}:
        request.headers.fields = changed(fields, dict.fromkeys(found, REDACTED.encode()))
    if b"?" in request.data.path:
        request.path = without_credentials(request.path)


def read_body(request: http.Request) -> Body | None:
    """
    Return the JSON object in the body of `request`, or ``None`` when it holds none.

    Raises:
        ValueError: its Content-Encoding is unknown, does not fit the bytes, or blows them up
            beyond `MAX_DECODED_BYTES`.
    """
    content, encoding = request.raw_content or b"", request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in _WINDOW_BITS:
        content = _inflate(content, _WINDOW_BITS[encoding])
    elif encoding not in ("identity", ""):
        raise ValueError(f"Content-Encoding {encoding!r} is not known here")
    return read_object(content) if content else None


def _inflate(content: bytes, window_bits: int) -> bytes:
    # mitmproxy's own decoding knows no bound: a few hundred kilobytes can become a gigabyte.
    inflate = zlib.decompressobj(window_bits)
    try:
        decoded = inflate.decompress(content, MAX_DECODED_BYTES)
    except zlib.error as e:
        raise ValueError("the body does not fit its Content-Encoding") from e
    if not inflate.eof:
        raise ValueError("the body is cut off, or larger than it may be")
    return decoded


def request_view(
    flow: http.HTTPFlow, host: str, headers: dict[str, str], body: Body | None, labels: Labels
) -> RequestView:
    """Return the policy's view of the request of `flow`, whose `headers` were taken before redaction."""
    return RequestView(flow.request.method, host, flow.request.path, headers, body, labels)

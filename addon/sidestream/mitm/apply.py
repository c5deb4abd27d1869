"""
The seam to the upstream half: a plan, applied to mitmproxy's own flow.

The flow becomes the request as it is sent, all but the key, which goes into the wire copy
only (mitm/engine/http.py). Applying a plan twice is applying it once.
"""

from mitmproxy import http

from sidestream.core.errors import ClientError
from sidestream.core.planning import Attempt
from sidestream.core.secret import REDACTED
from sidestream.mitm.fields import Fields, changed

_HOP_BY_HOP: dict[bytes, bytes | None] = dict.fromkeys((b"proxy-connection", b"keep-alive", b"te", b"trailer"))
"""Headers between the client and us only, besides those that mitmproxy takes care of (RFC 9110, 7.6.1)."""


def apply(attempt: Attempt, flow: http.HTTPFlow) -> None:
    """Turn the request of `flow` into what `attempt` sends."""
    request, endpoint = flow.request, attempt.endpoint
    # The port last: its setter rebuilds Host from all three.
    request.scheme = "https" if endpoint.tls else "http"
    request.data.host = endpoint.host
    request.port = endpoint.port
    request.path = attempt.target
    if not request.is_http2:
        request.authority = ""  # origin-form, whatever form the client used
    values = _HOP_BY_HOP | {_bytes(name.lower()): None for name in attempt.remove_headers}
    for name, value in attempt.set_headers:
        if name == "host":
            request.host_header = value
        else:
            values[_bytes(name.lower())] = _bytes(value)
    if attempt.key is not None:
        values[b"authorization"] = b"Bearer " + REDACTED.encode()
    if attempt.body is not None:
        values[b"content-encoding"] = None
        request.raw_content = attempt.body
    request.trailers = None
    request.headers.fields = _framed(changed(request.headers.fields, values), request.raw_content or b"")


def answer(error: ClientError, flow: http.HTTPFlow) -> None:
    """Answer `flow` with `error`; nothing is sent on."""
    headers = {"content-type": "application/json"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    flow.response = http.Response.make(error.status, error.body(), headers)


def _framed(fields: Fields, body: bytes) -> Fields:
    # Always a Content-Length: HTTP/2 clients may send none, and mitmproxy would send such a body unframed.
    if body or any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in fields):
        return changed(fields, {b"transfer-encoding": None, b"content-length": b"%d" % len(body)})
    return fields


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as mitmproxy reads them

"""
The seam to the upstream half: a plan, applied to mitmproxy's own flow.

The flow becomes the request as it is sent, all but the key, which goes into the wire copy
only (mitm/engine/http.py). Applying a plan twice is applying it once.
"""

from mitmproxy import http

from sidestream.core.errors import ClientError
from sidestream.core.planning import Attempt
from sidestream.core.secret import REDACTED

_HOP_BY_HOP = ("proxy-connection", "keep-alive", "te", "trailer")
"""Headers between the client and us only, besides those that mitmproxy takes care of (RFC 9110, 7.6.1)."""


def apply(attempt: Attempt, flow: http.HTTPFlow) -> None:
    """Turn the request of `flow` into what `attempt` sends."""
    request, endpoint = flow.request, attempt.endpoint
    # Scheme first: the host and port setters rebuild Host from it.
    request.scheme = "https" if endpoint.tls else "http"
    request.host = endpoint.host
    request.port = endpoint.port
    request.path = attempt.target
    if not request.is_http2:
        request.authority = ""  # origin-form, whatever form the client used
    # What gets another value keeps its place, so that a second time changes nothing.
    replaced = {"authorization"} if attempt.key is not None else set()
    for name in {*attempt.remove_headers, *_HOP_BY_HOP} - replaced:
        request.headers.pop(name, None)
    for name, value in attempt.set_headers:
        if name == "host":
            request.host_header = value
        else:
            request.headers[name] = value
    if attempt.key is not None:
        request.headers["authorization"] = f"Bearer {REDACTED}"
    _frame(request, attempt.body)


def answer(error: ClientError, flow: http.HTTPFlow) -> None:
    """Answer `flow` with `error`; nothing is sent on."""
    headers = {"content-type": "application/json"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    flow.response = http.Response.make(error.status, error.body(), headers)


def _frame(request: http.Request, body: bytes | None) -> None:
    # Always a Content-Length: HTTP/2 clients may send none, and mitmproxy would send such a body unframed.
    if body is not None:
        request.headers.pop("content-encoding", None)
        request.raw_content = body
    request.trailers = None
    if request.raw_content or "content-length" in request.headers or "transfer-encoding" in request.headers:
        request.headers.pop("transfer-encoding", None)
        request.headers["content-length"] = str(len(request.raw_content or b""))

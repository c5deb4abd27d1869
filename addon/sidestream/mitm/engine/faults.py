"""What errors in mitmproxy's layers are called in a record, and to a client."""

from mitmproxy.proxy.layers.http._events import ErrorCode, RequestProtocolError, ResponseProtocolError

from sidestream.core.errors import Fault
from sidestream.mitm.engine.http1 import InvalidRequest
from sidestream.mitm.engine.upstream import UpstreamFailed


def fault_of(event: RequestProtocolError | ResponseProtocolError) -> Fault:
    """Return who ended an exchange."""
    if isinstance(event, InvalidRequest):
        return "invalid_request"
    if isinstance(event, UpstreamFailed):
        return event.fault
    return "client_disconnected" if isinstance(event, RequestProtocolError) else "provider_failed"


def fault_of_answer(event: ResponseProtocolError) -> Fault:
    """Return why there is no answer. mitmproxy knows no more of it than its code."""
    if isinstance(event, UpstreamFailed):
        return event.fault
    match event.code.http_status_code():
        case 400:
            return "invalid_request"
        case 413:
            return "body_too_large"
        case _:
            return "provider_unreachable" if event.code is ErrorCode.CONNECT_FAILED else "provider_failed"

"""
Hooks about requests: view → decide → plan → apply, and one record at the end.

An exception never leaves a hook: mitmproxy would log it and let the request go on, unrewritten.
"""

import contextlib
import logging
import random
import time
from collections.abc import Callable
from weakref import WeakSet

from mitmproxy import connection, http
from mitmproxy.flow import Error

from sidestream.core.errors import INTERNAL_ERROR, ClientError
from sidestream.core.exchange import Exchange
from sidestream.core.operations import OTHER
from sidestream.core.planning import Attempt, Plan, plan
from sidestream.core.routing import Forward, PassThrough, Reject, decide
from sidestream.core.usage import MAX_JSON_BYTES, Meter
from sidestream.mitm.apply import answer, apply
from sidestream.mitm.current import Current
from sidestream.mitm.engine.http import BODY_TOO_LARGE, Fault, client_error
from sidestream.mitm.exchanges import Exchanges, Open
from sidestream.mitm.view import header_values, is_well_formed, named_hosts, read_body, redact_credentials, request_view

logger = logging.getLogger(__name__)

AMBIGUOUS_HOST = ClientError(400, "ambiguous_host", "the request names more than one host; name one")
MALFORMED_HEAD = ClientError(
    400, "malformed_head", "the request's head holds line breaks, NUL, or spaces where none may be"
)
UNREADABLE_BODY = ClientError(
    415,
    "unsupported_content_encoding",
    "the body's Content-Encoding is not known here (gzip and deflate are) or does not fit it",
)
REPLAYED = ClientError(
    409, "replayed_flow", "a flow that is replayed gets no key: send the request through the proxy again"
)


class RequestHooks:
    """The hooks of requests and answers, and what the engine asks about them."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._exchanges = Exchanges()
        self._governed: WeakSet[http.HTTPFlow] = WeakSet()  # outlives an exchange, for the error that ends it

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Begin an exchange when a policy names the host; otherwise stream the request as it comes."""
        try:
            snapshot, hosts = self._current.snapshot, named_hosts(flow)
            governed = sorted(host for host in hosts if snapshot.governs(host))
            if not governed:
                flow.request.stream = True
                return
            opened = self._exchanges.begin(flow, snapshot, governed[0], header_values(flow.request))
            self._governed.add(flow)
            if self._current.settings.fail_open:
                opened.original = flow.request.copy()
            if len(hosts) > 1:
                opened.exchange.decision = Reject(AMBIGUOUS_HOST)
            elif not is_well_formed(flow.request):
                opened.exchange.decision = Reject(MALFORMED_HEAD)
            redact_credentials(flow.request)
        except Exception:
            logger.exception("the head of a request could not be judged")
            self._fail(flow)

    def request(self, flow: http.HTTPFlow) -> None:
        """Decide, plan, apply."""
        try:
            opened = self._exchanges.of(flow)
            if opened is None or flow.response is not None:
                return
            opened.exchange.bytes_in = len(flow.request.raw_content or b"")
            if opened.original is not None:
                opened.original.raw_content = flow.request.raw_content
            rejected = self._govern(flow, opened)
            if rejected is not None:
                opened.exchange.decision = rejected
                answer(rejected.error, flow)
        except Exception:
            logger.exception("a request could not be governed")
            self._fail(flow)

    def _govern(self, flow: http.HTTPFlow, opened: Open) -> Reject | None:
        exchange = opened.exchange
        if isinstance(exchange.decision, Reject):
            return exchange.decision
        if flow.is_replay:
            return Reject(REPLAYED)  # mitmproxy replays through its own layers, which can't be specialised
        body, is_readable = None, True
        try:
            body = read_body(flow.request)
        except ValueError:
            is_readable = False  # which only chat minds
        view = request_view(flow, opened.host, opened.headers, body, self._current.settings.labels)
        decision = decide(view, opened.snapshot, draw=random.random())  # noqa: S311 it shares out load
        exchange.decision = decision
        match decision:
            case Reject():
                return decision
            case Forward():
                planned = plan(decision, view)
                if isinstance(planned, Reject):
                    return planned if is_readable else Reject(UNREADABLE_BODY, planned.route, planned.rule)
                exchange.plan = planned
                apply(planned.attempt, flow)
                return None
            case PassThrough():
                raise AssertionError("an exchange was begun for a host that its snapshot does not govern")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the answer as it comes, except JSON: cut in the middle, that becomes an error."""
        try:
            opened = self._exchanges.of(flow)
            assert flow.response is not None, "the hook comes with a response"
            if opened is None:
                flow.response.stream = True
                return
            headers = flow.response.headers
            opened.exchange.answered(flow.response.status_code, now=time.monotonic())
            if opened.exchange.plan is None:
                return  # our own answer
            opened.exchange.meter = Meter(headers.get("content-type", ""), headers.get("content-encoding", ""))
            is_whole = flow.response.raw_content is not None  # another addon has answered
            if not is_whole and not _is_held(opened.exchange.plan, headers):
                flow.response.stream = _tap(opened)
        except Exception:
            logger.exception("an answer could not be judged; it goes on as it is")

    def response(self, flow: http.HTTPFlow) -> None:
        """Record a finished exchange."""
        try:
            opened = self._exchanges.end(flow)
            if opened is None:
                return
            assert flow.response is not None, "the hook comes with a response"
            if flow.response.stream:
                flow.response.raw_content = bytes(opened.kept)
            else:
                opened.exchange.passed(flow.response.raw_content or b"")
            self._record(opened)
        except Exception:
            logger.exception("an exchange could not be recorded")

    def error(self, flow: http.HTTPFlow) -> None:
        """Record an exchange that broke off."""
        try:
            opened = self._exchanges.end(flow)
            if opened is None:
                return
            fault = _fault(flow, opened)
            if flow.response is not None and flow.response.stream:
                flow.response.raw_content = bytes(opened.kept)
            else:
                _tell(opened.exchange, flow, client_error(fault, flow.error.msg if flow.error is not None else ""))
            self._record(opened, error=fault)
        except Exception:
            logger.exception("an exchange could not be recorded")

    def client_disconnected(self, client: connection.Client) -> None:
        """Record what a failure of a layer left open."""
        try:
            for opened in self._exchanges.end_all(client):
                self._record(opened, error=opened.fault or "internal_error")
        except Exception:
            logger.exception("an exchange could not be recorded")

    def _record(self, opened: Open, error: str | None = None) -> None:
        record = opened.exchange.finish(now=time.monotonic(), error=error)
        if record is not None:
            self._current.publish(record)

    def _fail(self, flow: http.HTTPFlow) -> None:
        """Answer for our own bug. A request is never sent on half rewritten."""
        opened = self._exchanges.of(flow)
        if self._current.settings.fail_open:
            if opened is not None and opened.original is not None:
                flow.request = opened.original
                self._governed.discard(flow)
                opened.exchange.plan = None
                self._exchanges.end(flow)
                self._record(opened, error="internal_error")
            return
        if opened is not None:
            opened.exchange.decision, opened.exchange.plan = Reject(INTERNAL_ERROR), None
        answer(INTERNAL_ERROR, flow)
        with contextlib.suppress(Exception):  # that may be where the bug is
            redact_credentials(flow.request)

    # What the engine asks (see `mitm.engine.http.Governor`).

    def governs(self, host: str) -> bool:
        """Tell whether a policy names `host`, as a client wrote it."""
        return self._current.governs(host)

    def is_governed(self, flow: http.HTTPFlow) -> bool:
        """Tell whether a policy named the host of `flow` when it came."""
        return flow in self._governed

    def attempt_of(self, flow: http.HTTPFlow) -> Attempt | None:
        """Return what is sent for `flow`."""
        opened = self._exchanges.of(flow)
        return opened.exchange.plan.attempt if opened is not None and opened.exchange.plan is not None else None

    def note_fault(self, flow: http.HTTPFlow, fault: Fault) -> None:
        """Take note of who ended `flow` early."""
        if (opened := self._exchanges.of(flow)) is not None and opened.fault is None:
            opened.fault = fault


def _is_held(planned: Plan, headers: http.Headers) -> bool:
    """Tell whether an answer is held until it is complete: short JSON of an operation that is known."""
    if planned.operation is OTHER:
        return False
    length = headers.get("content-length", "")
    is_long = length.isdecimal() and int(length) > MAX_JSON_BYTES
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" and not is_long


def _tap(opened: Open) -> Callable[[bytes], bytes | list[bytes]]:
    def tap(chunk: bytes) -> bytes | list[bytes]:
        try:
            opened.tap(chunk)
        except Exception:
            logger.exception("an answer could not be metered; it goes on as it is")
        return chunk or []  # mitmproxy takes b"" for the end

    return tap


def _tell(exchange: Exchange, flow: http.HTTPFlow, error: ClientError | None) -> None:
    """Note that the client is told of `error`, or of nothing: it is gone."""
    if error is None:
        exchange.status = None
        return
    exchange.answered(error.status, now=time.monotonic())
    if flow.request.method != "HEAD":
        exchange.bytes_out = len(error.body())


def _fault(flow: http.HTTPFlow, opened: Open) -> Fault:
    """Return a stable word for why the exchange of `flow` broke off."""
    if flow.error is not None and flow.error.msg == Error.KILLED_MESSAGE:
        return "killed"
    if opened.fault is not None:
        return opened.fault
    if opened.exchange.plan is None:
        is_too_large = flow.error is not None and flow.error.msg == BODY_TOO_LARGE
        return "body_too_large" if is_too_large else "invalid_request"
    return "provider_unreachable" if flow.response is None else "provider_failed"

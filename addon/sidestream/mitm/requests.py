"""
Hooks about requests: view → decide → plan → apply, and one record at the end.

An exception never leaves a hook: mitmproxy would log it and let the request go on, unrewritten.
"""

import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

from mitmproxy import connection, http
from mitmproxy.flow import Error

from sidestream.core.attempts import Attempts, Health
from sidestream.core.calls import Upstream
from sidestream.core.errors import INTERNAL_ERROR, ClientError, Fault, client_error
from sidestream.core.exchange import Content, Exchange
from sidestream.core.operations import OTHER
from sidestream.core.planning import Attempt, Plan, plan
from sidestream.core.routing import Forward, PassThrough, Reject, RequestView, decide, hashed_draw
from sidestream.core.usage import MAX_JSON_BYTES
from sidestream.mitm.apply import answer, apply
from sidestream.mitm.current import Current
from sidestream.mitm.engine.http import BODY_TOO_LARGE
from sidestream.mitm.engine.http1 import TOO_LARGE
from sidestream.mitm.exchanges import MAX_KEPT_BYTES, MAX_KEPT_MESSAGES, Exchanges, Open, Sending, span_of_attempt
from sidestream.mitm.view import (
    head_bytes,
    header_values,
    is_well_formed,
    named_hosts,
    read_body,
    redact_credentials,
    request_view,
)

logger = logging.getLogger(__name__)

LIMITS = ("body_too_large", "head_too_large", "too_many_exchanges")
"""Codes of requests that were refused because they, or all together, were too much."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods whose requests may always be sent again (RFC 9110, 9.2.1)."""

AMBIGUOUS_HOST = ClientError(400, "ambiguous_host", "the request names more than one host; name one")
MALFORMED_HEAD = ClientError(
    400, "malformed_head", "the request's head holds line breaks, NUL, or spaces where none may be"
)
HEAD_TOO_LARGE = ClientError(431, "head_too_large", TOO_LARGE)
UNREADABLE_BODY = ClientError(
    415,
    "unsupported_content_encoding",
    "the body's Content-Encoding is not known here (gzip and deflate are) or does not fit it",
)
REPLAYED = ClientError(
    409, "replayed_flow", "a replayed flow gets no key; the command sidestream.replay-with sends it again"
)


TOO_MANY_EXCHANGES = ClientError(
    503, "too_many_exchanges", "too many calls are under way; come back in a moment", retry_after_seconds=1
)


class RequestHooks:
    """The hooks of requests and answers, and what the engine asks about them."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self.health = Health()
        self._recorded = self._attempted = self._cut = 0
        self._refused: Counter[str] = Counter()
        self._exchanges = Exchanges()
        self._governed: WeakSet[http.HTTPFlow] = WeakSet()  # outlives an exchange, for the error that ends it

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Begin an exchange when a policy names the host; otherwise stream the request as it comes."""
        try:
            snapshot, hosts = self._current.snapshot, named_hosts(flow)
            governed = sorted(host for host in hosts if snapshot.governs(host))
            if not governed:
                flow.request.stream = flow.response is None
                return
            is_full = len(self._exchanges) >= self._current.settings.max_exchanges
            opened = self._exchanges.begin(flow, snapshot, governed[0], header_values(flow.request))
            self._governed.add(flow)
            opened.exchange.trace = self._current.trace(opened.headers)
            if self._current.settings.fail_open:
                opened.original = flow.request.copy()
            if is_full:
                opened.exchange.decision = Reject(TOO_MANY_EXCHANGES)
            elif len(hosts) > 1:
                opened.exchange.decision = Reject(AMBIGUOUS_HOST)
            elif flow.request.is_http2 and head_bytes(flow.request) > self._current.settings.max_head_bytes:
                opened.exchange.decision = Reject(HEAD_TOO_LARGE)
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
            opened.exchange.received(now=time.monotonic())
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
        opened.view = view = request_view(flow, opened.host, opened.headers, body, self._current.settings.labels)
        decision = decide(view, opened.snapshot, draw=random.random())  # noqa: S311 it shares out load
        exchange.decision = decision
        match decision:
            case Reject():
                return decision
            case Forward():
                rejected = self._send(flow, opened, decision, view)
                if rejected is not None and not is_readable:
                    return Reject(UNREADABLE_BODY, rejected.route, rejected.rule)
                return rejected
            case PassThrough():
                raise AssertionError("an exchange was begun for a host that its snapshot does not govern")

    def _send(self, flow: http.HTTPFlow, opened: Open, forward: Forward, view: RequestView) -> Reject | None:
        """Plan what is sent first, and what may follow."""
        # An upgrade goes mitmproxy's own way, which records no attempts.
        is_attempt = "upgrade" not in flow.request.headers
        span = span_of_attempt(opened.exchange) if is_attempt else opened.exchange.trace.own
        planned = plan(forward, view, span)
        if isinstance(planned, Reject):
            return planned
        now = time.monotonic()
        attempts = Attempts(
            forward,
            self.health,
            now=now,
            hashed=hashed_draw(forward.rule, view) if forward.rule is not None else None,
            only_unsent=planned.operation is OTHER and view.method not in SAFE_METHODS,
        )
        first = attempts.first(now=now, draw=random.random())  # noqa: S311 it shares out load
        if first.backend is not forward.backend:
            forward = replace(forward, backend=first.backend)
            planned = plan(forward, view, span)
            assert isinstance(planned, Plan), "what could be sent to one backend can be sent to another"
        opened.exchange.decision, opened.exchange.plan = forward, planned
        opened.sending = Sending(opened.exchange, flow, view, forward, attempts, first, planned)
        apply(planned.attempt, flow)
        return None

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
            self._keep_content(flow, opened)
            self.record(opened)
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
                self._keep_content(flow, opened)
            else:
                _tell(opened.exchange, flow, client_error(fault, flow.error.msg if flow.error is not None else ""))
            self.record(opened, error=fault)
        except Exception:
            logger.exception("an exchange could not be recorded")

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Keep no more of a conversation than of an answer; mitmproxy keeps every message until its end."""
        messages = flow.websocket.messages if flow.websocket is not None else []
        while len(messages) > 1 and (
            len(messages) > MAX_KEPT_MESSAGES or sum(len(one.content) for one in messages) > MAX_KEPT_BYTES
        ):
            del messages[0]

    def client_disconnected(self, client: connection.Client) -> None:
        """Record what a failure of a layer left open."""
        try:
            for opened in self._exchanges.end_all(client):
                if opened.sending is not None:
                    opened.sending.cancel()
                self.record(opened, error=opened.fault or "client_disconnected")
        except Exception:
            logger.exception("an exchange could not be recorded")

    def _keep_content(self, flow: http.HTTPFlow, opened: Open) -> None:
        """Keep what was said for the log, where an operator asked for it."""
        if self._current.settings.log_content:
            said = flow.request.raw_content or b"", (flow.response and flow.response.raw_content) or b""
            opened.exchange.content = Content(*(part[:MAX_KEPT_BYTES] for part in said))

    def record(self, opened: Open, error: str | None = None) -> None:
        """Finish an exchange, and publish its record."""
        record = opened.exchange.finish(now=time.monotonic(), error=error)
        if record is not None:
            opened.record = record
            self._recorded += 1
            self._attempted += len(record.attempts)
            self._cut += record.error == "shutting_down"
            if record.error in LIMITS:
                self._refused[record.error] += 1
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
                self.record(opened, error="internal_error")
            return
        if opened is not None:
            opened.exchange.decision, opened.exchange.plan = Reject(INTERNAL_ERROR), None
        answer(INTERNAL_ERROR, flow)
        with contextlib.suppress(Exception):  # that may be where the bug is
            redact_credentials(flow.request)

    def opened(self, flow: http.HTTPFlow) -> Open | None:
        """Return the exchange of `flow`, while it is under way."""
        return self._exchanges.of(flow)

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

    def calling(self, flow: http.HTTPFlow) -> Sending | None:
        """Return the exchange of `flow`, if it is to be sent on as planned."""
        opened = self._exchanges.of(flow)
        return opened.sending if opened is not None else None

    def upstream(self) -> Upstream:
        """Return the upstream half."""
        assert self._current.runtime is not None, "without a policy nothing is governed"
        return self._current.runtime.upstream

    def max_head_bytes(self) -> int:
        """Return how long the head of a request may be."""
        return self._current.settings.max_head_bytes

    def note_refusal(self, code: str) -> None:
        """Take note of a request that was refused before there was a flow."""
        self._refused[code] += 1

    def live_count(self) -> int:
        """Return how many exchanges are under way."""
        return len(self._exchanges)

    def cut_off(self) -> None:
        """Take note that the proxy ends whatever is under way."""
        self._exchanges.note_fault("shutting_down")

    def ended_counts(self) -> tuple[int, int]:
        """Return how many exchanges came to an end of their own since the start, and how many the proxy ended."""
        return self._recorded - self._cut, self._cut

    def live(self) -> list[dict[str, object]]:
        """Return what is known of the exchanges under way, oldest first."""
        now = time.monotonic()
        return [exchange.as_live(now=now) for exchange in self._exchanges.under_way()]

    def ejections(self) -> dict[str, tuple[int, bool]]:
        """Return providers that were ejected: name → how often, and whether they are left alone now."""
        now = time.monotonic()
        return {name: (known.count, now < known.until) for name, known in self.health.outliers.by_provider().items()}

    def counts(self) -> dict[str, int]:
        """Return what happened since the start: name → how often. The names are a closed set."""
        return {
            "exchanges": self._recorded,
            **{f"refused_{code}": self._refused[code] for code in LIMITS},
            "attempts": self._attempted,
            "retries": self.health.retries,
            "retries_refused": self.health.budget.refused,
            "ejections": self.health.outliers.ejections,
        }

    def max_body_bytes(self, flow: http.HTTPFlow) -> int | None:
        """Return how long the body of `flow` may be; ``None``: it is not held."""
        settings = self._current.settings
        try:
            is_held = self.is_governed(flow) or any(self._current.snapshot.governs(host) for host in named_hosts(flow))
            is_held = is_held or settings.only_policy_hosts  # what is refused is read to its end, too
        except Exception:
            logger.exception("it could not be told whether the length of a body is bounded")
            is_held = not settings.fail_open
        return settings.max_body_bytes if is_held else None

    def is_ending(self) -> bool:
        """Tell whether the proxy ends."""
        return self._current.is_ending

    def note_fault(self, flow: http.HTTPFlow, fault: Fault) -> None:
        """Take note of who ended `flow` early."""
        if (opened := self._exchanges.of(flow)) is not None and opened.fault is None:
            opened.fault = fault


def _is_held(planned: Plan, headers: http.Headers) -> bool:
    """Tell whether an answer comes all at once: JSON of an operation that is known, unless it is long."""
    if planned.operation is OTHER:
        return False
    length = headers.get("content-length", "")
    is_whole = length.isdecimal() and int(length) <= MAX_JSON_BYTES
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" and is_whole


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

"""
One request and its answer, from the first hook to the one record.

Hooks come in any order and some never come; whatever they do, `finish` gives a record once.
The times are the caller's: wall clock for when it began, a monotonic clock for how long it took.
"""

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from operator import attrgetter

from sidestream.core.errors import cut
from sidestream.core.planning import Plan
from sidestream.core.routing import Decision, Forward, Reject
from sidestream.core.snapshot import Backend
from sidestream.core.systems import system_of
from sidestream.core.tracing import NO_TRACE, Trace
from sidestream.core.usage import Meter, Usage


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """
    What is known of one attempt. `status`: of the provider's answer.

    `error`: how it failed, a word of `retry.on`; ``None``: its answer is the client's. `began_seconds`: after the
    exchange did. `server_address` and those after it: as in a record.
    """

    provider: str
    sent_model: str | None
    status: int | None
    error: str | None
    duration_seconds: float
    began_seconds: float = 0.0
    server_address: str | None = None
    server_port: int | None = None
    provider_system: str | None = None
    span_id: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What an exchange was about, as far as it was kept: the request's body as it was sent, and the answer's."""

    request: bytes = field(repr=False)
    response: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """
    What is known of a finished exchange. Field names are the access log's.

    It holds names, counts and times, never a body, a header or a key: redacted by
    construction. ``None``: not known, or not applicable. `content` is there only when an operator asked
    for it, and is no field of the log's; neither are `wall_time`, which is `time` in full, in seconds, `trace`,
    and `asked` (`Plan.asked`).
    """

    time: str
    """When the request began, RFC 3339 in UTC."""
    id: str
    """Of the exchange, and of its flow in mitmweb."""
    client: str
    """Address and port."""
    host: str
    """The policy host that was called."""
    route: str | None
    """Namespace/name of the LLMRoute that decided."""
    rule: str | None
    """The rule of it that matched, if it has a name."""
    provider: str | None
    """Namespace/name of the LLMProvider of the last attempt."""
    operation: str | None
    """`chat`, `embeddings`, …; `other` is none of OpenAI's."""
    request_model: str | None
    """The model that the client named."""
    sent_model: str | None
    """The model that the provider was asked for."""
    response_model: str | None
    """The model that the provider says answered."""
    stream: bool | None
    """Whether a stream was asked for."""
    status: int | None
    """Of the client's answer; `null`: it got none."""
    error: str | None
    """A stable word for what went wrong; `null`: nothing did."""
    response_id: str | None
    """The provider's own id of its answer."""
    finish_reason: str | None
    """Why the answer ended, in the provider's word."""
    server_address: str | None
    """Where the provider is, as the policy names it."""
    server_port: int | None
    """Its port."""
    provider_system: str | None
    """Whose API the provider's is: OpenTelemetry's `gen_ai.provider.name`."""
    prompt_tokens: int | None
    """All of the prompt, those from a cache among them."""
    completion_tokens: int | None
    """All of the answer, those of reasoning among them."""
    cached_tokens: int | None
    """Of the prompt, those that the provider had in a cache."""
    reasoning_tokens: int | None
    """Of the answer, those of reasoning that is not shown."""
    usage_partial: bool | None
    """Whether the answer broke off, so that tokens are those until then (pieces, if the provider told none)."""
    cost_usd: float | None
    """What the tokens cost by public prices, in US dollars; `null`: a price or a count is not known."""
    time_to_first_byte_seconds: float | None
    """Until the head of the client's answer."""
    time_to_first_event_seconds: float | None
    """Until the first event of a stream went to the client."""
    seconds_per_event: float | None
    """From one event of a stream to the next, on average."""
    duration_seconds: float
    """From the request's head to the end of the answer."""
    overhead_seconds: float | None
    """Of these, what was spent neither on waiting for the request's body nor on attempts."""
    bytes_in: int
    """Body bytes that the client sent."""
    bytes_out: int
    """Body bytes that the client was sent."""
    events_out: int | None
    """Events of a stream that the client was sent."""
    attempts: tuple[AttemptRecord, ...]
    """Every request to a provider; of its own: `error`, how it failed, and `began_seconds`, after the exchange did."""
    trace_id: str | None = None
    """The trace that the exchange is part of (W3C)."""
    span_id: str | None = None
    """Its span."""
    parent_span_id: str | None = None
    """The client's own span."""
    content: Content | None = field(default=None, repr=False)
    wall_time: float = 0.0
    trace: Trace = field(default=NO_TRACE, repr=False)
    asked: tuple[tuple[str, float], ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the record as plain values, for JSON."""
        # `asdict` copies every value, at ten times the cost.
        plain: dict[str, object] = dict(zip(_TOLD, _told(self), strict=True))
        plain["attempts"] = [dict(zip(_OF_ATTEMPT, _of_attempt(one), strict=True)) for one in self.attempts]
        return plain

    def priced(self, cost_usd: float) -> "Record":
        """Return the record with what it cost: what `replace` does, at a quarter of the cost."""
        values = list(_all(self))
        values[_COST] = cost_usd
        return Record(*values)


_ALL, _OF_ATTEMPT = (tuple(part.name for part in fields(kind)) for kind in (Record, AttemptRecord))
_TOLD = tuple(name for name in _ALL if name not in ("content", "wall_time", "trace", "asked"))
_COST = _ALL.index("cost_usd")
_all, _told, _of_attempt = attrgetter(*_ALL), attrgetter(*_TOLD), attrgetter(*_OF_ATTEMPT)


class Exchange:
    """What is being learnt of one exchange. Times are seconds of the caller's clocks."""

    def __init__(self, identifier: str, client: str, host: str, *, wall_time: float, now: float) -> None:
        self.id = identifier
        self.client = client
        self.host = host
        self.decision: Decision | None = None
        self.plan: Plan | None = None
        self.trace = NO_TRACE
        self.meter: Meter | None = None
        self.status: int | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.events_out: int | None = None
        self._first_event = self._last_event = 0.0
        self._has_request: float | None = None
        self.content: Content | None = None
        self._attempts: list[AttemptRecord] = []
        self._attempt: _Attempt | None = None
        self._wall_time = wall_time
        self._began = now
        self._first_byte: float | None = None
        self._finished = False

    def received(self, *, now: float) -> None:
        """Take note that all of the request is there."""
        self._has_request = now

    def began_attempt(self, backend: Backend, planned: Plan, *, now: float) -> None:
        """Take note that the request is sent, for the first time or to another backend."""
        assert isinstance(self.decision, Forward), "only what is forwarded is attempted"
        if self.decision.backend is not backend:
            self.decision = replace(self.decision, backend=backend)
        self.plan, self.meter, self.events_out = planned, None, None
        self._attempt = _Attempt(backend, planned, now)

    def attempt_answered(self, status: int, meter: Meter | None) -> None:
        """Take note of the head of the provider's answer, whose body `meter` will read."""
        assert self._attempt is not None, "an answer comes to an attempt"
        self._attempt.status, self.meter = status, meter

    def ended_attempt(self, error: str | None, *, now: float) -> None:
        """Take note that the attempt under way is over. Without one, nothing is noted."""
        ended, self._attempt = self._attempt, None
        if ended is not None:
            self._attempts.append(ended.record(error, began=self._began, now=now))

    def answered(self, status: int, *, now: float) -> None:
        """Take note that the head of the client's answer is there."""
        self.status = status
        self._first_byte = now

    def passed_events(self, number: int, *, now: float) -> None:
        """Take note that the client is sent events, `number` by now."""
        if number != (self.events_out or 0):
            self._first_event = self._first_event if self.events_out else now
            self._last_event = now
        self.events_out = number

    def passed(self, chunk: bytes) -> None:
        """Take note of body bytes on their way to the client."""
        self.bytes_out += len(chunk)

    def as_live(self, *, now: float) -> dict[str, object]:
        """Return what is known of the exchange while it is under way, as plain values."""
        decision, planned = self.decision, self.plan
        forward = decision if isinstance(decision, Forward) else None
        return {
            "id": self.id,
            "time": _rfc3339(self._wall_time),
            "client": self.client,
            "host": self.host,
            "route": forward.route.name if forward and forward.route else None,
            "rule": forward.rule.name if forward and forward.rule else None,
            "provider": forward.backend.provider.name if forward else None,
            "sent_model": _foreign(planned.sent_model) if planned else None,
            "stream": planned.stream if planned else None,
            "status": self.status,
            "seconds": round(now - self._began, 3),
            "attempts": len(self._attempts) + (self._attempt is not None),
            "bytes_out": self.bytes_out,
            "events_out": self.events_out,
        }

    def finish(self, *, now: float, error: str | None = None) -> Record | None:
        """Close the exchange and return its record; ``None`` if that was done before."""
        if self._finished:
            return None
        self._finished = True
        meter = self.meter or Meter("")
        if error in ("client_disconnected", "shutting_down") and self._has_all(meter):
            error = None
        self.ended_attempt(error, now=now)
        meter.finish()
        decision, planned = self.decision, self.plan
        if error is None and meter.complete is not None and meter.error_seen:
            error = "error_in_stream"  # before the next: most providers end a stream with it
        if error is None and planned is not None and planned.stream and meter.complete is False:
            error = "stream_incomplete"
        ruled = decision if isinstance(decision, Forward | Reject) else None
        forward = decision if isinstance(decision, Forward) else None
        endpoint = planned.attempt.endpoint if planned else None
        usage, is_partial = _counted(meter)
        events = self.events_out or 0
        trace = self.trace
        in_trace = trace.own or trace.parent
        return Record(
            time=_rfc3339(self._wall_time),
            id=self.id,
            client=self.client,
            host=self.host,
            route=ruled.route.name if ruled and ruled.route else None,
            rule=ruled.rule.name if ruled and ruled.rule else None,
            provider=forward.backend.provider.name if forward else None,
            operation=planned.operation.name if planned else None,
            request_model=_foreign(planned.request_model) if planned else None,
            sent_model=_foreign(planned.sent_model) if planned else None,
            response_model=_foreign(meter.response_model),
            stream=planned.stream if planned else None,
            status=self.status,
            error=error or (decision.error.code if isinstance(decision, Reject) else None),
            response_id=_foreign(meter.response_id),
            finish_reason=_foreign(meter.finish_reason),
            server_address=endpoint.host if endpoint else None,
            server_port=endpoint.port if endpoint else None,
            provider_system=system_of(forward.backend.provider.host) if forward else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            usage_partial=is_partial,
            cost_usd=None,
            time_to_first_byte_seconds=None if self._first_byte is None else round(self._first_byte - self._began, 6),
            time_to_first_event_seconds=round(self._first_event - self._began, 6) if events else None,
            seconds_per_event=round((self._last_event - self._first_event) / (events - 1), 6) if events > 1 else None,
            duration_seconds=round(now - self._began, 6),
            overhead_seconds=self._overhead(now),
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            events_out=self.events_out,
            attempts=tuple(self._attempts),
            trace_id=in_trace.trace_id if in_trace is not None else None,
            span_id=trace.own.span_id if trace.own is not None else None,
            parent_span_id=trace.parent.span_id if trace.parent is not None else None,
            content=self.content,
            wall_time=self._wall_time,
            trace=trace,
            asked=planned.asked if planned else (),
        )

    def _has_all(self, meter: Meter) -> bool:
        """Tell whether the client has its stream whole: many leave with the last event, before the end."""
        return self._first_byte is not None and meter.complete is True

    def _overhead(self, now: float) -> float | None:
        if self._has_request is None:
            return None
        attempted = sum(attempt.duration_seconds for attempt in self._attempts)
        return max(0.0, round(now - self._has_request - attempted, 6))


@dataclass(slots=True)
class _Attempt:
    backend: Backend
    planned: Plan
    began: float
    status: int | None = None

    def record(self, error: str | None, *, began: float, now: float) -> AttemptRecord:
        provider, endpoint, span = self.backend.provider, self.planned.attempt.endpoint, self.planned.span
        return AttemptRecord(
            provider=provider.name,
            sent_model=_foreign(self.planned.sent_model),
            status=self.status,
            error=error,
            duration_seconds=round(now - self.began, 6),
            began_seconds=round(self.began - began, 6),
            server_address=endpoint.host,
            server_port=endpoint.port,
            provider_system=system_of(provider.host),
            span_id=span.span_id if span is not None else None,
        )


def _rfc3339(wall_time: float) -> str:
    return datetime.fromtimestamp(wall_time, UTC).isoformat(timespec="milliseconds")


def _counted(meter: Meter) -> tuple[Usage, bool | None]:
    """Return the tokens of an answer, and whether they are only those until it broke off."""
    usage, is_cut = meter.usage, meter.complete is False
    if is_cut and usage.completion_tokens is None and meter.pieces:
        usage = replace(usage, completion_tokens=meter.pieces)
    return usage, None if usage == Usage() else is_cut


def _foreign(text: str | None) -> str | None:
    return None if text is None else cut(text)

"""
A record as spans: one of the exchange, and one below it for each attempt.

The exchange's is the span of a GenAI client: it covers the operation "with all retries", and tells what the client got.
Attempts are the HTTP requests below it. Tokens and cost stand once, so that sums over spans are right.

Source: OpenTelemetry semantic conventions, "Generative AI client spans", "HTTP spans" (`error.type`, `resend_count`).
"""

from collections.abc import Callable
from functools import lru_cache

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from sidestream.core.exchange import AttemptRecord, Record
from sidestream.telemetry.names import error_of
from sidestream.telemetry.otel import conventions as names

MAX_KEPT = 512
"""How many sets of attributes are kept as they are written: those that policies name, and the same again and again."""

type Value = str | bool | int | float | None
type Attributes = tuple[tuple[str, Value], ...]

_REMOTE_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_LARGEST = 2**63 - 1
_LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK


def add_spans(record: Record, content: Attributes, add: Callable[[], Span]) -> None:
    """Write the spans of `record` into those that `add` makes. `content`: what was said, where that is asked for."""
    own, parent = record.trace.own, record.trace.parent
    if own is None or not own.is_sampled:
        return
    trace_id, began = bytes.fromhex(own.trace_id), round(record.wall_time * 1e9)
    error = error_of(record.error, record.status)
    span = add()
    span.trace_id = trace_id
    span.span_id = bytes.fromhex(own.span_id)
    if parent is not None:
        span.parent_span_id = bytes.fromhex(parent.span_id)
    span.trace_state = own.state
    span.name = _text(f"{record.operation or 'exchange'} {record.sent_model or ''}".rstrip())
    span.start_time_unix_nano = began
    span.end_time_unix_nano = began + round(record.duration_seconds * 1e9)
    span.flags = own.flags | (_LOCAL_PARENT if parent is None else _REMOTE_PARENT)
    span.MergeFromString(_written(_of_policy(record), error))
    _write(span, _of_call(record))
    if record.finish_reason is not None:
        reasons = span.attributes.add(key=names.FINISH_REASONS).value.array_value
        _set(reasons.values.add(), record.finish_reason)
    _write(span, content)
    for number, attempt in enumerate(record.attempts):
        if attempt.span_id is not None:
            below = add()
            below.trace_id, below.span_id, below.parent_span_id = trace_id, bytes.fromhex(attempt.span_id), span.span_id
            below.trace_state, below.flags = own.state, own.flags | _LOCAL_PARENT
            below.name = f"attempt {attempt.provider}"
            below.start_time_unix_nano = began + round(attempt.began_seconds * 1e9)
            below.end_time_unix_nano = below.start_time_unix_nano + round(attempt.duration_seconds * 1e9)
            below.MergeFromString(_written(_of_attempt(attempt, number), error_of(attempt.error, attempt.status)))


def _of_policy(record: Record) -> Attributes:
    """Return what is the same for many exchanges."""
    return (
        (names.OPERATION_NAME, record.operation),
        (names.PROVIDER_NAME, record.provider_system),
        (names.REQUEST_MODEL, record.sent_model),
        (names.REQUEST_STREAM, record.stream),
        (names.RESPONSE_MODEL, record.response_model),
        (names.SERVER_ADDRESS, record.server_address),
        (names.SERVER_PORT, record.server_port),
        (names.STATUS_CODE, record.status),
        (names.HOST, record.host),
        (names.ROUTE, record.route),
        (names.RULE, record.rule),
        (names.PROVIDER, record.provider),
        (names.CLIENT_MODEL, record.request_model),
        (names.ATTEMPTS, len(record.attempts)),
        (names.USAGE_PARTIAL, record.usage_partial),
        *((names.ASKED[name], int(value) if "tokens" in name else float(value)) for name, value in record.asked),
    )


def _of_call(record: Record) -> Attributes:
    """Return what is another for each exchange."""
    address, _, port = record.client.rpartition(":")
    return (
        (names.ID, record.id),
        (names.CLIENT_ADDRESS, address),
        (names.CLIENT_PORT, int(port) if port.isdecimal() else None),
        (names.RESPONSE_ID, record.response_id),
        (names.INPUT_TOKENS, record.prompt_tokens),
        (names.OUTPUT_TOKENS, record.completion_tokens),
        (names.CACHE_READ_TOKENS, record.cached_tokens),
        (names.REASONING_TOKENS, record.reasoning_tokens),
        (names.TIME_TO_FIRST_CHUNK, record.time_to_first_event_seconds),
        (names.COST, record.cost_usd),
        (names.OVERHEAD, record.overhead_seconds),
        (names.BYTES_IN, record.bytes_in),
        (names.BYTES_OUT, record.bytes_out),
        (names.EVENTS_OUT, record.events_out),
    )


def _of_attempt(attempt: AttemptRecord, number: int) -> Attributes:
    return (
        (names.PROVIDER, attempt.provider),
        (names.PROVIDER_NAME, attempt.provider_system),
        (names.REQUEST_MODEL, attempt.sent_model),
        (names.SERVER_ADDRESS, attempt.server_address),
        (names.SERVER_PORT, attempt.server_port),
        (names.STATUS_CODE, attempt.status),
        (names.RESEND_COUNT, number or None),
    )


@lru_cache(MAX_KEPT)
def _written(attributes: Attributes, error: str) -> bytes:
    """Return a part of a span as it is written. Messages of protobuf that follow one another are one."""
    span = Span(kind=Span.SPAN_KIND_CLIENT)
    _write(span, (*attributes, (names.ERROR_TYPE, error or None)))
    if error:
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=error))
    written: bytes = span.SerializeToString()
    return written


def _write(span: Span, attributes: Attributes) -> None:
    add = span.attributes.add  # filled where they stand: twice as fast as made and copied
    for name, value in attributes:
        if value is not None:
            _set(add(key=name).value, value)


def _set(place: AnyValue, value: str | float) -> None:
    match value:
        case str():
            place.string_value = _text(value)
        case bool():
            place.bool_value = value
        case int():
            place.int_value = max(-_LARGEST, min(value, _LARGEST))  # a provider may count what it wants
        case float():
            place.double_value = value


def _text(value: str) -> str:
    """Return `value` as what UTF-8 can write: JSON can name half of a character."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()

"""A record as spans."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Status

from sidestream.core.tracing import SAMPLED, SpanContext, Trace
from sidestream.telemetry.otel.spans import add_spans
from tests.collector import attributes_of
from tests.telemetry.otel.recorded import OWN, PARENT, record_of

TIMES = {"start": 100_500_000_000, "end": 112_500_000_000}


def spans_of(record, content=()):
    """Return the spans of `record` as they are after they were sent."""
    scope = ScopeSpans()
    add_spans(record, content, scope.spans.add)
    return list(ScopeSpans.FromString(scope.SerializeToString()).spans)


def test_an_exchange_is_the_first_and_its_attempts_are_below_it():
    exchange, *attempts = spans_of(record_of(attempts=2))

    assert {span.trace_id.hex() for span in (exchange, *attempts)} == {PARENT.trace_id}
    assert (exchange.span_id.hex(), exchange.parent_span_id.hex()) == (OWN.span_id, PARENT.span_id)
    assert [attempt.parent_span_id for attempt in attempts] == [exchange.span_id] * 2
    assert [attempt.span_id.hex() for attempt in attempts] == ["0000000000000001", "0000000000000002"]
    assert {span.trace_state for span in (exchange, *attempts)} == {"a=1"}


def test_times_are_those_of_the_record():
    exchange, first, second = spans_of(record_of(attempts=2))

    assert {"start": exchange.start_time_unix_nano, "end": exchange.end_time_unix_nano} == TIMES
    assert first.start_time_unix_nano - exchange.start_time_unix_nano == 1_000_000_000
    assert first.end_time_unix_nano - first.start_time_unix_nano == 500_000_000
    assert second.start_time_unix_nano - exchange.start_time_unix_nano == 2_000_000_000


def test_a_span_says_whether_its_parent_is_elsewhere():
    continued, below = spans_of(record_of())
    begun, _ = spans_of(record_of(trace=Trace(None, OWN)))

    assert [continued.flags, below.flags, begun.flags] == [0x301, 0x101, 0x101]
    assert begun.parent_span_id == b""


def test_tokens_and_cost_stand_once():
    record = replace(record_of(attempts=2), cost_usd=0.25)

    exchange, *attempts = map(attributes_of, spans_of(record))

    assert (exchange["gen_ai.usage.input_tokens"], exchange["sidestream.cost_usd"]) == (3, 0.25)
    assert [name for attempt in attempts for name in attempt if "usage" in name or "cost" in name] == []
    assert [name for attempt in attempts for name in attempt if name == "gen_ai.operation.name"] == []


def test_what_was_asked_for_is_said():
    asked = (("max_completion_tokens", 30), ("temperature", 0))

    told = attributes_of(spans_of(replace(record_of(), asked=asked))[0])

    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (30, 0.0)
    assert type(told["gen_ai.request.temperature"]) is float
    assert attributes_of(spans_of(record_of())[0])["gen_ai.request.top_p"] == 1.0


def test_what_is_not_known_is_not_said():
    told = attributes_of(spans_of(record_of())[0])

    assert "gen_ai.usage.reasoning.output_tokens" not in told
    assert "sidestream.cost_usd" not in told
    assert "error.type" not in told


@pytest.mark.parametrize(
    ("how", "error"),
    [({"error": "provider_failed"}, "provider_failed"), ({"status": 503}, "503"), ({"status": 400}, "400")],
    ids=["a fault", "a status", "the client's"],
)
def test_a_failure_is_a_status(how, error):
    span, _ = spans_of(record_of(**how))

    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, error)
    assert attributes_of(span)["error.type"] == error


@pytest.mark.parametrize(
    "trace", [Trace(None, None), Trace(PARENT, None), Trace(None, SpanContext("ab" * 16, "cd" * 8, 0))]
)
def test_what_nobody_keeps_is_no_span(trace):
    assert spans_of(record_of(trace=trace)) == []


def test_content_stands_at_the_exchange_alone():
    exchange, attempt = spans_of(record_of(), (("gen_ai.input.messages", "[]"),))

    assert attributes_of(exchange)["gen_ai.input.messages"] == "[]"
    assert "gen_ai.input.messages" not in attributes_of(attempt)


@given(st.text(st.characters()), st.integers(), st.floats())
def test_whatever_was_recorded_can_be_sent(text, number, seconds):
    fields = {"request_model": text, "sent_model": text, "response_model": text, "finish_reason": text}
    counts = {"prompt_tokens": number, "completion_tokens": number, "cost_usd": seconds}

    spans = spans_of(replace(record_of(), **fields, **counts))

    assert len(spans) == 2


def test_the_flag_of_a_random_trace_is_kept():
    [span, _] = spans_of(record_of(trace=Trace(None, SpanContext("ab" * 16, "cd" * 8, SAMPLED | 2))))

    assert span.flags & 0xFF == 3

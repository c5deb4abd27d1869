"""Trace context: what is taken of a client's headers, and what a provider is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.tracing import MAX_STATE_CHARACTERS, RANDOM, SAMPLED, SpanContext, context_of
from tests.core.builders import planned

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CONTEXT = SpanContext(TRACE, SPAN, SAMPLED)


def state_of(written):
    return context_of({"traceparent": PARENT, "tracestate": written}).state


@pytest.mark.parametrize(
    ("written", "flags"),
    [
        (PARENT, SAMPLED),
        (f" {PARENT}\t", SAMPLED),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", SAMPLED | RANDOM),
        (f"00-{TRACE}-{SPAN}-fc", 0),
        (f"01-{TRACE}-{SPAN}-01", SAMPLED),
        (f"fe-{TRACE}-{SPAN}-01-what-comes-later", SAMPLED),
    ],
)
def test_a_span_that_is_named_is_taken(written, flags):
    assert context_of({"traceparent": written}) == SpanContext(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}f-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"{PARENT}, {PARENT}",
        f"{PARENT}\n",
        f"\u0660\u0660-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_malformed_is_as_if_it_were_not_there(written):
    assert context_of({"traceparent": written, "tracestate": "a=1"}) is None


def test_without_a_parent_a_state_means_nothing():
    assert context_of({"tracestate": "a=1"}) is None


@pytest.mark.parametrize(
    ("written", "state"),
    [
        ("", ""),
        ("a=1", "a=1"),
        ("a=1, b=2", "a=1,b=2"),
        ("a=1,\t ,b=2,", "a=1,b=2"),
        ("tenant@vendor=x y", "tenant@vendor=x y"),
        ("0a-b_c*d/e=!~", "0a-b_c*d/e=!~"),
        (",".join(f"k{at}=v" for at in range(32)), ",".join(f"k{at}=v" for at in range(32))),
        (",".join(f"k{at}=v" for at in range(33)), ""),
        ("a=1,a=2", ""),
        ("a", ""),
        ("a=", ""),
        ("A=1", ""),
        ("a=1=2", ""),
        ("a =1", ""),
        ("a=é", ""),
        (f"a={'x' * 257}", ""),
    ],
)
def test_a_state_is_passed_on_whole_or_not_at_all(written, state):
    assert state_of(written) == state


def test_of_a_state_that_is_too_long_the_long_entries_go_first():
    long, short = [f"long{at}={'x' * 200}" for at in range(3)], [f"short{at}={'y' * 50}" for at in range(5)]

    assert state_of(",".join([*long, *short])) == ",".join(short)


def test_of_a_state_that_is_too_long_the_last_entries_go_next():
    state = state_of(",".join(f"key{at:02}={'x' * 100}" for at in range(20)))

    assert state == ",".join(f"key{at:02}={'x' * 100}" for at in range(4))


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}"), st.text())
def test_whatever_is_written_what_is_told_is_well_formed(parent, state):
    context = context_of({"traceparent": parent, "tracestate": state})

    assert context is None or context_of({"traceparent": context.traceparent, "tracestate": context.state}) == context
    assert context is None or len(context.state) <= MAX_STATE_CHARACTERS


@given(st.integers(0, 2**64 - 1))
def test_a_span_below_is_in_the_same_trace_and_can_be_named(number):
    below = CONTEXT.below(number)

    assert (below.trace_id, below.flags) == (TRACE, SAMPLED)
    assert context_of({"traceparent": below.traceparent}) == below


def test_a_provider_is_told_the_attempts_span():
    attempt = planned(span=SpanContext(TRACE, SPAN, SAMPLED, "a=1")).attempt

    assert dict(attempt.set_headers) | {"traceparent": PARENT, "tracestate": "a=1"} == dict(attempt.set_headers)


def test_a_state_that_is_not_continued_is_not_passed_on():
    attempt = planned(span=CONTEXT).attempt

    assert "tracestate" in attempt.remove_headers
    assert "tracestate" not in dict(attempt.set_headers)


def test_nothing_else_of_the_plan_changes():
    before = planned(model="m")
    after = planned(model="m", span=SpanContext(TRACE, SPAN, SAMPLED, "a=1"))

    assert after.attempt.body == before.attempt.body
    told = ("traceparent", "tracestate")
    assert tuple(part for part in after.attempt.set_headers if part[0] not in told) == before.attempt.set_headers
    assert after.attempt.remove_headers == before.attempt.remove_headers

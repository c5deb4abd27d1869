"""The spans of exchanges that begin."""

import pytest
from opentelemetry.sdk.resources import Resource

from sidestream.core.tracing import RANDOM, SAMPLED, SpanContext, context_of
from sidestream.telemetry.otel.sampling import Sampling, resource_of, usual_sampler

PARENT = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", SAMPLED, "a=1")
UNSAMPLED = SpanContext(PARENT.trace_id, PARENT.span_id)


def begin_span(monkeypatch, parent, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Sampling(usual_sampler(Resource({})))(parent)


@pytest.mark.parametrize("parent", [PARENT, UNSAMPLED])
def test_a_clients_trace_is_continued_and_kept_as_it_is(monkeypatch, parent):
    own = begin_span(monkeypatch, parent)

    assert (own.trace_id, own.flags, own.state) == (parent.trace_id, parent.flags, parent.state)
    assert own.span_id != parent.span_id
    assert context_of({"traceparent": own.traceparent, "tracestate": own.state}) == own


def test_without_one_a_trace_begins_at_random(monkeypatch):
    one, other = begin_span(monkeypatch, None), begin_span(monkeypatch, None)

    assert one.flags == SAMPLED | RANDOM
    assert one.trace_id != other.trace_id
    assert context_of({"traceparent": one.traceparent}) == one


@pytest.mark.parametrize(
    ("sampler", "argument", "parent", "is_kept"),
    [
        ("always_off", "", PARENT, False),
        ("always_off", "", None, False),
        ("always_on", "", None, True),
        ("always_on", "", UNSAMPLED, True),
        ("parentbased_always_off", "", None, False),
        ("parentbased_always_off", "", PARENT, True),
        ("parentbased_traceidratio", "0", None, False),
        ("parentbased_traceidratio", "0", PARENT, True),
        ("traceidratio", "1", UNSAMPLED, True),
    ],
)
def test_the_sampler_is_the_one_that_is_named(monkeypatch, sampler, argument, parent, is_kept):
    own = begin_span(monkeypatch, parent, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)

    assert own.is_sampled is is_kept


@pytest.mark.parametrize(
    ("sampler", "asked"),
    [("always_on", 0), ("parentbased_always_on", 0), ("parentbased_always_off", 0), ("parentbased_traceidratio", 1)],
)
def test_who_decides_the_same_of_all_is_not_asked_each_time(monkeypatch, sampler, asked):
    calls = []
    monkeypatch.setattr(Sampling, "_asked", lambda *_: calls.append(1) or 0)

    begin_span(monkeypatch, None, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0.5")

    assert len(calls) == asked


def test_the_environment_says_who_we_are(monkeypatch):
    usual = resource_of("1.0", "this-one").attributes
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2,team=a")
    named = resource_of("1.0", "this-one").attributes

    assert [usual[f"service.{name}"] for name in ("name", "version", "instance.id")] == [
        "sidestream",
        "1.0",
        "this-one",
    ]
    assert [named["service.name"], named["service.version"], named["team"]] == ["mine", "2", "a"]

"""Prometheus' metrics, as OTLP has them."""

import itertools

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, AGGREGATION_TEMPORALITY_DELTA
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidestream.telemetry.otel.metrics import MetricsWriter
from tests.collector import attributes_of


@pytest.fixture
def registry():
    return CollectorRegistry()


def make_writer(registry, *, is_delta=False):
    ticks = itertools.count(100)
    return MetricsWriter(registry.collect, lambda: next(ticks), is_delta=is_delta)


def written(writer):
    return {metric.name: metric for metric in writer.write()}


def test_a_counter_is_a_sum(registry):
    Counter("sidestream_exchanges", "Exchanges.", ["route"], registry=registry).labels("default/a").inc(3)

    metric = written(make_writer(registry))["sidestream.exchanges"]

    [point] = metric.sum.data_points
    assert (point.as_double, attributes_of(point)) == (3, {"route": "default/a"})
    assert (point.start_time_unix_nano, point.time_unix_nano) == (100, 101)
    assert (metric.sum.is_monotonic, metric.sum.aggregation_temporality) == (True, AGGREGATION_TEMPORALITY_CUMULATIVE)
    assert metric.description == "Exchanges."


def test_a_gauge_is_a_gauge(registry):
    Gauge("sidestream_live_exchanges", "Under way.", registry=registry).set(7)

    [point] = written(make_writer(registry))["sidestream.live_exchanges"].gauge.data_points

    assert point.as_double == 7


def test_a_histogram_counts_between_its_bounds(registry):
    histogram = Histogram("sidestream_overhead_seconds", "Own time.", buckets=(0.5, 1.0, 2.0), registry=registry)
    for seconds in (0.25, 0.5, 1.5, 5.0):
        histogram.observe(seconds)

    metric = written(make_writer(registry))["sidestream.overhead"]

    [point] = metric.histogram.data_points
    assert (list(point.explicit_bounds), list(point.bucket_counts)) == ([0.5, 1.0, 2.0], [2, 0, 1, 1])
    assert (point.count, point.sum, metric.unit) == (4, 7.25, "s")


def test_series_of_one_histogram_are_told_apart(registry):
    histogram = Histogram(
        "gen_ai_client_token_usage", "Tokens.", ["gen_ai_token_type"], buckets=(1,), registry=registry
    )
    histogram.labels("input").observe(1)
    histogram.labels("output").observe(2)

    points = written(make_writer(registry))["gen_ai.client.token.usage"].histogram.data_points

    assert {attributes_of(point)["gen_ai.token.type"]: list(point.bucket_counts) for point in points} == {
        "input": [1, 0],
        "output": [0, 1],
    }


@pytest.mark.parametrize(
    ("name", "theirs", "unit"),
    [
        ("gen_ai_client_operation_duration_seconds", "gen_ai.client.operation.duration", "s"),
        ("sidestream_passthrough_bytes", "sidestream.passthrough", "By"),
        ("sidestream_cost_usd", "sidestream.cost_usd", ""),
        ("asm_llm_proxy_prompt_tokens", "asm_llm_proxy_prompt_tokens", ""),
    ],
)
def test_names_are_those_that_opentelemetry_would_make_prometheus_of(registry, name, theirs, unit):
    Counter(name, "", registry=registry)

    assert written(make_writer(registry))[theirs].unit == unit


def test_labels_that_do_not_apply_are_no_attributes(registry):
    labels = ["gen_ai_operation_name", "server_port", "error_type", "rule"]
    Counter("sidestream_x", "", labels, registry=registry).labels("chat", "443", "", "none").inc()

    [point] = written(make_writer(registry))["sidestream.x"].sum.data_points

    assert attributes_of(point) == {"gen_ai.operation.name": "chat", "server.port": 443}


def test_deltas_are_of_what_came_since_something_arrived(registry):
    counter = Counter("sidestream_x", "", registry=registry)
    histogram = Histogram("sidestream_y", "", buckets=(1.0,), registry=registry)
    writer = make_writer(registry, is_delta=True)
    seen = []

    for arrives in (True, False, True, True):
        counter.inc(2)
        histogram.observe(0.5)
        metrics = written(writer)
        [count], [spread] = metrics["sidestream.x"].sum.data_points, metrics["sidestream.y"].histogram.data_points
        seen.append((count.as_double, spread.count, spread.sum, count.start_time_unix_nano, count.time_unix_nano))
        if arrives:
            writer.told()

    assert seen == [(2, 1, 0.5, 100, 101), (2, 1, 0.5, 101, 102), (4, 2, 1.0, 101, 103), (2, 1, 0.5, 103, 104)]
    assert metrics["sidestream.x"].sum.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA

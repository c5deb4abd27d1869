"""Metrics: what is counted, and that nothing a client writes makes a time series."""

import json
import random
import string
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidestream.core.exchange import Exchange
from sidestream.core.planning import plan
from sidestream.core.routing import Forward, Reject
from sidestream.core.snapshot import OutlierDetection, Route, Rule, Snapshot
from sidestream.core.usage import Meter
from sidestream.telemetry.metrics import COUNTS, Metrics
from sidestream.telemetry.names import MAX_RESPONSE_MODELS
from tests.core.builders import json_lines, make_backend, make_config, make_provider, make_request

PROVIDER = make_provider("a.example", config=make_config(model_mapping={"gpt-4o": "m-1"}))
POLICY = SimpleNamespace(snapshot=Snapshot("r-1", {"a.example": PROVIDER}), failures=2, problem_count=3)
USAGE = '{"model":%r,"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'


def make_metrics(**how):
    return Metrics(POLICY, lambda: 5, **how)


def record_of(*, model="gpt-4o", answered="m-1", status=200, error=None, target="/", headers=None):
    """Return the record of a call for `model`, which the provider answered as `answered`."""
    exchange = Exchange("1", "10.0.0.1:5", "a.example", wall_time=0.0, now=0.0)
    request = make_request(target=target, body={"model": model, "messages": []}, headers=headers or {})
    exchange.decision = Forward(make_backend(PROVIDER))
    exchange.received(now=0.0)
    exchange.began_attempt(exchange.decision.backend, plan(exchange.decision, request), now=0.25)
    exchange.attempt_answered(status, Meter("text/event-stream"))
    exchange.meter.feed(json_lines(USAGE.replace("%r", json.dumps(answered)), "[DONE]"))
    exchange.answered(status, now=0.5)
    exchange.passed_events(3, now=0.5)
    exchange.ended_attempt(error, now=0.75)
    return exchange.finish(now=1.0, error=error)


def series(metrics):
    """Return all samples: their name and labels → value."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, *sorted(sample.labels.items())): sample.value for one in families for sample in one.samples}


def labels_of(metrics, name, label):
    return {dict(key[1:])[label] for key in series(metrics) if key[0] == name}


def test_nothing_that_a_client_writes_makes_a_series():
    draw = random.Random(7)
    metrics = make_metrics(asm_names=True)
    metrics(record_of())
    metrics(record_of(model="any", answered="any"))
    before = set(series(metrics))

    for _ in range(10_000):
        word = "".join(draw.choices(string.printable, k=12))
        path = "".join(draw.choices(string.ascii_letters, k=12))
        metrics(record_of(model=word, answered=word, target=f"/{path}/chat/completions", headers={word: word}))

    assert set(series(metrics)) == before


def test_what_providers_answer_makes_a_bounded_number_of_series():
    metrics = make_metrics()

    for number in range(3 * MAX_RESPONSE_MODELS):
        metrics(record_of(answered=f"m-1-{number}"))

    answered = labels_of(metrics, "gen_ai_client_operation_duration_seconds_count", "gen_ai_response_model")
    assert len(answered) == MAX_RESPONSE_MODELS + 1
    assert "other" in answered


def test_a_provider_that_repeats_a_clients_model_tells_it_to_nobody():
    metrics = make_metrics()

    metrics(record_of(model="mine", answered="mine"))

    assert labels_of(metrics, "sidestream_tokens_total", "model") == {"other"}
    assert "mine" not in metrics.exposition().decode()


def test_a_call_that_was_refused_has_no_tokens():
    metrics = make_metrics()
    exchange = Exchange("1", "10.0.0.1:5", "a.example", wall_time=0.0, now=0.0)
    exchange.decision = Reject(SimpleNamespace(code="ambiguous_host"))
    exchange.answered(400, now=0.5)

    metrics(exchange.finish(now=1.0))

    counted = {key: value for key, value in series(metrics).items() if key[0] == "sidestream_exchanges_total"}
    [labels] = counted
    assert dict(labels[1:]) == {"route": "none", "rule": "none", "provider": "none", "status": "400"} | {
        "error": "ambiguous_host"
    }
    assert not [key for key in series(metrics) if key[0].startswith("gen_ai")]


def test_overhead_is_observed_in_seconds():
    metrics = make_metrics()

    metrics(record_of())

    assert series(metrics)[("sidestream_overhead_seconds_sum",)] == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sidestream_lost_records_total", 5),
        ("sidestream_policy_reload_failures_total", 2),
        ("sidestream_policy_problems", 3),
        ("sidestream_live_exchanges", 7),
    ],
)
def test_what_is_read_when_somebody_scrapes(name, value):
    metrics = make_metrics()
    metrics.watch(SimpleNamespace(counts=dict, ejections=dict, live_count=lambda: 7))

    assert series(metrics)[(name,)] == value


def test_every_count_of_the_data_plane_is_told():
    metrics = make_metrics()
    counts = {name: at for at, name in enumerate(COUNTS, 1)}
    metrics.watch(SimpleNamespace(counts=lambda: counts, ejections=dict, live_count=int))

    values = list(series(metrics).values())

    assert all(at in values for at in range(1, len(COUNTS) + 1))


def test_ejections_are_told_of_every_provider_that_the_policy_names():
    careful = make_provider("b.example", outlier_detection=OutlierDetection())
    route = Route("default/r", "r", (Rule(None, (), (make_backend(careful),)),))
    policy = SimpleNamespace(snapshot=Snapshot("r", {"a.example": PROVIDER, "r": route}), failures=0, problem_count=0)
    metrics = Metrics(policy, int)
    ejected = {careful.name: (3, True), PROVIDER.name: (1, True), "default/gone": (9, True)}

    metrics.watch(SimpleNamespace(counts=dict, ejections=lambda: ejected, live_count=int))

    told = {key: value for key, value in series(metrics).items() if key[0].startswith("sidestream_eject")}
    assert told == {
        ("sidestream_ejections_total", ("provider", PROVIDER.name)): 1,
        ("sidestream_ejections_total", ("provider", careful.name)): 3,
        ("sidestream_ejected", ("provider", PROVIDER.name)): 0,  # it has no outlierDetection any more
        ("sidestream_ejected", ("provider", careful.name)): 1,
    }


def test_asms_names_are_used_where_they_are_wanted():
    assert "asm_llm" not in make_metrics().exposition().decode()
    metrics = make_metrics(asm_names=True)

    metrics(record_of())

    labels = (("destination_service", "a.example"), ("model", "m-1"))
    assert series(metrics)[("asm_llm_proxy_completion_tokens_total", *labels)] == 4

import copy
import json
import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.attempts import Attempts, Failure, Health, Try
from sidestream.core.calls import Broken, Head, Outgoing
from sidestream.core.exchange import Exchange
from sidestream.core.explain import explain
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, decide
from sidestream.core.secret import CREDENTIAL_HEADERS, REDACTED, Secret, without_credentials
from sidestream.core.usage import Meter
from tests.core.builders import (
    CREDENTIALS,
    KEY,
    MARKER,
    OTHER_KEY,
    WAYS_TO_SHOW,
    draws,
    make_backend,
    make_condition,
    make_config,
    make_provider,
    make_request,
    make_route,
    make_rule,
    make_snapshot,
    requests,
    shown,
    snapshots,
)

PROVIDER = make_provider(rule_configs={"vip-route": make_config(OTHER_KEY)})
ON_A_CREDENTIAL = make_condition("header", "x-api-key", "prefix", MARKER)
RULE = make_rule(make_backend(PROVIDER, config=PROVIDER.config_for("vip-route")), matches=((ON_A_CREDENTIAL,),))
SNAPSHOT = make_snapshot(make_route(RULE))
CHAT = make_request(headers=CREDENTIALS)
EMBEDDINGS = make_request(headers=CREDENTIALS, target="/v1/embeddings")
OTHER = make_request(headers=CREDENTIALS, target="/health")
NO_CHAT = make_request(headers=CREDENTIALS, body=None)


def plan_of(request, snapshot=SNAPSHOT):
    return plan(decide(request, snapshot, draw=0.0), request)


def attempts_of(request):
    attempts = Attempts(decide(request, SNAPSHOT, draw=0.0), Health(), now=0.0)
    attempts.first(now=0.0, draw=0.0)
    return attempts


def exchange_of(request):
    """Return an exchange with an attempt under way, and one that is over."""
    exchange = Exchange("1", "10.0.0.7:1234", request.host, wall_time=0.0, now=0.0)
    exchange.decision = decide(request, SNAPSHOT, draw=0.0)
    for _ in range(2):
        exchange.ended_attempt("reset", now=1.0)
        exchange.began_attempt(exchange.decision.backend, plan_of(request), now=1.0)
    return exchange


def record_of(request, snapshot=SNAPSHOT, draw=0.0, error=None):
    exchange = Exchange("1", "10.0.0.7:1234", request.host, wall_time=0.0, now=0.0)
    exchange.decision = decision = decide(request, snapshot, draw=draw)
    made = plan(decision, request) if isinstance(decision, Forward) else decision
    exchange.plan = made if isinstance(made, Plan) else None
    exchange.meter = Meter("application/json")
    exchange.answered(200, now=1.0)
    exchange.passed(b"{}")
    return exchange.finish(now=2.0, error=error)


HOLDERS = {
    "secret": Secret(KEY),
    "config": PROVIDER.config,
    "provider": PROVIDER,
    "rule": RULE,
    "route": SNAPSHOT.hosts[PROVIDER.host],
    "snapshot": SNAPSHOT,
    "snapshot for a workload": SNAPSHOT.for_workload({}),
    "request": CHAT,
    "decision": decide(CHAT, SNAPSHOT, draw=0.0),
    "chat plan": plan_of(CHAT),
    "attempt": plan_of(CHAT).attempt,
    "plan of an operation": plan_of(EMBEDDINGS),
    "plan of none of ours": plan_of(OTHER),
    "refusal": plan_of(NO_CHAT),
    "try": Try(RULE.backends[0], 0.5),
    "attempts": attempts_of(CHAT),
    "exchange": exchange_of(CHAT),
    "failure": Failure("rate-limited", "it answered 429", 429, 1.0),
    "head": Head(200, b"OK", [(b"content-type", b"application/json")], None),
    "broken": Broken("provider_failed", "it answered 500"),
    "record of an attempt": exchange_of(CHAT).finish(now=2.0).attempts[0],
}
FINISHED = {
    "explanation": explain(CHAT, SNAPSHOT),
    "explanation of an operation": explain(EMBEDDINGS, SNAPSHOT),
    "explanation of none of ours": explain(OTHER, SNAPSHOT),
    "explanation of a refusal": explain(NO_CHAT, SNAPSHOT),
    "explanation of no match": explain(make_request(headers={"x-api-key": "y"}), SNAPSHOT),
    "record": record_of(CHAT),
    "record of an error": record_of(CHAT, error="provider_failed"),
}
# A view of the client's request shows nothing of its headers, but it holds them: what takes it apart finds them.
TAKES_APART = {("request", "asdict"), ("request", "pickle")}
OUTGOING = Outgoing(
    b"POST", b"/", [(name.encode(), value.encode()) for name, value in CREDENTIALS.items()], f'"{KEY}"'.encode()
)


@pytest.mark.parametrize(
    ("holder", "way"),
    [(h, w) for h in (HOLDERS | FINISHED) for w in WAYS_TO_SHOW if (h, w) not in TAKES_APART],
)
def test_no_way_to_show_a_value_shows_a_key_in_it(holder, way):
    text = shown(way, (HOLDERS | FINISHED)[holder])

    assert KEY not in text
    assert OTHER_KEY not in text
    assert CREDENTIALS["x-api-key"] not in text


@pytest.mark.parametrize(
    "way", ["repr", "str", "ascii", "format", "percent", "pprint", "inside of others", "exception"]
)
def test_a_request_on_its_way_shows_neither_its_headers_nor_its_body(way):
    assert MARKER not in shown(way, OUTGOING)


@pytest.mark.parametrize("value", FINISHED.values(), ids=FINISHED.keys())
def test_a_finished_value_is_json_without_keys(value):
    text = json.dumps(value.as_dict())

    assert KEY not in text
    assert OTHER_KEY not in text
    assert CREDENTIALS["x-api-key"] not in text


@given(snapshots, requests, draws, st.sampled_from([way for way in WAYS_TO_SHOW if way != "asdict"]))
def test_no_policy_shows_its_keys(snapshot, request, draw, way):
    decision = decide(request, snapshot, draw=draw)
    planned = plan(decision, request) if isinstance(decision, Forward) else None
    explanation = explain(request, snapshot)

    values = (snapshot, decision, planned, explanation, record_of(request, snapshot, draw))

    assert MARKER not in "".join(shown(way, value) for value in values)
    assert MARKER not in str(explanation.as_dict())


@given(st.text(min_size=12))
def test_no_key_is_represented(key):
    secret = Secret(key)

    assert (repr(secret), str(secret), f"{secret}", f"{secret!r}") == (
        "Secret([redacted])",
        "[redacted]",
        "[redacted]",
        "Secret([redacted])",
    )


def test_a_log_line_shows_no_key(caplog):
    caplog.set_level(logging.INFO)

    logging.getLogger("test").info("key %s of %r", Secret(KEY), PROVIDER)

    assert MARKER not in caplog.text
    assert REDACTED in caplog.text


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps])
def test_a_secret_is_not_written(write):
    with pytest.raises(TypeError) as e:
        write(Secret(KEY))

    assert MARKER not in str(e.value)


@pytest.mark.parametrize("way", ["{:d}", "{:%Y}", "{:08.3f}"])
def test_a_wrong_format_shows_no_key(way):
    with pytest.raises(ValueError) as e:
        way.format(Secret(KEY))

    assert MARKER not in str(e.value)


def test_a_format_pads_what_stands_for_the_key():
    assert f"{Secret(KEY):>12}" == "  [redacted]"


def test_only_reveal_gives_the_value():
    assert Secret(KEY).reveal() == KEY


def test_secrets_of_one_value_are_equal_and_hash_alike():
    assert Secret(KEY) == Secret("".join(KEY))
    assert len({Secret(KEY), Secret(KEY), Secret(OTHER_KEY)}) == 2


def test_a_secret_is_no_text():
    assert Secret(KEY) != KEY


def test_credential_headers_are_lower_case():
    assert {name.lower() for name in CREDENTIAL_HEADERS} == CREDENTIAL_HEADERS


def test_a_secret_has_no_place_for_more():
    with pytest.raises(AttributeError):
        Secret(KEY).note = "x"


@pytest.mark.parametrize(
    ("target", "without"),
    [
        ("/v1/embeddings?key=sk-1", "/v1/embeddings"),
        ("/v1/embeddings?api-version=1&API-Key=sk-1&x=%20", "/v1/embeddings?api-version=1&x=%20"),
        ("/v1/models?access_token=sk-1&api_key=sk-2&apikey", "/v1/models"),
        ("/v1/models?%6Bey=sk-1&a", "/v1/models?a"),
        ("/v1/models?monkey=1&keys=2&&=", "/v1/models?monkey=1&keys=2&&="),
        ("/v1/models?", "/v1/models?"),
        ("/key=1", "/key=1"),
    ],
)
def test_a_query_loses_the_parameters_that_carry_a_key_and_nothing_else(target, without):
    assert without_credentials(target) == without

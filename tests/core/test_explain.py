import json

import pytest
from hypothesis import given

from sidestream.core.explain import ConditionVerdict, explain, sent_headers
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, PassThrough, Reject, decide
from sidestream.core.snapshot import Endpoint, Rule
from tests.core.builders import (
    CREDENTIALS,
    DASHSCOPE,
    MESSAGES,
    MOONSHOT,
    chat_bodies,
    draws,
    make_backend,
    make_condition,
    make_config,
    make_provider,
    make_request,
    make_route,
    make_rule,
    make_snapshot,
    make_weighted,
    middles,
    planned,
    requests,
    snapshots,
)

WORDS = {Forward: "forward", PassThrough: "pass-through", Reject: "reject"}
MODEL = make_condition("model", "", "prefix", "gpt-4")
SUBSCRIBER = make_condition("header", "user-type", "exact", "subscriber")
SLEEP = make_condition("sourceLabel", "app", "exact", "sleep")
ABSENT = make_condition("header", "x-team", "present", "false")


def verdicts(*conditions, **request):
    """Return what is said of `conditions` for a request."""
    route = make_route(make_rule(matches=(conditions,)))
    return explain(make_request(**request), make_snapshot(route)).rules[0].matches[0].conditions


# --- it agrees with what is done ------------------------------------------------------------------


@given(snapshots, requests, draws)
def test_an_explanation_tells_the_decision(snapshot, request, draw):
    decision = decide(request, snapshot, draw=draw)

    explanation = explain(request, snapshot)

    assert explanation.decision == WORDS[type(decision)]
    assert (explanation.host, explanation.revision) == (request.host, snapshot.revision)


@given(snapshots, requests, draws)
def test_the_rule_marked_taken_is_the_rule_taken_and_the_first_that_holds(snapshot, request, draw):
    decision = decide(request, snapshot, draw=draw)
    listed = getattr(snapshot.hosts.get(request.host), "rules", ())

    told = explain(request, snapshot).rules

    assert [rule for rule, verdict in zip(listed, told, strict=True) if verdict.taken] == [
        rule for rule in listed if rule is getattr(decision, "rule", None)
    ]
    assert [verdict.taken for verdict in told] == [
        verdict.holds and not any(before.holds for before in told[:at]) for at, verdict in enumerate(told)
    ]


@given(snapshots, requests)
def test_the_backends_that_are_told_are_those_that_any_draw_takes(snapshot, request):
    decisions = [decide(request, snapshot, draw=draw) for draw in middles(16)]

    explanation = explain(request, snapshot)

    assert {sent.provider for sent in explanation.requests if sent.share} == {
        decision.backend.provider.name for decision in decisions if isinstance(decision, Forward)
    }
    assert sum(sent.share for sent in explanation.requests) in (0, pytest.approx(1))


@given(snapshots, requests, draws)
def test_the_request_that_is_told_is_the_one_that_is_planned(snapshot, request, draw):
    decision = decide(request, snapshot, draw=draw)
    made = plan(decision, request) if isinstance(decision, Forward) else None

    told = [
        (sent.provider, sent.target, sent.operation, sent.sent_model) for sent in explain(request, snapshot).requests
    ]

    assert (
        not isinstance(made, Plan)
        or (
            decision.backend.provider.name,
            made.attempt.target,
            made.operation.name,
            made.sent_model,
        )
        in told
    )


@given(snapshots, requests)
def test_any_explanation_is_json(snapshot, request):
    explanation = explain(request, snapshot)

    assert json.loads(json.dumps(explanation.as_dict()))["decision"] == explanation.decision


@given(snapshots, requests)
def test_explaining_changes_nothing(snapshot, request):
    before = repr((snapshot, request, request.headers, request.body))

    first, second = explain(request, snapshot), explain(request, snapshot)

    assert first == second
    assert repr((snapshot, request, request.headers, request.body)) == before


# --- reasons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "decision", "reason"),
    [
        ("elsewhere.example", "pass-through", "no policy names host 'elsewhere.example'"),
        (MOONSHOT, "forward", "default/api.moonshot.cn names this host, and no route does"),
        (DASHSCOPE, "forward", "rule 'vip-route' of default/route is the first that matches"),
    ],
)
def test_the_reason_says_why(host, decision, reason):
    snapshot = make_snapshot(make_provider(MOONSHOT), make_route(make_rule(name="vip-route")))

    explanation = explain(make_request(host=host), snapshot)

    assert explanation.decision == decision
    assert explanation.reason.startswith(reason)


def test_a_rule_without_a_name_is_told_by_its_number():
    route = make_route(make_rule(matches=((SUBSCRIBER,),)), make_rule())

    explanation = explain(make_request(), make_snapshot(route))

    assert explanation.reason == "rule number 2 (without a name) of default/route is the first that matches"


def test_no_match_is_a_rejection_with_every_verdict():
    route = make_route(make_rule(matches=((SUBSCRIBER,), (SLEEP,))), make_rule(matches=((ABSENT, SLEEP),)))

    explanation = explain(make_request(), make_snapshot(route))

    assert (explanation.decision, explanation.route, explanation.requests) == ("reject", "default/route", ())
    assert explanation.reason.startswith("404 no_rule_matched: ")
    assert [[[c.holds for c in match.conditions] for match in rule.matches] for rule in explanation.rules] == [
        [[False], [False]],
        [[True, False]],
    ]


def test_a_rule_without_a_backend_is_taken_and_rejects():
    explanation = explain(make_request(), make_snapshot(make_route(Rule("vip", (), ()), make_rule())))

    assert explanation.reason.startswith("503 no_backend: ")
    assert [(rule.holds, rule.taken) for rule in explanation.rules] == [(True, True), (True, False)]


@pytest.mark.parametrize(
    ("condition", "request_fields", "verdict"),
    [
        (SUBSCRIBER, {}, ("header user-type", "exact subscriber", None, False)),
        (SUBSCRIBER, {"headers": {"user-type": "free"}}, ("header user-type", "exact subscriber", "free", False)),
        (SLEEP, {"labels": {"app": "sleep"}}, ("sourceLabel app", "exact sleep", "sleep", True)),
        (MODEL, {}, ("model", "prefix gpt-4", "gpt-4o", True)),
        (MODEL, {"body": None}, ("model", "prefix gpt-4", None, False)),
        (ABSENT, {}, ("header x-team", "present false", None, True)),
    ],
)
def test_a_condition_tells_what_is_wanted_and_found(condition, request_fields, verdict):
    assert verdicts(condition, **request_fields) == (ConditionVerdict(*verdict),)


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_condition_on_a_credential_tells_neither_what_is_wanted_nor_found(name):
    told = verdicts(make_condition("header", name, "exact", CREDENTIALS[name]), headers=CREDENTIALS)

    assert told == (ConditionVerdict(f"header {name}", "exact [redacted]", "[redacted]", holds=True),)


# --- what would be sent ---------------------------------------------------------------------------


def test_each_backend_is_told_with_its_share():
    rule = make_rule(*make_weighted(3, 0, 1))

    told = explain(make_request(), make_snapshot(make_route(rule))).requests

    assert [(sent.provider_host, sent.share) for sent in told] == [("p0.example", 0.75), ("p2.example", 0.25)]


def test_a_request_that_hash_on_binds_has_one_backend():
    rule = make_rule(*make_weighted(1, 1), hash_on_header="x-user-id")
    request = make_request(headers={"x-user-id": "u1"})
    snapshot = make_snapshot(make_route(rule))

    told = explain(request, snapshot).requests

    assert [(sent.provider, sent.share) for sent in told] == [
        (decide(request, snapshot, draw=0.9).backend.provider.name, 1.0)
    ]


def test_a_request_is_told_as_it_is_sent():
    provider = make_provider(
        endpoint=Endpoint("127.0.0.1", 8443, DASHSCOPE, server_name=DASHSCOPE), config=make_config(model="qwen-max")
    )
    request = make_request(headers=CREDENTIALS | {"x-user-id": "u1", "host": "DASHSCOPE.aliyuncs.com"})

    (sent,) = explain(request, make_snapshot(provider)).requests

    assert (sent.method, sent.target) == ("POST", "/compatible-mode/v1/chat/completions")
    assert (sent.connect_to, sent.tls) == ("127.0.0.1:8443", True)
    assert sent.body == {"model": "qwen-max", "messages": MESSAGES}
    assert sent.headers == {
        "x-user-id": "u1",
        "host": DASHSCOPE,
        "accept-encoding": "identity",
        "content-type": "application/json",
        "authorization": "Bearer [redacted]",
    }


def test_a_refused_body_is_told_for_its_backend():
    (sent,) = explain(make_request(body=None), make_snapshot(make_provider())).requests

    assert sent.rejected == "400 invalid_chat_body: the body of a chat call is a JSON object with `messages`"
    assert sent.headers == {}


@given(chat_bodies)
def test_the_body_that_is_told_is_the_one_that_is_sent(body):
    provider = make_provider(config=make_config(model="qwen-max", stream=True))
    request = make_request(body=body)

    (sent,) = explain(request, make_snapshot(provider)).requests

    assert sent.body == json.loads(plan(Forward(make_backend(provider)), request).attempt.body)


@pytest.mark.parametrize("target", ["/", "/v1/embeddings", "/health"])
def test_headers_are_sent_without_a_clients_credentials(target):
    sent = sent_headers(planned(make_request(target=target), key=None).attempt, CREDENTIALS | {"x-other": "1"})

    assert sent["x-other"] == "1"
    assert not set(CREDENTIALS) & set(sent)

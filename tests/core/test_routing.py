from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.routing import Forward, PassThrough, Reject, condition_holds, decide, shares, value_of
from sidestream.core.snapshot import EMPTY, Rule
from tests.core.builders import (
    DASHSCOPE,
    MESSAGES,
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
    requests,
    rules,
    snapshots,
)

NEVER = ((make_condition("model", "", "exact", "none"),),)
SUBSCRIBER = make_condition("header", "user-type", "exact", "subscriber")
GPT_4 = make_condition("model", "", "prefix", "gpt-4")
SLEEP = make_condition("sourceLabel", "app", "exact", "sleep")
weights = st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any)
last_draw = 1 - 2**-53


def taken(rule, draw=0.0, **request):
    """Return which backend of `rule` a request gets: the position of its provider."""
    decision = decide(make_request(**request), make_snapshot(make_route(rule)), draw=draw)
    return rule.backends.index(decision.backend)


# --- which policy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["elsewhere.example", "", "DASHSCOPE.aliyuncs.com", "dashscope.aliyuncs.com:443"])
def test_a_host_that_no_policy_names_is_passed_through(host):
    assert decide(make_request(host=host), make_snapshot(make_provider()), draw=0.0) == PassThrough()


@given(requests, draws)
def test_the_empty_policy_passes_everything_through(request, draw):
    assert decide(request, EMPTY, draw=draw) == PassThrough()


def test_a_host_with_a_provider_and_no_route_gets_its_default_config():
    provider = make_provider(rule_configs={"vip-route": make_config(model="qwen-turbo")})

    decision = decide(make_request(), make_snapshot(provider), draw=0.5)

    assert decision == Forward(make_backend(provider, config=provider.config))


def test_a_route_leads_to_the_backend_of_its_rule():
    rule = make_rule()
    route = make_route(rule)

    decision = decide(make_request(), make_snapshot(route), draw=0.5)

    assert decision == Forward(rule.backends[0], route, rule)


# --- which rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "holds"),
    [
        ((), True),
        (((),), True),
        (((SUBSCRIBER,),), True),
        (((SUBSCRIBER, GPT_4, SLEEP),), True),
        (NEVER, False),
        ((*NEVER, (SUBSCRIBER,)), True),
        (((SUBSCRIBER, *NEVER[0]),), False),
        (((SUBSCRIBER, *NEVER[0]), (GPT_4, *NEVER[0])), False),
        (((SUBSCRIBER, *NEVER[0]), (GPT_4, SLEEP)), True),
    ],
)
def test_blocks_are_ored_and_their_conditions_anded(matches, holds):
    request = make_request(headers={"user-type": "subscriber"}, labels={"app": "sleep"})
    snapshot = make_snapshot(make_route(make_rule(matches=matches)))

    assert isinstance(decide(request, snapshot, draw=0.0), Forward) is holds


@pytest.mark.parametrize(("first", "expected"), [((), 0), (NEVER, 1)])
def test_the_first_rule_that_holds_wins(first, expected):
    route = make_route(make_rule(matches=first), make_rule(name="second"), make_rule(name="third"))

    decision = decide(make_request(), make_snapshot(route), draw=0.0)

    assert decision.rule is route.rules[expected]


def test_without_a_rule_that_holds_the_route_still_is_the_whole_answer():
    route = make_route(make_rule(matches=NEVER))

    decision = decide(make_request(), make_snapshot(make_provider(), route), draw=0.0)

    assert isinstance(decision, Reject)
    assert (decision.error.status, decision.error.code) == (404, "no_rule_matched")
    assert (decision.route, decision.rule) == (route, None)
    assert route.name in decision.error.message


@pytest.mark.parametrize("backends", [(), make_weighted(0), make_weighted(0, 0)])
def test_a_rule_without_a_backend_rejects_and_no_later_one_is_asked(backends):
    rule = Rule("vip", (), backends)

    decision = decide(make_request(), make_snapshot(make_route(rule, make_rule())), draw=0.0)

    assert isinstance(decision, Reject)
    assert (decision.error.status, decision.error.code) == (503, "no_backend")
    assert decision.rule is rule


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        (SUBSCRIBER, "subscriber", True),
        (make_condition("header", "x-user-id", "present", "true"), None, False),
        (make_condition("header", "x-user-id", "present", "false"), None, True),
        (make_condition("header", "USER-TYPE", "exact", "subscriber"), None, False),
        (SLEEP, "sleep", True),
        (make_condition("sourceLabel", "team", "exact", "a"), None, False),
        (GPT_4, "gpt-4o", True),
        (make_condition("model", "", "exact", "gpt-4"), "gpt-4o", False),
    ],
)
def test_a_condition_is_tested_on_what_the_request_has(condition, value, holds):
    request = make_request(headers={"user-type": "subscriber"}, labels={"app": "sleep"})

    assert value_of(condition, request) == value
    assert condition_holds(condition, request) is holds


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (None, None),
        ({}, None),
        ({"model": "gpt-4o"}, "gpt-4o"),
        ({"model": ""}, ""),
        ({"model": None}, None),
        ({"model": 4}, None),
        ({"model": ["gpt-4o"]}, None),
        ({"messages": MESSAGES}, None),
    ],
)
def test_the_model_of_a_request_is_text_or_none(body, model):
    assert make_request(body=body).model == model


# --- which backend --------------------------------------------------------------------------------


@given(weights, draws)
def test_weight_0_is_never_taken(weights, draw):
    rule = make_rule(*make_weighted(*weights))

    assert weights[taken(rule, draw)] > 0


@pytest.mark.parametrize("draw", [0.0, 5e-324, 0.5, last_draw])
@pytest.mark.parametrize(
    "weights", [(0, 1), (1, 0), (0, 3, 0), (0, 0, 1), (0, 1, 1, 0), (0, 1_000_000, 0), (0, 1, 1_000_000, 0)]
)
def test_weight_0_is_not_taken_at_the_edges(weights, draw):
    rule = make_rule(*make_weighted(*weights))

    assert weights[taken(rule, draw)] > 0


@given(weights, st.integers(1, 4))
def test_over_an_even_grid_the_shares_are_the_weights(weights, finer):
    rule = make_rule(*make_weighted(*weights))

    counts = Counter(taken(rule, draw) for draw in middles(sum(weights) * finer))

    assert [counts[at] for at in range(len(weights))] == [weight * finer for weight in weights]


@pytest.mark.parametrize("weights", [(50, 50), (90, 10), (1, 2, 3), (1, 1, 1), (0, 7), (100,)])
def test_an_even_grid_from_0_gives_the_weights_but_for_one(weights):
    rule = make_rule(*make_weighted(*weights))
    size = 50 * sum(weights)

    counts = Counter(taken(rule, at / size) for at in range(size))

    assert all(abs(counts[at] - 50 * weight) <= 1 for at, weight in enumerate(weights))


@given(weights)
def test_the_shares_that_are_told_are_the_weights(weights):
    rule = make_rule(*make_weighted(*weights))

    told = shares(rule)

    assert [backend for backend, _ in told] == list(rule.backends)
    assert [share * sum(weights) for _, share in told] == pytest.approx(weights)
    assert sum(share for _, share in told) == pytest.approx(1)


def test_without_weights_there_are_no_shares():
    assert shares(make_rule(*make_weighted(0, 0))) == ()


def test_only_the_lowest_tier_is_taken():
    rule = make_rule(make_backend(weight=100, priority=1), make_backend(weight=1, priority=0))

    assert {taken(rule, draw) for draw in middles(100)} == {1}


@given(draws)
def test_a_single_backend_gets_all(draw):
    assert taken(make_rule(), draw) == 0


# --- hashOn ---------------------------------------------------------------------------------------


@given(st.text(min_size=1), weights, draws, draws)
def test_a_value_keeps_its_backend(value, weights, one_draw, another):
    rule = make_rule(*make_weighted(*weights), hash_on_header="x-user-id")
    headers = {"x-user-id": value}

    first = taken(rule, one_draw, headers=headers)
    second = taken(rule, another, headers=headers | {"x-other": "1"}, body=None, target="/v1/models", method="GET")

    assert first == second
    assert weights[first] > 0


@pytest.mark.parametrize("value", ["a, b", "\udcff", "世界", "x" * 100_000, " "])
def test_any_header_value_can_be_hashed(value):
    rule = make_rule(*make_weighted(1, 1, 1), hash_on_header="x-user-id")

    assert taken(rule, headers={"x-user-id": value}) in (0, 1, 2)


def test_values_share_out_as_the_weights_say():
    rule = make_rule(*make_weighted(3, 0, 1), hash_on_header="x-user-id")

    counts = Counter(taken(rule, headers={"x-user-id": f"user-{number}"}) for number in range(4000))

    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03)
    assert counts[1] == 0


@pytest.mark.parametrize("headers", [{}, {"x-user-id": ""}, {"x-other": "1"}])
def test_without_a_value_the_draw_decides(headers):
    rule = make_rule(*make_weighted(1, 1), hash_on_header="x-user-id")

    assert [taken(rule, draw, headers=headers) for draw in (0.0, last_draw)] == [0, 1]


# --- any ------------------------------------------------------------------------------------------


@given(snapshots, requests, draws)
def test_the_same_arguments_give_the_same_decision(snapshot, request, draw):
    assert decide(request, snapshot, draw=draw) == decide(request, snapshot, draw=draw)


@given(snapshots, requests, draws)
def test_deciding_changes_nothing(snapshot, request, draw):
    before = repr((snapshot, request, request.headers, request.body))

    decide(request, snapshot, draw=draw)

    assert repr((snapshot, request, request.headers, request.body)) == before


@given(snapshots, requests, draws)
def test_a_request_is_forwarded_only_by_a_policy_for_its_host(snapshot, request, draw):
    decision = decide(request, snapshot, draw=draw)

    assert isinstance(decision, PassThrough) is not snapshot.governs(request.host)


@given(rules, requests.filter(lambda request: request.host == DASHSCOPE), draws)
def test_a_backend_is_of_the_first_tier_and_has_a_weight(rule, request, draw):
    decision = decide(request, make_snapshot(make_route(rule)), draw=draw)

    backend = getattr(decision, "backend", None)
    assert backend is None or (backend in rule.first_tier() and backend.weight > 0)


@given(snapshots, requests, draws)
def test_the_draw_does_not_choose_the_rule(snapshot, request, draw):
    decision, another = decide(request, snapshot, draw=draw), decide(request, snapshot, draw=0.0)

    assert getattr(decision, "rule", None) is getattr(another, "rule", None)
    assert type(decision) is type(another)

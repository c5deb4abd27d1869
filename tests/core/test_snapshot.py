import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.snapshot import EMPTY, Rule
from tests.core.builders import (
    DASHSCOPE,
    MOONSHOT,
    backends,
    make_backend,
    make_config,
    make_provider,
    make_route,
    make_rule,
    make_snapshot,
    snapshots,
)

SLEEP, OTHERS = {"app": "sleep"}, {"app": "other"}
FOR_SLEEP = make_provider(selector=SLEEP)
FOR_ALL = make_provider(MOONSHOT)
labels = st.dictionaries(st.sampled_from(["app", "team"]), st.sampled_from(["sleep", "other"]))


@pytest.mark.parametrize(
    ("selector", "workload", "selected"),
    [
        (None, {}, True),
        (None, SLEEP, True),
        ({}, {}, True),
        (SLEEP, SLEEP, True),
        (SLEEP, SLEEP | {"team": "a"}, True),
        (SLEEP, {}, False),
        (SLEEP, OTHERS, False),
        (SLEEP, {"App": "sleep"}, False),
        (SLEEP | {"team": "a"}, SLEEP, False),
        (SLEEP | {"team": "a"}, SLEEP | {"team": "a"}, True),
        ({"app": ""}, {}, False),
        ({"app": ""}, {"app": ""}, True),
    ],
)
def test_a_provider_selects_workloads_that_have_all_its_labels(selector, workload, selected):
    assert make_provider(selector=selector).selects(workload) is selected


def test_a_rule_has_its_own_config_and_other_rules_the_default():
    vip = make_config(model="qwen-turbo")
    provider = make_provider(rule_configs={"vip-route": vip})

    assert provider.config_for("vip-route") is vip
    assert provider.config_for("free-route") is provider.config
    assert provider.config_for(None) is provider.config
    assert provider.config_for("") is provider.config


@pytest.mark.parametrize(
    ("priorities", "first"),
    [((0,), [0]), ((0, 0), [0, 1]), ((1, 0, 1), [1]), ((2, 1, 2, 1), [1, 3]), ((5, 5), [0, 1]), ((), [])],
)
def test_the_first_tier_has_the_lowest_number(priorities, first):
    tiers = tuple(make_backend(priority=priority, weight=at) for at, priority in enumerate(priorities))

    assert [backend.weight for backend in Rule(None, (), tiers).first_tier()] == first


@given(st.lists(backends, max_size=5).map(tuple))
def test_the_first_tier_is_in_order_and_never_empty_without_need(listed):
    tier = make_rule(*listed).first_tier()

    assert bool(tier)
    assert len({backend.priority for backend in tier}) == 1


def test_a_snapshot_governs_the_hosts_of_its_policies():
    snapshot = make_snapshot(FOR_ALL, make_route(host="demo-llm-server"))

    assert snapshot.governs(MOONSHOT)
    assert snapshot.governs("demo-llm-server")
    assert not snapshot.governs(DASHSCOPE)
    assert not snapshot.governs("")
    assert not EMPTY.governs(MOONSHOT)


def test_a_workload_gets_only_its_providers():
    snapshot = make_snapshot(FOR_SLEEP, FOR_ALL)

    assert set(snapshot.for_workload(SLEEP).hosts) == {DASHSCOPE, MOONSHOT}
    assert set(snapshot.for_workload(OTHERS).hosts) == {MOONSHOT}
    assert set(snapshot.for_workload({}).hosts) == {MOONSHOT}


def test_a_workload_gets_only_the_backends_for_it():
    rule = make_rule(make_backend(FOR_SLEEP, weight=9), make_backend(FOR_ALL, weight=1))
    snapshot = make_snapshot(make_route(rule))

    narrowed = snapshot.for_workload(OTHERS).hosts[DASHSCOPE]

    assert [backend.provider for backend in narrowed.rules[0].backends] == [FOR_ALL]
    assert snapshot.for_workload(SLEEP).hosts[DASHSCOPE] == snapshot.hosts[DASHSCOPE]


def test_a_rule_without_backends_for_the_workload_stays_where_another_has_some():
    route = make_route(make_rule(make_backend(FOR_SLEEP), name="vip"), make_rule(make_backend(FOR_ALL)))

    narrowed = make_snapshot(route).for_workload(OTHERS).hosts[DASHSCOPE]

    assert [(rule.name, len(rule.backends)) for rule in narrowed.rules] == [("vip", 0), (None, 1)]


def test_a_route_without_backends_for_the_workload_is_not_for_it():
    snapshot = make_snapshot(make_route(make_rule(make_backend(FOR_SLEEP))))

    assert not snapshot.for_workload(OTHERS).governs(DASHSCOPE)


def test_the_second_tier_is_first_for_a_workload_that_the_first_is_not_for():
    rule = make_rule(make_backend(FOR_SLEEP, priority=0), make_backend(FOR_ALL, priority=1))

    narrowed = make_snapshot(make_route(rule)).for_workload(OTHERS).hosts[DASHSCOPE]

    assert [backend.provider for backend in narrowed.rules[0].first_tier()] == [FOR_ALL]


def test_a_tier_that_has_no_weight_for_the_workload_is_none():
    rule = make_rule(
        make_backend(FOR_SLEEP), make_backend(FOR_ALL, weight=0), make_backend(FOR_ALL, weight=3, priority=1)
    )

    narrowed = make_snapshot(make_route(rule)).for_workload(OTHERS).hosts[DASHSCOPE]

    assert [backend.weight for backend in narrowed.rules[0].first_tier()] == [3]


@given(snapshots, labels)
def test_narrowing_twice_is_narrowing_once(snapshot, workload):
    once = snapshot.for_workload(workload)

    assert once.for_workload(workload) == once


@given(snapshots, labels)
def test_narrowing_adds_nothing_and_changes_nothing(snapshot, workload):
    before = repr(snapshot)

    narrowed = snapshot.for_workload(workload)

    assert narrowed.revision == snapshot.revision
    assert set(narrowed.hosts) <= set(snapshot.hosts)
    assert repr(snapshot) == before


def test_a_snapshot_is_frozen():
    snapshot = make_snapshot(FOR_ALL)

    with pytest.raises(TypeError):
        snapshot.hosts["x"] = FOR_ALL
    with pytest.raises(TypeError):
        snapshot.for_workload({}).hosts["x"] = FOR_ALL
    with pytest.raises(FrozenInstanceError):
        snapshot.revision = "r2"


def test_a_snapshot_with_a_key_is_not_pickled():
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(make_snapshot(FOR_ALL))

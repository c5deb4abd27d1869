"""Two readings of the admin endpoint make rates."""

import pytest

from sidestream.top.figures import figures
from tests.top.builders import AT, BY_AT, exchanges, make_ended, make_live, make_reading


def tokens(kind, count):
    return (AT | {"model": "m", "type": kind}, count)


def attempts(outcome, count, provider="default/a"):
    return ({"provider": provider, "outcome": outcome}, count)


def both(before, after):
    """Return figures of two readings, four seconds apart."""
    return figures(make_reading(10.0, **before), make_reading(14.0, **after))


@pytest.mark.parametrize(
    ("before", "after", "calls", "errors"),
    [
        pytest.param([exchanges(2)], [exchanges(10)], 2.0, 0.0, id="it grew"),
        pytest.param([exchanges(7)], [exchanges(7)], 0.0, 0.0, id="nothing happened"),
        pytest.param([], [exchanges(8)], 2.0, 0.0, id="it was not there before"),
        pytest.param([exchanges(100)], [exchanges(4)], 1.0, 0.0, id="the proxy was started anew"),
        pytest.param([exchanges(100)], [], 0.0, 0.0, id="it is gone"),
        pytest.param([exchanges(2)], [exchanges(6), exchanges(4, "429")], 2.0, 1.0, id="half of them failed"),
        pytest.param(
            [exchanges(9), exchanges(9, "provider_timeout")],
            [exchanges(9), exchanges(11, "provider_timeout"), exchanges(2, "killed", status="none")],
            1.0,
            1.0,
            id="failures of several kinds",
        ),
        pytest.param(
            [exchanges(50), exchanges(3, rule="vip")],
            [exchanges(2), exchanges(5, rule="vip")],
            1.0,
            0.0,
            id="one of two anew",
        ),
    ],
)
def test_a_rate_is_what_a_counter_grew_by_over_the_time_between(before, after, calls, errors):
    traffic = both({"exchanges_total": before}, {"exchanges_total": after}).traffic

    assert (traffic.calls_rate, traffic.errors_rate) == (calls, errors)


def test_without_a_reading_before_no_rate_is_known_but_totals_are():
    shown = figures(None, make_reading(exchanges_total=[exchanges(5)], ejections_total=[({"provider": "p"}, 2)]))

    assert shown.seconds is None
    assert (shown.traffic.calls, shown.traffic.calls_rate, shown.traffic.input_rate) == (5, None, None)
    assert (shown.ejections, shown.retries_rate, shown.providers[0].failed_rate) == (2, None, None)


def test_two_readings_at_the_same_moment_divide_by_no_zero():
    shown = figures(make_reading(1.0, retries_total=1), make_reading(1.0, retries_total=2))

    assert shown.retries_rate == pytest.approx(1000)


def test_tokens_are_told_by_kind_and_parts_of_them_are_not_added():
    after = [tokens("input", 40), tokens("output", 80), tokens("cached", 30), tokens("reasoning", 60)]

    traffic = both(
        {"exchanges_total": [exchanges(1)]}, {"exchanges_total": [exchanges(1)], "tokens_total": after}
    ).traffic

    assert (traffic.input_rate, traffic.output_rate) == (10.0, 20.0)


def test_routes_are_told_apart_by_rule_and_provider():
    after = [exchanges(4), exchanges(8, rule="vip"), exchanges(12, rule="vip", provider="default/b")]

    routes = both({}, {"exchanges_total": after, "tokens_total": [tokens("output", 8)]}).routes

    assert [(one.rule, one.provider, one.traffic.calls_rate, one.traffic.output_rate) for one in routes] == [
        ("", "default/a", 1.0, 2.0),
        ("vip", "default/a", 2.0, 0.0),
        ("vip", "default/b", 3.0, 0.0),
    ]


def test_a_call_under_way_is_told_before_any_has_ended():
    [route] = figures(None, make_reading(live=[make_live(), make_live()])).routes

    assert (route.route, route.rule, route.provider) == BY_AT
    assert (route.traffic.live, route.traffic.calls) == (2, 0)


def test_what_was_refused_has_no_route():
    labels = {"route": "none", "provider": "none"}

    [route] = both({}, {"exchanges_total": [exchanges(4, "ambiguous_host", **labels)]}).routes

    assert (route.route, route.rule, route.provider, route.traffic.errors_rate) == ("", "", "", 1.0)


def test_times_are_those_of_the_last_calls():
    recent = [make_ended(seconds) for seconds in range(1, 21)] + [make_ended(500.0, provider="default/b")]
    counted = [exchanges(20), exchanges(1, provider="default/b"), exchanges(3, provider="default/c")]

    a, b, c = figures(None, make_reading(recent=recent, exchanges_total=counted)).routes

    assert (a.traffic.p50_seconds, a.traffic.p95_seconds) == (10.5, 19)
    assert (b.traffic.p50_seconds, b.traffic.p95_seconds) == (500.0, 500.0)
    assert (c.traffic.p50_seconds, c.traffic.p95_seconds) == (None, None)


def test_a_provider_says_how_its_attempts_fail_now():
    before = [attempts("success", 5), attempts("timeout", 9), attempts("reset", 0)]
    after = [attempts("success", 9), attempts("timeout", 9), attempts("reset", 4), attempts("rate-limited", 8)]

    [provider] = both({"attempts_total": before}, {"attempts_total": after}).providers

    assert (provider.attempts_rate, provider.failed_rate) == (4.0, 3.0)
    assert provider.failures == (("rate-limited", 2.0), ("reset", 1.0))


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_a_provider_says_who_leaves_it_alone(processes):
    a, b = {"provider": "default/a"}, {"provider": "default/b"}

    shown = figures(None, make_reading(ejections_total=[(a, 4), (b, 0)], ejected=[(a, processes), (b, 0)]))

    assert [(one.ejections, one.ejected_by) for one in shown.providers] == [(4, processes), (0, 0)]
    assert shown.ejections == 4


def test_only_revisions_in_force_are_told():
    shown = figures(None, make_reading(policy_info=[({"revision": "new"}, 1), ({"revision": "old"}, 0)]))

    assert shown.revisions == ("new",)


@pytest.mark.parametrize(("cost", "dollars"), [({}, None), ({"cost_usd_total": 0.004}, pytest.approx(3.6))])
def test_dollars_are_told_where_prices_are(cost, dollars):
    assert both({}, cost).dollars_rate == dollars


def test_those_that_have_taken_longest_stand_first_and_the_last_failure_does():
    live = [make_live(seconds=1.0), make_live(seconds=9.0)]
    recent = [make_ended(error="killed"), make_ended(), make_ended(error="429")]

    shown = figures(None, make_reading(live=live, recent=recent))

    assert [one.seconds for one in shown.live] == [9.0, 1.0]
    assert [one.error for one in shown.failed] == ["killed", "429"]

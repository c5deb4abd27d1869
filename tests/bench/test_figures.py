"""What follows from measured figures."""

import pytest

from tests.bench.figures import TARGETS, medians, outcomes, percentile, ratio
from tests.bench.report import Report

VALUES = {
    "direct": {"chat-1.p50": [0.1, 0.3, 0.2]},
    "stock": {"chat-8.cpu": [5.0], "chat-1.p50": [6.2]},
    "sidestream": {
        "chat-1.p50": [2.0, 2.4, 9.0],
        "chat-8.cpu": [2.5, 1.0, 2.0],
        "new.cpu": [3.0],
        "memory.growth": [1.0],
        "memory.calls": [199_999.0],
    },
}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1, 100), (0, 1)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_medians_are_of_the_rounds_and_added_is_the_difference_to_direct():
    found = medians(VALUES)

    assert found["sidestream"]["chat-1.p50"] == 2.4
    assert found["sidestream"]["chat-1.added_p50"] == pytest.approx(2.2)
    assert "chat-1.added_p50" not in found["direct"]


def test_throughput_per_core_and_the_cost_of_a_connection_follow_from_processor_time():
    found = medians(VALUES)

    assert found["sidestream"]["chat-8.per_core"] == 500
    assert found["sidestream"]["new.cost"] == 1.5
    assert ratio(found, "chat-8.per_core", "sidestream", "stock") == 2.5


def test_a_ratio_needs_both_figures():
    assert ratio(medians(VALUES), "chat-8.per_core", "sidestream", "litellm") is None
    assert ratio(medians(VALUES), "streams.cpu", "sidestream", "stock") is None


def test_targets_are_met_at_their_bound_missed_past_it_and_not_judged_without_figures():
    verdicts = [outcome.verdict for outcome in outcomes(medians(VALUES), "sidestream")]

    by_figure = [(target.figure, target.peer, verdict) for target, verdict in zip(TARGETS, verdicts, strict=True)]
    assert ("chat-8.per_core", "stock", "met") in by_figure
    assert ("chat-8.per_core", "litellm", "not measured") in by_figure
    assert ("chat-1.added_p50", None, "missed") in by_figure
    assert ("new.cost", None, "met") in by_figure
    assert ("memory.growth", None, "too few calls to tell") in by_figure


def test_a_product_that_failed_once_has_no_figure_of_that_workload():
    report = Report({"options": "none"})
    for product, figures in VALUES.items():
        for name, numbers in figures.items():
            for number in numbers:
                report.add(product, {name: number})

    report.fail("sidestream", "chat", "3 good answers, 5 bad")

    assert set(report.counted()["sidestream"]) == {"new.cpu", "memory.growth", "memory.calls"}
    assert "no figure: Sidestream, chat: failed in 1 round(s): 3 good answers, 5 bad" in report.text()


def test_the_report_shows_every_product_and_why_one_is_missing():
    report = Report({"options": "none"}, missing={"litellm": "no such file"})
    report.add("direct", {"chat-1.p50": 0.2})
    report.add("sidestream", {"chat-1.p50": 2.4})

    text = report.text()

    assert "not measured: LiteLLM: no such file" in text
    [row] = [line.split() for line in text.splitlines() if "ms p50 added" in line]
    assert row[-2:] == ["-", "2.20"]
    [target] = [line for line in text.splitlines() if line.startswith("p50 added to direct")]
    assert target.split()[-1] == "missed"

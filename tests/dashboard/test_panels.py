"""The dashboard's queries, and what must not be empty."""

import json

import pytest

from tests.dashboard.panels import Panel, Query, dump, empty, legend_of, load, read_dashboard
from tests.world import ROOT

TEXT = (ROOT / "k8s/observability/dashboard.json").read_text()


def answer(*series):
    """Return what Prometheus says: pairs of labels and values."""
    result = [
        {"metric": labels, "values": [[at, value] for at, value in enumerate(values)]} for labels, values in series
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def make_panel(*queries):
    return Panel("Calls", False, 0, 1, 8, 8, "ops", list(queries))


def test_every_variable_of_the_dashboard_is_replaced():
    title, panels = read_dashboard(TEXT, rate_interval="8s")

    expressions = [query.expression for panel in panels for query in panel.queries]
    assert title == "Sidestream"
    assert [expression for expression in expressions if "$" in expression] == []
    wanted = 'sum by (error) (rate(sidestream_exchanges_total{route=~".*", provider=~".*"}[8s]))'
    assert expressions[0] == wanted


def test_a_variable_that_nobody_knows_is_an_error():
    with pytest.raises(KeyError):
        read_dashboard(TEXT.replace("$__rate_interval", "$unheard_of"), rate_interval="8s")


def test_all_that_is_on_the_dashboard_is_drawn():
    _, panels = read_dashboard(TEXT, rate_interval="8s")

    assert len(panels) == len(json.loads(TEXT)["panels"])
    assert all(panel.is_row or panel.queries for panel in panels)


@pytest.mark.parametrize(
    ("written", "legend"),
    [("p50", "p50"), ("{{route}} → {{ provider }}", "default/r → default/a"), ("{{gone}}", "")],
)
def test_a_legend_has_the_values_of_its_labels(written, legend):
    assert legend_of(written, {"route": "default/r", "provider": "default/a"}) == legend


def test_what_is_no_number_is_no_point():
    by_error = Query("x", "{{error}}")
    panel = make_panel(by_error)

    panel.add(by_error, answer(({"error": "none"}, ["NaN", "2.5", "+Inf"]), ({"error": "429"}, ["NaN"])))

    assert panel.series == {"none": [(1, 2.5)]}
    assert empty([panel]) == []


@pytest.mark.parametrize(
    ("answers", "problems"),
    [
        ([answer(), answer()], ["nothing comes of x", "nothing comes of y", "all that it shows is 0"]),
        ([answer(({}, ["0", "0"])), answer(({}, ["0"]))], ["all that it shows is 0"]),
        ([answer(({}, ["0", "1"])), answer()], ["nothing comes of y"]),
        ([answer(({}, ["0", "1"])), answer(({}, ["NaN"]))], ["nothing comes of y"]),
        ([answer(({}, ["0", "1"])), answer(({}, ["0"]))], []),
    ],
)
def test_a_panel_that_has_nothing_to_show_is_a_problem(answers, problems):
    queries = [Query("x", "{{any}}"), Query("y", "second")]
    panel = make_panel(*queries)

    for query, one in zip(queries, answers, strict=True):
        panel.add(query, one)

    assert empty([panel]) == [f"Calls: {problem}" for problem in problems]


def test_a_heading_shows_nothing_and_is_no_problem():
    assert empty([Panel("Time", True, 0, 0, 24, 1, "", [])]) == []


def test_what_was_observed_is_drawn_elsewhere():
    query = Query("x", "{{error}}")
    panel = make_panel(query)
    panel.add(query, answer(({"error": "none"}, ["1"])))

    title, [loaded] = load(dump("Sidestream", [panel]))

    assert title == "Sidestream"
    assert (loaded.title, loaded.queries, loaded.unit) == (panel.title, panel.queries, panel.unit)
    assert loaded.series == {"none": [(0, 1.0)]}

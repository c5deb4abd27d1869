"""
The dashboard as it is drawn: its panels, what they ask Prometheus for, and what they must not be.

Source: Grafana's JSON model of dashboards, and its variables `$__rate_interval` and `allValue`.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

SCRAPE_SECONDS = 2
"""How often Prometheus looks, and how far apart the points are that it is asked for."""

type Points = list[tuple[float, float]]
"""Seconds since the epoch, and a value."""


@dataclass(frozen=True)
class Query:
    """One of a panel's expressions. `legend`: with ``{{label}}`` where a label goes."""

    expression: str
    legend: str


@dataclass
class Panel:
    """
    A panel, or a heading (`is_row`), at its place in a grid of 24 columns.

    `series`: legend → points. `silent`: the queries of which nothing came.
    """

    title: str
    is_row: bool
    x: int
    y: int
    w: int
    h: int
    unit: str
    queries: list[Query]
    series: dict[str, Points] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)

    def add(self, query: Query, answer: dict[str, Any]) -> None:
        """Add the series that Prometheus `answer`ed `query` with. What is no number is left out."""
        found = {
            legend_of(query.legend, one["metric"]): [(at, float(value)) for at, value in one["values"]]
            for one in answer["data"]["result"]
        }
        finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in found.items()}
        drawn = {name: points for name, points in finite.items() if points}
        self.series |= drawn
        if not drawn:
            self.silent.append(query.expression)


def read_dashboard(text: str, *, rate_interval: str) -> tuple[str, list[Panel]]:
    """Return the title and the panels of a dashboard, with all of every variable in their queries."""
    dashboard = json.loads(text)
    values = {one["name"]: one["allValue"] for one in dashboard["templating"]["list"] if one.get("includeAll")}
    values["__rate_interval"] = rate_interval
    return dashboard["title"], [_panel(written, values) for written in dashboard["panels"]]


def _panel(written: dict[str, Any], values: dict[str, str]) -> Panel:
    queries = [
        Query(_substituted(target["expr"], values), target["legendFormat"]) for target in written.get("targets", [])
    ]
    unit = written.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
    return Panel(written["title"], written["type"] == "row", **written["gridPos"], unit=unit, queries=queries)


def _substituted(expression: str, values: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda name: values[name[1]], expression)


def legend_of(written: str, labels: dict[str, str]) -> str:
    """Return a legend as `written`, with the values of `labels`."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda name: labels.get(name[1], ""), written)


def empty(panels: list[Panel]) -> list[str]:
    """Return what is wrong with panels that have nothing to show."""
    shown = [panel for panel in panels if not panel.is_row]
    silent = [f"{panel.title}: nothing comes of {expression}" for panel in shown for expression in panel.silent]
    flat = [
        f"{panel.title}: all that it shows is 0"
        for panel in shown
        if not any(value for points in panel.series.values() for _, value in points)
    ]
    return silent + flat


def dump(title: str, panels: list[Panel]) -> str:
    """Return all of it as JSON."""
    return json.dumps({"title": title, "panels": [asdict(panel) for panel in panels]})


def load(text: str) -> tuple[str, list[Panel]]:
    """Return what was dumped."""
    dumped = json.loads(text)
    return dumped["title"], [_loaded(panel) for panel in dumped["panels"]]


def _loaded(panel: dict[str, Any]) -> Panel:
    series = {name: [(at, value) for at, value in points] for name, points in panel["series"].items()}
    return Panel(**panel | {"queries": [Query(**query) for query in panel["queries"]], "series": series})

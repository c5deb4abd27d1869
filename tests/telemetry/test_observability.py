"""The dashboard and the alert rules: they ask for metrics that there are, and alerts fire when they must."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.telemetry.test_metrics import make_metrics, record_of

FOLDER = Path(__file__).parents[2] / "k8s/observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:sidestream|gen_ai)_\w+")
LABELS = re.compile(r"\{([^}]*)\}|by \(([^)]*)\)")


@pytest.fixture(scope="module")
def known():
    """Names of all samples → their labels, for a call of every kind."""
    metrics = make_metrics()
    for record in (record_of(), record_of(status=429, error="rate-limited"), replace(record_of(), cost_usd=1.0)):
        metrics(record)
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        found.setdefault(name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked(expression):
    """Return the metrics and the labels that an expression names."""
    names = set(NAME.findall(re.sub(r"\bby \([^)]*\)|\{[^}]*\}", "", expression)))
    labels = set()
    for matched, by in LABELS.findall(expression):
        labels.update(re.findall(r"(\w+)\s*[=!]~?", matched), filter(None, re.split(r"\W+", by)))
    return names, labels


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_what_there_is(known, expression):
    names, labels = asked(expression)

    assert names <= set(known)
    assert labels - {"instance"} <= set().union(*(known[name] for name in names))


def test_every_metric_of_ours_is_on_the_dashboard(known):
    shown = {name for panel in PANELS for target in panel["targets"] for name in asked(target["expr"])[0]}

    metrics = {re.sub(r"_(?:bucket|sum|count)$", "_bucket", name) for name in known}
    histograms = {name.removesuffix("_bucket") for name in metrics if name.endswith("_bucket")}
    assert metrics - histograms - shown == set()


def test_panels_do_not_lie_upon_each_other():
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("arguments", ["check rules alerts.yaml", "test rules alerts_test.yaml"])
def test_promtool_is_content(arguments):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: prometheus)")

    done = subprocess.run([promtool, *arguments.split()], cwd=FOLDER, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    tested = (FOLDER / "alerts_test.yaml").read_text()

    assert [rule["alert"] for rule in ALERTS if rule["alert"] not in tested] == []

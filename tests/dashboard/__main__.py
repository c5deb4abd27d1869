"""
Run the proxy under a real Prometheus, and write down what every panel of the dashboard shows of it.

    python -m tests.dashboard FILE.json

`make dashboard-picture` draws that. It fails when a panel has nothing to show. Linux and root only.
"""

import argparse
import sys
import time
from pathlib import Path

import pytest

from tests.dashboard.panels import Panel, dump, empty, read_dashboard
from tests.dashboard.prometheus import RATE_INTERVAL, missing, scraping
from tests.dashboard.traffic import play
from tests.transparent.pods import outside, pod
from tests.world import ROOT

DASHBOARD = ROOT / "k8s/observability/dashboard.json"
REDIRECT = ("--ports", "80,443")
RUN = ("--set=sidestream_cost=true", "--set=sidestream_max_body=1m")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make dashboard-picture", description=__doc__.partition("\n\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the proxy is busy; default: 120")
    options = parser.parse_args()
    if problem := missing():
        print(f"dashboard: {problem}", file=sys.stderr)
        return 2
    title, panels = read_dashboard(DASHBOARD.read_text(), rate_interval=RATE_INTERVAL)
    try:
        _observe(panels, options.seconds)
    except pytest.skip.Exception as e:
        print(f"dashboard: {e.msg}", file=sys.stderr)
        return 2
    options.output.write_text(dump(title, panels))
    for panel in panels:
        if not panel.is_row:
            print(f"dashboard: {panel.title}: {len(panel.series)} series")
    problems = empty(panels)
    for problem in problems:
        print(f"dashboard: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _observe(panels: list[Panel], seconds: float) -> None:
    with outside() as world, pod(world, *REDIRECT, run=RUN, may_complain=True) as busy:
        folder = world.folder / "prometheus"
        folder.mkdir()
        with scraping(busy.namespace, folder) as prometheus:
            begun = time.time()
            play(world, busy, seconds)
            for panel in panels:
                for query in panel.queries:
                    panel.add(query, prometheus.range(query.expression, begun, begun + seconds))


if __name__ == "__main__":
    sys.exit(main())

"""The report: tables for a terminal, JSON, and a plot."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.figures import FIGURES, Figure, Medians, Values, medians, outcomes, ratio
from tests.bench.products import PRODUCTS, SIDECAR

PLOTTED = ("chat-8.per_core", "chat-1.p50", "new.cpu", "streams.cpu", "streams.delay_p99", "memory.idle")
HARDLY = 10
"""Percent of the proxies' core that others may take before the report warns."""


@dataclass
class Report:
    """What a run found. `missing`: product → why; `failed`: product → workload → errors."""

    about: dict[str, str]
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def add(self, product: str, figures: dict[str, float]) -> None:
        """Note what one round measured."""
        for name, value in figures.items():
            self.values.setdefault(product, {}).setdefault(name, []).append(value)

    def fail(self, product: str, workload: str, error: str) -> None:
        """Note that a product did not answer well."""
        self.failed.setdefault(product, {}).setdefault(workload, []).append(error)

    def counted(self) -> Values:
        """Return the values but those of workloads in which a product failed, be it once."""
        return {
            product: {
                name: numbers
                for name, numbers in figures.items()
                if not any(_belongs(name, workload) for workload in self.failed.get(product, {}))
            }
            for product, figures in self.values.items()
        }

    def text(self) -> str:
        """Return the report for a terminal."""
        found = medians(self.counted())
        parts = [
            [f"{name}: {value}" for name, value in self.about.items()],
            _table(found, list(self.values), self.failed),
            _ratios(found),
            _targets(found) if SIDECAR in found else [],
            self._notes(found),
        ]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def write(self, path: Path) -> Path:
        """Write the report as JSON to `path`, and a plot beside it; return where that is."""
        found = medians(self.counted())
        verdicts = [
            {**asdict(outcome.target), "measured": outcome.measured, "verdict": outcome.verdict}
            for outcome in outcomes(found, SIDECAR)
        ]
        path.write_text(json.dumps({**asdict(self), "medians": found, "targets": verdicts}, indent=1) + "\n")
        plot = path.with_suffix(".png")
        _plot(found, plot)
        return plot

    def _notes(self, found: Medians) -> list[str]:
        notes = [f"not measured: {PRODUCTS[name].title}: {why}" for name, why in self.missing.items()]
        for product, workloads in self.failed.items():
            for workload, errors in workloads.items():
                title = PRODUCTS[product].title
                notes.append(f"no figure: {title}, {workload}: failed in {len(errors)} round(s): {errors[0]}")
        for product, figures in found.items():
            if "chat-64.busy" in figures and figures["chat-64.busy"] + figures["chat-64.disturbance"] < 85:
                notes.append(
                    f"{PRODUCTS[product].title} left its core idle in part: load and provider bound its calls/s at "
                    "64 connections, so that CPU per call is what counts"
                )
        taken = [value for each in found.values() for name, value in each.items() if name.endswith(".disturbance")]
        if max(taken, default=0.0) > HARDLY:
            notes.append(
                f"others took {statistics.median(taken):.0f} % of the proxies' core (median; at most "
                f"{max(taken):.0f} %): mistrust times and rates, CPU less"
            )
        return notes


def _belongs(figure: str, workload: str) -> bool:
    return figure.partition(".")[0].partition("-")[0] == workload


def _table(found: Medians, products: Sequence[str], failed: dict[str, dict[str, list[str]]]) -> list[str]:
    rows = [["", "", *(PRODUCTS[name].title for name in products)]]
    title = ""
    for figure in FIGURES:
        title = figure.title or title
        if not any(figure.name in found.get(product, {}) for product in products):
            continue
        cells = []
        for product in products:
            has_failed = any(_belongs(figure.name, workload) for workload in failed.get(product, {}))
            cells.append("errors" if has_failed else _number(found.get(product, {}).get(figure.name), figure.digits))
        is_first = title and not any(row[0] == title for row in rows)
        rows.append([title if is_first else "", figure.unit, *cells])
    return _aligned(rows)


def _ratios(found: Medians) -> list[str]:
    peers = [name for name in found if name != SIDECAR and not name.startswith(f"{SIDECAR}-")]
    if SIDECAR not in found or not peers:
        return []
    rows = [["Sidestream compared", "", *(f"x {PRODUCTS[name].title}" for name in peers)]]
    for figure in _compared():
        ratios = [ratio(found, figure.name, SIDECAR, peer) for peer in peers]
        if any(each is not None for each in ratios):
            rows.append([figure.name, figure.unit, *(_number(each, 2) for each in ratios)])
    return _aligned(rows)


def _compared() -> list[Figure]:
    parts = (".rate", ".p50", ".cpu", ".per_core", ".bulk", ".first_p50", ".delay_p99", ".idle", ".load")
    return [figure for figure in FIGURES if figure.name.endswith(parts)]


def _targets(found: Medians) -> list[str]:
    rows = [["target", "", "", "measured", ""]]
    for outcome in outcomes(found, SIDECAR):
        target = outcome.target
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        title = target.title
        if target.figure == "memory.growth" and (calls := found[SIDECAR].get("memory.calls")):
            title = f"{title} over {calls:.0f} calls"
        rows.append([title, bound, target.unit, _number(outcome.measured, 2), outcome.verdict])
    return _aligned(rows)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plot(found: Medians, path: Path) -> None:
    # Here, so that the tables and their tests need no matplotlib.
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = {figure.name: figure for figure in FIGURES}
    titles = {"chat-8.per_core": "kept alive", "chat-1.p50": "one connection", "new.cpu": "new connections"}
    titles |= {"streams.cpu": "streams", "streams.delay_p99": "200 streams", "memory.idle": "memory"}
    drawn, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for name, axis in zip(PLOTTED, axes.flat, strict=True):
        shown = [product for product in found if name in found[product]]
        colours = ["tab:orange" if product.startswith(SIDECAR) else "tab:gray" for product in shown]
        bars = axis.barh([PRODUCTS[product].title for product in shown], [found[p][name] for p in shown], color=colours)
        axis.bar_label(bars, fmt=f"%.{rows[name].digits}f", padding=3)
        axis.margins(x=0.25)
        axis.invert_yaxis()
        axis.set_title(f"{titles[name]}: {rows[name].unit}{' (more is better)' if rows[name].higher_is_better else ''}")
    drawn.savefig(path, dpi=110)
    plt.close(drawn)

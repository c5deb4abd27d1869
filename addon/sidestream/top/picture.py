"""Figures as text: a few lines that sum up, and tables. The same for a terminal and for a pipe."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidestream.top.figures import Figures, Rate, RouteFigures, Traffic

UNKNOWN = "-"
"""What stands for a figure that is not known."""
MAX_FAILED = 10
"""How many of the last failures are shown."""
MAX_LIVE = 200
"""How many exchanges under way are shown: those that have taken longest."""
ALARMING = frozenset({"errors/s", "failed/s", "left alone", "error"})
"""Columns in which anything but nothing is bad news."""
NUMBERS = frozenset(
    {"live", "calls/s", "errors/s", "in tok/s", "out tok/s", "p50", "p95", "calls", "attempts/s", "failed/s"}
    | {"ejections", "status", "seconds", "attempts", "events", "bytes"}
)
"""Columns of numbers, which stand to the right."""

_UNITS = ("", "k", "M", "G", "T")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def is_alarming(self, column: int, cell: str) -> bool:
        """Tell whether `cell` is bad news."""
        return self.columns[column] in ALARMING and cell not in ("0", "no", UNKNOWN)


ORDERS: dict[str, Callable[[RouteFigures], tuple[float, ...]]] = {
    "calls": lambda one: (one.traffic.calls_rate or 0.0, one.traffic.calls),
    "errors": lambda one: (one.traffic.errors_rate or 0.0,),
    "tokens": lambda one: ((one.traffic.input_rate or 0.0) + (one.traffic.output_rate or 0.0),),
    "live": lambda one: (one.traffic.live,),
    "p95": lambda one: (one.traffic.p95_seconds or 0.0,),
    "name": lambda _: (),
}
"""By what routes can be ordered → what is greatest for the first. Those that are alike stand by name."""


def summary(figures: Figures) -> list[str]:
    """Return the lines that stand above the tables."""
    traffic = figures.traffic
    over = "first reading: rates follow" if figures.seconds is None else f"rates over {figures.seconds:.1f} s"
    revision = ", ".join(figures.revisions) or UNKNOWN
    problems = f" · {figures.problems} problems in newer documents" if figures.problems else ""
    lost = f" · {figures.lost_records} records lost" if figures.lost_records else ""
    cost = f" · ${figures.dollars_rate:.4f}/h" if figures.dollars_rate is not None else ""
    calls = f"{_rate(traffic.calls_rate)} calls/s · {_rate(traffic.errors_rate)} errors/s{_share(traffic)}"
    tokens = f"tokens/s {_rate(traffic.input_rate)} in, {_rate(traffic.output_rate)} out"
    retries = f"{_rate(figures.retries_rate)} retries/s · ejections: {figures.ejections}"
    others = f"{_rate(figures.refused_rate)} refused/s · {_rate(figures.passthrough_rate)} connections/s pass through"
    return [
        f"policy {revision}{problems}{lost} · {over}",
        f"{traffic.live} live · {calls} · {tokens}{cost}",
        f"{retries} · {others}",
    ]


def tables(figures: Figures, order: str) -> list[Table]:
    """Return the tables, with routes in `order`, one of `ORDERS`."""
    return [_routes(figures, order), _providers(figures), _live(figures), _failed(figures)]


def text(figures: Figures, order: str) -> str:
    """Return all of it as plain text."""
    parts = ["\n".join(summary(figures))]
    parts += ["\n".join([table.title.upper(), *_aligned(table)]) for table in tables(figures, order)]
    return "\n\n".join(parts) + "\n"


def _routes(figures: Figures, order: str) -> Table:
    columns = (
        "route",
        "rule",
        "provider",
        "live",
        "calls/s",
        "errors/s",
        "in tok/s",
        "out tok/s",
        "p50",
        "p95",
        "calls",
    )
    rows = [
        (
            one.route or UNKNOWN,
            one.rule or UNKNOWN,
            one.provider or UNKNOWN,
            str(one.traffic.live),
            _rate(one.traffic.calls_rate),
            _rate(one.traffic.errors_rate) + _share(one.traffic),
            _rate(one.traffic.input_rate),
            _rate(one.traffic.output_rate),
            _seconds(one.traffic.p50_seconds),
            _seconds(one.traffic.p95_seconds),
            str(one.traffic.calls),
        )
        for one in sorted(figures.routes, key=ORDERS[order], reverse=True)
    ]
    return Table("Routes", columns, tuple(rows))


def _providers(figures: Figures) -> Table:
    columns = ("provider", "live", "attempts/s", "failed/s", "left alone", "ejections", "how they fail")
    rows = [
        (
            one.provider,
            str(one.live),
            _rate(one.attempts_rate),
            _rate(one.failed_rate),
            {0: "no", 1: "yes"}.get(one.ejected_by, f"by {one.ejected_by}"),
            str(one.ejections),
            ", ".join(f"{outcome} {_rate(rate)}/s" for outcome, rate in one.failures),
        )
        for one in figures.providers
    ]
    return Table("Providers", columns, tuple(rows))


def _live(figures: Figures) -> Table:
    columns = (
        "host",
        "rule",
        "provider",
        "model",
        "kind",
        "client",
        "status",
        "seconds",
        "attempts",
        "events",
        "bytes",
    )
    rows = [
        (
            one.host,
            one.rule or UNKNOWN,
            one.provider or UNKNOWN,
            one.model or UNKNOWN,
            "stream" if one.is_stream else "whole",
            one.client,
            str(one.status or UNKNOWN),
            f"{one.seconds:.1f}",
            str(one.attempts),
            str(one.events_out) if one.is_stream else UNKNOWN,
            _short(one.bytes_out),
        )
        for one in figures.live[:MAX_LIVE]
    ]
    return Table("Under way", columns, tuple(rows))


def _failed(figures: Figures) -> Table:
    columns = ("time", "host", "rule", "provider", "model", "error", "status", "seconds")
    rows = [
        (
            one.time[11:19],
            one.host,
            one.rule or UNKNOWN,
            one.provider or UNKNOWN,
            one.model or UNKNOWN,
            one.error,
            str(one.status or UNKNOWN),
            f"{one.seconds:.1f}",
        )
        for one in figures.failed[:MAX_FAILED]
    ]
    return Table("Failed last", columns, tuple(rows))


def _rate(value: Rate) -> str:
    if value is None:
        return UNKNOWN
    return "0" if value == 0 else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else _short(value)


def _short(value: float) -> str:
    unit = 0
    while value >= 10_000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f}{_UNITS[unit]}"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _share(traffic: Traffic) -> str:
    """Return which share of the calls failed, if any did."""
    if not (traffic.calls_rate and traffic.errors_rate):
        return ""
    return f" ({traffic.errors_rate / traffic.calls_rate:.0%})"


def _aligned(table: Table) -> list[str]:
    if not table.rows:
        return ["(none)"]
    lines: list[Sequence[str]] = [table.columns, *table.rows]
    widths = [max(_width(line[at]) for line in lines) for at in range(len(table.columns))]
    return [
        "  ".join(
            _padded(text, width, column) for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    ]


def _padded(text: str, width: int, column: str) -> str:
    gap = " " * (width - _width(text))
    return gap + text if column in NUMBERS else text + gap


def _width(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

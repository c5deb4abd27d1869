"""
What the figures are, and what follows from them: medians, ratios, targets. Pure, without I/O.

Figures are named `workload.figure`. `Values` holds what rounds measured: product → figure → one number per round.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

type Values = Mapping[str, Mapping[str, Sequence[float]]]
type Medians = dict[str, dict[str, float]]
"""Product → figure → median."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `higher_is_better`: which way a ratio is good; `digits` after the point."""

    name: str
    title: str
    unit: str
    digits: int = 2
    higher_is_better: bool = False


def _chat(workload: str, title: str) -> list[Figure]:
    return [
        Figure(f"{workload}.rate", title, "calls/s", 0, higher_is_better=True),
        Figure(f"{workload}.p50", "", "ms p50"),
        Figure(f"{workload}.p99", "", "ms p99"),
        Figure(f"{workload}.added_p50", "", "ms p50 added"),
        Figure(f"{workload}.cpu", "", "CPU ms/call", 3),
        Figure(f"{workload}.per_core", "", "calls/s per core", 0, higher_is_better=True),
        Figure(f"{workload}.busy", "", "% of core used", 0, higher_is_better=True),
    ]


FIGURES = [
    *_chat("chat-1", "kept alive, 1 connection"),
    *_chat("chat-8", "kept alive, 8 connections"),
    *_chat("chat-64", "kept alive, 64 connections"),
    *_chat("new", "a new connection per call, 8 at a time"),
    Figure("new.cost", "", "x CPU of kept alive"),
    Figure("streams.rate", "streams", "events/s", 0, higher_is_better=True),
    Figure("streams.cpu", "", "CPU ms/event", 3),
    Figure("streams.first_p50", "", "ms to first event p50", 1),
    Figure("streams.first_p99", "", "ms to first event p99", 1),
    Figure("streams.first_added_p50", "", "ms to first, added p50", 1),
    Figure("streams.first_added_p99", "", "ms to first, added p99", 1),
    Figure("streams.delay_p50", "", "ms event delay p50", 1),
    Figure("streams.delay_p99", "", "ms event delay p99", 1),
    Figure("streams.gap_p50", "", "ms gap changed p50", 1),
    Figure("streams.gap_p99", "", "ms gap changed p99", 1),
    Figure("streams.gap_added_p99", "", "ms gap, added p99", 1),
    Figure("pass.bulk", "pass-through", "MB/s", 0, higher_is_better=True),
    Figure("pass.bulk_cpu", "", "CPU ms/MB", 3),
    Figure("pass.rate", "", "connections/s", 0, higher_is_better=True),
    Figure("pass.cpu", "", "CPU ms/connection", 3),
    Figure("pass.p50", "", "ms p50"),
    Figure("memory.idle", "memory", "MB idle", 1),
    Figure("memory.load", "", "MB under load", 1),
    Figure("memory.after", "", "MB after all calls", 1),
    Figure("memory.growth", "", "MB grown", 1),
    Figure("memory.calls", "", "calls meanwhile", 0, higher_is_better=True),
]

ADDED = {
    **{f"{workload}.added_p50": f"{workload}.p50" for workload in ("chat-1", "chat-8", "chat-64")},
    "streams.first_added_p50": "streams.first_p50",
    "streams.first_added_p99": "streams.first_p99",
    "streams.gap_added_p99": "streams.gap_p99",
}
"""Figure → that which it is the difference of, to direct."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that `share` of them (0 to 1) do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def medians(values: Values, *, direct: str = "direct") -> Medians:
    """Return the medians, and what follows from them."""
    found = {
        product: {name: statistics.median(numbers) for name, numbers in figures.items() if numbers}
        for product, figures in values.items()
    }
    for product, figures in found.items():
        for workload in {name.partition(".")[0] for name in figures}:
            if (cpu := figures.get(f"{workload}.cpu")) and workload.startswith(("chat", "new")):
                figures[f"{workload}.per_core"] = 1000 / cpu
        if product != direct:
            for name, base in ADDED.items():
                if base in figures and base in found.get(direct, {}):
                    figures[name] = figures[base] - found[direct][base]
        if figures.get("chat-8.cpu") and "new.cpu" in figures:
            figures["new.cost"] = figures["new.cpu"] / figures["chat-8.cpu"]
    return found


def ratio(found: Medians, figure: str, product: str, peer: str) -> float | None:
    """Return how many times `peer`'s figure `product`'s is; nothing where one is missing."""
    mine, theirs = found.get(product, {}).get(figure), found.get(peer, {}).get(figure)
    return mine / theirs if mine is not None and theirs else None


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to be. With `peer`, how many times that product's it is to be."""

    title: str
    figure: str
    bound: float
    unit: str
    at_least: bool = False
    peer: str | None = None


TARGETS = [
    Target("kept-alive throughput per core", "chat-8.per_core", 2.5, "x stock mitmdump", at_least=True, peer="stock"),
    Target("kept-alive throughput per core", "chat-8.per_core", 10, "x LiteLLM", at_least=True, peer="litellm"),
    Target("p50 added to direct, one connection", "chat-1.added_p50", 2, "ms"),
    Target("a new client connection per call", "new.cost", 1.5, "x CPU of kept alive"),
    Target("CPU per streamed event", "streams.cpu", 0.3, "ms"),
    Target("time to first event, added p99", "streams.first_added_p99", 10, "ms"),
    Target("gap between events, added p99", "streams.gap_added_p99", 10, "ms"),
    Target("pass-through, CPU per connection", "pass.cpu", 2, "ms"),
    Target("pass-through, one download", "pass.bulk", 400, "MB/s", at_least=True),
    Target("memory, idle", "memory.idle", 85, "MB"),
    Target("memory, growth", "memory.growth", 10, "MB"),
]


GROWTH_CALLS = 200_000
"""Calls over which memory is to grow by no more than its target."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and what was measured. `is_enough`: so much was measured that it can be told whether it is met."""

    target: Target
    measured: float | None
    is_enough: bool = True

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        if not self.is_enough:
            return "too few calls to tell"
        met = self.measured >= self.target.bound if self.target.at_least else self.measured <= self.target.bound
        return "met" if met else "missed"


def outcomes(found: Medians, product: str) -> list[Outcome]:
    """Hold `product`'s figures against the targets."""
    figures = found.get(product, {})
    return [
        Outcome(
            target,
            ratio(found, target.figure, product, target.peer) if target.peer else figures.get(target.figure),
            is_enough=target.figure != "memory.growth" or figures.get("memory.calls", 0) >= GROWTH_CALLS,
        )
        for target in TARGETS
    ]

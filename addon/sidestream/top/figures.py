"""
Figures from two readings of the admin endpoint.

Counters only grow, so what one grew by, over the time between, is a rate. One that is smaller than before was
started anew and has grown from 0; one that was not there before, too. Without a reading to compare with, rates are
``None``: not known.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from sidestream.top.reading import Ended, Live, Reading

NO_NAME = "none"
"""What a label says that does not apply."""
NO_ERROR = "none"
SUCCESS = "success"
SECONDS_PER_HOUR = 3600

type Rate = float | None
"""How much for each second."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """
    Governed calls. `calls` is since the proxy started, the rates are for each second.

    `p50_seconds` and `p95_seconds`: how long the last calls took, of those that the endpoint still knows.
    """

    live: int
    calls: int
    calls_rate: Rate
    errors_rate: Rate
    input_rate: Rate
    output_rate: Rate
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """The traffic of one route and rule that goes to one provider; ``""``: none."""

    route: str
    rule: str
    provider: str
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class ProviderFigures:
    """
    What a provider is asked, and how it does.

    `failures`: outcome and rate, of those that happen now. `ejections`: since the proxy started. `ejected_by`: how
    many processes leave it alone now.
    """

    provider: str
    live: int
    attempts_rate: Rate
    failed_rate: Rate
    failures: tuple[tuple[str, float], ...]
    ejections: int
    ejected_by: int


@dataclass(frozen=True, slots=True)
class Figures:
    """
    All that is shown. `seconds`: between the readings; ``None``: there was one.

    `revisions`: of the policies in force, one unless processes differ. `dollars_rate`: an hour, if prices are on.
    `failed`: the last exchanges that failed, newest first.
    """

    seconds: float | None
    revisions: tuple[str, ...]
    problems: int
    traffic: Traffic
    retries_rate: Rate
    ejections: int
    refused_rate: Rate
    passthrough_rate: Rate
    lost_records: int
    dollars_rate: Rate
    routes: tuple[RouteFigures, ...]
    providers: tuple[ProviderFigures, ...]
    live: tuple[Live, ...]
    failed: tuple[Ended, ...]


def figures(before: Reading | None, after: Reading) -> Figures:
    """Return the figures at `after`, with rates since `before`."""
    growth = _Growth(before, after)
    dollars = growth.sum("sidestream_cost_usd_total")
    revisions = growth.by("sidestream_policy_info", lambda labels: labels.get("revision", ""))
    return Figures(
        seconds=growth.seconds,
        revisions=tuple(sorted(revision for revision, one in revisions.items() if one.total)),
        problems=int(growth.sum("sidestream_policy_problems").total),
        traffic=_traffic(growth, after, lambda _: (), lambda _: (), always=[()])[()],
        retries_rate=growth.rate(growth.sum("sidestream_retries_total")),
        ejections=int(growth.sum("sidestream_ejections_total").total),
        refused_rate=growth.rate(growth.sum("sidestream_limit_refusals_total")),
        passthrough_rate=growth.rate(growth.sum("sidestream_passthrough_connections_total")),
        lost_records=int(growth.sum("sidestream_lost_records_total").total),
        dollars_rate=growth.rate(_Sum(dollars.total, dollars.grown * SECONDS_PER_HOUR)) if dollars.total else None,
        routes=_routes(growth, after),
        providers=_providers(growth, after),
        live=tuple(sorted(after.live, key=lambda live: -live.seconds)),
        failed=tuple(ended for ended in after.recent if ended.error),
    )


@dataclass(slots=True)
class _Sum:
    """What some samples are together, and what they grew by."""

    total: float = 0.0
    grown: float = 0.0


class _Growth:
    """What metrics are, and how they grew."""

    def __init__(self, before: Reading | None, after: Reading) -> None:
        self._before = before.samples if before is not None else {}
        self._after = after.samples
        self.seconds = max(after.at - before.at, 0.001) if before is not None else None

    def by[Key: Hashable](self, name: str, key_of: Callable[[Mapping[str, str]], Key | None]) -> dict[Key, _Sum]:
        """Return the sums of the metric `name` by what `key_of` makes of labels; ``None``: it does not count."""
        known = self._before.get(name, {})
        sums: dict[Key, _Sum] = {}
        for labels, value in self._after.get(name, {}).items():
            key = key_of(dict(labels))
            if key is None:
                continue
            earlier = known.get(labels, 0.0)
            one = sums.setdefault(key, _Sum())
            one.total += value
            one.grown += value - earlier if value >= earlier else value
        return sums

    def sum(self, name: str) -> _Sum:
        """Return the sum of all of the metric `name`."""
        return self.by(name, lambda _: ()).get((), _Sum())

    def rate(self, one: _Sum | None) -> Rate:
        """Return how fast `one` grew."""
        if self.seconds is None:
            return None
        return one.grown / self.seconds if one is not None else 0.0


def _traffic[Key: Hashable](
    growth: _Growth,
    after: Reading,
    of_labels: Callable[[Mapping[str, str]], Key],
    of_exchange: Callable[[Live | Ended], Key],
    always: Iterable[Key] = (),
) -> dict[Key, Traffic]:
    """Return the traffic by what labels and exchanges have in common; of those in `always` even if there is none."""
    calls = growth.by("sidestream_exchanges_total", of_labels)
    errors = growth.by(
        "sidestream_exchanges_total", lambda labels: of_labels(labels) if labels.get("error") != NO_ERROR else None
    )
    tokens = growth.by("sidestream_tokens_total", lambda labels: (of_labels(labels), labels.get("type")))
    live = Counter(of_exchange(one) for one in after.live)
    took: dict[Key, list[float]] = defaultdict(list)
    for ended in after.recent:
        took[of_exchange(ended)].append(ended.seconds)
    return {
        key: Traffic(
            live=live[key],
            calls=int(calls[key].total) if key in calls else 0,
            calls_rate=growth.rate(calls.get(key)),
            errors_rate=growth.rate(errors.get(key)),
            input_rate=growth.rate(tokens.get((key, "input"))),
            output_rate=growth.rate(tokens.get((key, "output"))),
            p50_seconds=median(took[key]) if key in took else None,
            p95_seconds=_p95(took[key]) if key in took else None,
        )
        for key in {*calls, *live, *always}
    }


def _p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _routes(growth: _Growth, after: Reading) -> tuple[RouteFigures, ...]:
    def of_labels(labels: Mapping[str, str]) -> tuple[str, str, str]:
        route, rule, provider = (labels.get(name, "") for name in ("route", "rule", "provider"))
        return (_named(route), _named(rule), _named(provider))

    def of_exchange(one: Live | Ended) -> tuple[str, str, str]:
        return (one.route, one.rule, one.provider)

    return tuple(
        RouteFigures(*path, traffic)
        for path, traffic in sorted(_traffic(growth, after, of_labels, of_exchange).items(), key=lambda item: item[0])
    )


def _named(label: str) -> str:
    return "" if label == NO_NAME else label


def _providers(growth: _Growth, after: Reading) -> tuple[ProviderFigures, ...]:
    def provider_of(labels: Mapping[str, str]) -> str | None:
        return labels.get("provider")

    attempts = growth.by("sidestream_attempts_total", provider_of)
    outcomes = growth.by("sidestream_attempts_total", lambda labels: (provider_of(labels), labels.get("outcome", "")))
    ejections = growth.by("sidestream_ejections_total", provider_of)
    ejected = growth.by("sidestream_ejected", provider_of)
    live = Counter(one.provider for one in after.live)
    failing: dict[str | None, dict[str, float]] = defaultdict(dict)
    for (provider, outcome), one in outcomes.items():
        if outcome != SUCCESS and (rate := growth.rate(one)):
            failing[provider][outcome] = rate
    return tuple(
        ProviderFigures(
            provider=name,
            live=live[name],
            attempts_rate=growth.rate(attempts.get(name)),
            failed_rate=None if growth.seconds is None else sum(failing[name].values()),
            failures=tuple(sorted(failing[name].items(), key=lambda item: (-item[1], item[0]))),
            ejections=int(ejections.get(name, _Sum()).total),
            ejected_by=int(ejected.get(name, _Sum()).total),
        )
        for name in sorted({*attempts, *ejections})
    )

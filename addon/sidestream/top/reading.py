"""
What the admin endpoint says at one moment, taken apart.

Hosts, models and errors are for others to choose, and go to a terminal: whatever is no plain printable text is
replaced here, before anything else sees it. Long names are cut.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "sidestream_"
MAX_TEXT = 64
"""How much of a name is shown, in characters."""

type Labels = tuple[tuple[str, str], ...]
"""Labels of a sample, by name."""


class ReadingError(ValueError):
    """The pages are not those of an admin endpoint."""


@dataclass(frozen=True, slots=True)
class Live:
    """An exchange under way."""

    client: str
    host: str
    route: str
    rule: str
    provider: str
    model: str
    is_stream: bool
    status: int | None
    seconds: float
    attempts: int
    bytes_out: int
    events_out: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An exchange that is over. `error`: a word or an HTTP status; ``""``: it went well."""

    time: str
    host: str
    route: str
    rule: str
    provider: str
    model: str
    status: int | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What the endpoint says. `at`: seconds of the reader's monotonic clock.

    `samples`: name of a metric → labels → value. `recent`: newest first.
    """

    at: float
    samples: Mapping[str, Mapping[Labels, float]]
    live: tuple[Live, ...] = ()
    recent: tuple[Ended, ...] = ()


def read(metrics: str, exchanges: str, *, at: float) -> Reading:
    """
    Take the pages `/metrics` and `/exchanges` apart.

    Raises:
        ReadingError: they are something else.
    """
    try:
        samples = _samples(metrics)
        told = json.loads(exchanges)
        live = tuple(_live(entry) for entry in told["live"])
        recent = tuple(_ended(entry) for entry in told["recent"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as e:
        raise ReadingError("what it answers is none of Sidestream's") from e
    if not samples:
        raise ReadingError("it has no metrics of Sidestream's")
    return Reading(at, samples, live, recent)


def plain(value: object) -> str:
    """Return `value` as text that does nothing to a terminal; ``""`` for ``None``."""
    text = "" if value is None else str(value)
    text = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    return "".join(c if c.isprintable() else "?" for c in text)


def _samples(text: str) -> dict[str, dict[Labels, float]]:
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(PREFIX):
            continue
        for sample in family.samples:
            labels = tuple(sorted((name, plain(value)) for name, value in sample.labels.items()))
            values = samples.setdefault(sample.name, {})
            value = values.get(labels, 0.0) + float(sample.value)
            if not math.isfinite(value):
                raise ValueError("none of ours counts without an end")
            values[labels] = value
    return samples


def _live(entry: Mapping[str, Any]) -> Live:
    return Live(
        client=plain(entry["client"]),
        host=plain(entry["host"]),
        route=plain(entry["route"]),
        rule=plain(entry["rule"]),
        provider=plain(entry["provider"]),
        model=plain(entry["sent_model"]),
        is_stream=bool(entry["stream"]),
        status=_whole(entry["status"]),
        seconds=float(entry["seconds"]),
        attempts=int(entry["attempts"]),
        bytes_out=int(entry["bytes_out"]),
        events_out=int(entry["events_out"] or 0),
    )


def _ended(entry: Mapping[str, Any]) -> Ended:
    status = _whole(entry["status"])
    is_refusal = status is not None and status >= 400
    return Ended(
        time=plain(entry["time"]),
        host=plain(entry["host"]),
        route=plain(entry["route"]),
        rule=plain(entry["rule"]),
        provider=plain(entry["provider"]),
        model=plain(entry["sent_model"]),
        status=status,
        error=plain(entry["error"] or (status if is_refusal else None)),
        seconds=float(entry["duration_seconds"]),
    )


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))

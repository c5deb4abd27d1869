"""
Which providers are left alone for a while, because they failed again and again.

What is known of a provider is shared by all exchanges of the process. The time is the caller's.

Source: Istio, "OutlierDetection" (consecutive errors, base ejection time times the number of ejections).
"""

from dataclasses import dataclass

from sidestream.core.snapshot import FailureKind, OutlierDetection, Provider


@dataclass(slots=True)
class _Standing:
    errors: int = 0
    rate_limits: int = 0
    ejections: int = 0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Ejections:
    """How often a provider was ejected so far, and until when it was the last time."""

    count: int
    until: float


class Outliers:
    """Counts failures in a row by provider, and ejects."""

    def __init__(self) -> None:
        self._standings: dict[str, _Standing] = {}
        self._ejections: dict[str, Ejections] = {}

    @property
    def ejections(self) -> int:
        """How many ejections there were in all."""
        return sum(ejected.count for ejected in self._ejections.copy().values())

    def by_provider(self) -> dict[str, Ejections]:
        """Return the providers, by name, that ever were ejected. Any thread may ask."""
        return self._ejections.copy()

    def is_ejected(self, provider: Provider, now: float) -> bool:
        """Tell whether `provider` is to be left alone."""
        standing = self._standings.get(provider.name)
        return standing is not None and provider.outlier_detection is not None and now < standing.until

    def succeeded(self, provider: Provider, now: float) -> None:
        """Take note that `provider` answered well."""
        standing = self._standings.get(provider.name)
        if standing is None:
            return
        standing.errors = standing.rate_limits = 0
        if provider.outlier_detection is None or not self._remaining(standing, provider.outlier_detection, now):
            del self._standings[provider.name]

    def failed(
        self, provider: Provider, kind: FailureKind, now: float, *, retry_after_seconds: float | None = None
    ) -> None:
        """Take note that `provider` failed. `retry_after_seconds`: how long it asked to be left alone."""
        detection = provider.outlier_detection
        if detection is None:
            return
        standing = self._standings.setdefault(provider.name, _Standing())
        if now < standing.until:
            return  # of a call that began before; it is being left alone already
        if kind == "rate-limited":
            standing.rate_limits += 1
            limit = detection.consecutive_rate_limits
            is_too_much = limit is not None and standing.rate_limits >= limit
        else:
            standing.errors += 1
            is_too_much = standing.errors >= detection.consecutive_errors
        if is_too_much:
            self._eject(standing, detection, now, retry_after_seconds)
            known = self._ejections.get(provider.name)
            self._ejections[provider.name] = Ejections(1 + (known.count if known else 0), standing.until)

    def _eject(
        self, standing: _Standing, detection: OutlierDetection, now: float, retry_after_seconds: float | None
    ) -> None:
        standing.ejections = self._remaining(standing, detection, now) + 1
        asked = retry_after_seconds or detection.base_ejection_seconds * standing.ejections
        standing.until = now + min(asked, detection.max_ejection_seconds)
        standing.errors = standing.rate_limits = 0

    @staticmethod
    def _remaining(standing: _Standing, detection: OutlierDetection, now: float) -> int:
        """Return how many ejections still count."""
        intervals = int((now - standing.until) / detection.interval_seconds)
        return max(0, standing.ejections - max(0, intervals))

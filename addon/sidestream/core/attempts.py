"""
What comes after an attempt: the answer, another attempt, or the end.

A state machine for one exchange. It is told what happened and the time, and says what to do next;
it waits for nothing and sends nothing. What it promises, whatever it is told (tests/core/test_attempts.py):
no more attempts than the rule allows, none after content went out, and one outcome.
"""

from dataclasses import dataclass, field

from sidestream.core.budget import RetryBudget
from sidestream.core.outliers import Outliers
from sidestream.core.routing import Forward, pick
from sidestream.core.snapshot import Backend, FailureKind, Retry, Timeouts

NO_RETRY = Retry(attempts=0)


@dataclass(frozen=True, slots=True)
class Failure:
    """
    How an attempt failed.

    `status`: of the provider's answer, if it gave one, which asks to come back after `retry_after_seconds`.
    `message`: for a person; it holds nothing of a body, and no key.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """Send the request to `backend`, after a pause."""

    backend: Backend
    after_seconds: float = 0.0


@dataclass(slots=True)
class Health:
    """What all exchanges of a process share: who is ejected, and how much may be retried. `retries`: how many were."""

    outliers: Outliers = field(default_factory=Outliers)
    budget: RetryBudget = field(default_factory=RetryBudget)
    retries: int = 0


class Attempts:
    """
    The attempts of one exchange.

    `forward`: as decided; its backend is the first choice. `hashed`: the draw of the rule's `hashOn`, which then stands
    for every draw. `only_unsent`: the request may have an effect, so it goes out again only if it never arrived.
    """

    def __init__(
        self, forward: Forward, health: Health, *, now: float, hashed: float | None = None, only_unsent: bool = False
    ) -> None:
        rule = forward.rule
        self.timeouts = rule.timeouts if rule is not None else Timeouts()
        self._first_choice = forward.backend
        backends = rule.backends if rule is not None else (forward.backend,)
        self._backends = tuple(backend for backend in backends if backend.weight) or (forward.backend,)
        written = rule.retry if rule is not None else None
        self._retry = written or NO_RETRY
        self._left = self._retry.attempts if written is not None else self._other_tiers()
        self._health = health
        self._hashed = hashed
        self.only_unsent = only_unsent
        self._deadline = now + self.timeouts.request_seconds
        self._tried: dict[str, int] = {}  # by provider: a rule may name one more than once
        self._not_before: dict[str, float] = {}
        self._current: Backend | None = None
        self._is_over = False

    @property
    def deadline(self) -> float:
        """When the exchange must be over, whatever happens."""
        return self._deadline

    @property
    def may_go_on(self) -> bool:
        """Tell whether a failure now could still be followed by another attempt."""
        return not self._is_over and self._left > 0

    def first(self, *, now: float, draw: float) -> Try:
        """Begin: return the first attempt."""
        assert self._current is None, "the first attempt is asked for once"
        self._health.budget.deposit()
        backend = self._first_choice
        if self._health.outliers.is_ejected(backend.provider, now):
            backend = self._choose([b for b in self._backends if self._is_in(b, now)], draw) or backend
        return self._begin(Try(backend))

    def failed(self, failure: Failure, *, now: float, draw: float) -> Try | None:
        """Take note that the attempt failed; return the next one, or ``None``: the client is told of this failure."""
        backend = self._current
        if backend is None or self._is_over:
            return None
        self._note_failure(backend, failure, now)
        following = self._following(now, draw) if self._may_follow(failure) else None
        if following is None:
            self._is_over = True
            return None
        self._left -= 1
        self._health.retries += 1
        return self._begin(following)

    def committed(self) -> None:
        """Take note that content went out: whatever happens now, this attempt was the last."""
        self._left = 0

    def succeeded(self, *, now: float) -> bool:
        """Take note that the answer is complete. Tell whether that is the outcome: it comes once."""
        if self._is_over or self._current is None:
            return False
        self._is_over = True
        self._health.outliers.succeeded(self._current.provider, now)
        return True

    def abandoned(self) -> None:
        """Take note that the client has left. That says nothing about a provider."""
        self._is_over = True

    def _other_tiers(self) -> int:
        """Return how many attempts may follow where no rule says: where there are tiers, each provider has its turn."""
        tiers = {backend.priority for backend in self._backends}
        return len({backend.provider.name for backend in self._backends}) - 1 if len(tiers) > 1 else 0

    def _begin(self, attempt: Try) -> Try:
        self._current = attempt.backend
        name = attempt.backend.provider.name
        self._tried[name] = self._tried.get(name, 0) + 1
        return attempt

    def _note_failure(self, backend: Backend, failure: Failure, now: float) -> None:
        asked = failure.retry_after_seconds
        self._health.outliers.failed(backend.provider, failure.kind, now, retry_after_seconds=asked)
        if asked is not None:
            self._not_before[backend.provider.name] = now + asked

    def _may_follow(self, failure: Failure) -> bool:
        if self._left <= 0 or (self.only_unsent and failure.kind != "connect-failure"):
            return False
        return not self._retry.on or failure.kind in self._retry.on

    def _following(self, now: float, draw: float) -> Try | None:
        untried = [backend for backend in self._backends if backend.provider.name not in self._tried]
        fresh = self._choose([b for b in untried if self._is_in(b, now)], draw)
        if fresh is not None:
            return Try(fresh) if now < self._deadline else None
        again = [
            b
            for b in self._backends
            if b.provider.name in self._tried and self._is_in(b, now) and self._is_soon(b, now)
        ]
        known = self._choose(again, draw)
        if known is None:
            last_resort = self._choose(untried, draw)
            return Try(last_resort) if last_resort is not None and now < self._deadline else None
        pause = max(self._backoff(known, draw), self._not_before.get(known.provider.name, now) - now)
        if now + pause >= self._deadline or not self._health.budget.withdraw(now):
            return None
        return Try(known, pause)

    def _choose(self, backends: list[Backend], draw: float) -> Backend | None:
        """Return one of the lowest tier among `backends`, by weight."""
        lowest = min((backend.priority for backend in backends), default=0)
        tier = [backend for backend in backends if backend.priority == lowest]
        return pick(tier, draw if self._hashed is None else self._hashed)

    def _is_in(self, backend: Backend, now: float) -> bool:
        return not self._health.outliers.is_ejected(backend.provider, now)

    def _is_soon(self, backend: Backend, now: float) -> bool:
        return self._not_before.get(backend.provider.name, now) - now <= self._retry.backoff_max_seconds

    def _backoff(self, backend: Backend, draw: float) -> float:
        """Return a pause with full jitter: anything up to what grows with each time that `backend` was tried."""
        times = self._tried[backend.provider.name]
        longest = min(self._retry.backoff_max_seconds, self._retry.backoff_base_seconds * 2.0 ** (times - 1))
        return draw * longest

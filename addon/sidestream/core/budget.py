"""
The retry budget: what keeps retries from multiplying an outage.

Only a provider that was asked before in the same exchange is asked on this budget. Going on to
another backend is free: it gives no provider more calls than there are exchanges.

Source: Finagle, "RetryBudget" (a share of the requests, and a few a second in reserve).
"""

RATIO = 0.2
"""Retries allowed for each exchange."""
RESERVE_PER_SECOND = 10.0
"""Retries allowed a second besides, so that a quiet proxy may retry at all."""
MOST = 100.0
"""How many retries may have been saved up."""


class RetryBudget:
    """A bucket of retries, filled by exchanges and by time. `refused` counts those it did not allow."""

    def __init__(self) -> None:
        self.refused = 0
        self._balance = RESERVE_PER_SECOND
        self._filled: float | None = None

    def deposit(self) -> None:
        """Take note of an exchange."""
        self._balance = min(MOST, self._balance + RATIO)

    def withdraw(self, now: float) -> bool:
        """Take out one retry; tell whether there was one."""
        if self._filled is not None:
            self._balance = min(MOST, self._balance + max(0.0, now - self._filled) * RESERVE_PER_SECOND)
        self._filled = now
        if self._balance < 1:
            self.refused += 1
            return False
        self._balance -= 1
        return True

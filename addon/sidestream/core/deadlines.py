"""
When an attempt has taken too long.

Told what happened and when, it says when to look again; so one timer serves for a whole
exchange, and is not set anew for every byte. Times are of the caller's monotonic clock.
"""

from typing import Literal

from sidestream.core.attempts import Failure
from sidestream.core.snapshot import Timeouts

type Phase = Literal["connecting", "waiting", "streaming"]


class Deadlines:
    """The deadlines of one attempt, which began to connect at `now`, in an exchange that must be over at `last`."""

    __slots__ = ("_heard", "_last", "_paused", "_phase", "_timeouts")

    def __init__(self, timeouts: Timeouts, *, now: float, last: float) -> None:
        self._timeouts = timeouts
        self._last = last
        self._phase: Phase = "connecting"
        self._heard = now
        self._paused = False

    def connected(self, now: float) -> None:
        """Take note that the request can be sent."""
        self._phase, self._heard = "waiting", now

    def heard(self, now: float) -> None:
        """Take note of bytes of the answer that are a sign of life."""
        self._phase, self._heard = "streaming", now

    def pause(self) -> None:
        """Stop waiting for the provider: it is the client that does not read."""
        self._paused = True

    def resume(self, now: float) -> None:
        """Wait for the provider again."""
        self._paused, self._heard = False, now

    @property
    def is_paused(self) -> bool:
        """Tell whether it is the client that is waited for."""
        return self._paused

    @property
    def next(self) -> float:
        """When to look again, if nothing happens."""
        return self._last if self._paused else min(self._last, self._heard + self._allowed())

    def missed(self, now: float) -> Failure | None:
        """Return the failure that it is that `now` has come, or ``None`` when it is none yet."""
        if now >= self._last:
            return Failure("timeout", f"the exchange took longer than {self._timeouts.request_seconds:g} s")
        if self._paused or now < self._heard + self._allowed():
            return None
        allowed = f"{self._allowed():g} s"
        match self._phase:
            case "connecting":
                return Failure("connect-failure", f"no connection within {allowed}")
            case "waiting":
                return Failure("timeout", f"no answer within {allowed}")
            case "streaming":
                return Failure("timeout", f"the answer stalled for {allowed}")

    def _allowed(self) -> float:
        match self._phase:
            case "connecting":
                return self._timeouts.connect_seconds
            case "waiting":
                return self._timeouts.first_byte_seconds
            case "streaming":
                return self._timeouts.stream_idle_seconds

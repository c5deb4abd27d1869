"""
Keeping the policy in force up to date with its source.

What does not compile never replaces what does: the last good snapshot stays, and the
failure is logged with all its problems, counted and kept to be shown.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sidestream.core.snapshot import Labels, Snapshot
from sidestream.policy.compiling import Compilation
from sidestream.policy.problems import PolicyError, Problem, Severity, errors_in

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
"""How often the source is looked at. A change is in force within two seconds."""


class Reading(Protocol):
    """What was compiled, and what the source was like then."""

    @property
    def compilation(self) -> Compilation:
        """What came of it."""


class Source[R: Reading](Protocol):
    """Where documents come from."""

    def read(self, *, missing_key: Severity = Severity.ERROR) -> R:
        """Read and compile what is there now."""

    def changed_since(self, reading: R) -> bool:
        """Tell whether something is not what it was."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the source is doing: reloads that failed, and the problems of the newest documents."""

    failures: int = 0
    problems: tuple[Problem, ...] = ()


class PolicyWatch[R: Reading]:
    """
    The policy of a source, for one workload.

    `snapshot` is the one in force. Making a watch compiles what is there.

    Raises:
        PolicyError: it does not compile; there is nothing to fall back to yet.
    """

    def __init__(self, source: Source[R], labels: Labels) -> None:
        self._source = source
        self._labels = labels
        self._reading = source.read()
        compilation = self._reading.compilation
        self.snapshot: Snapshot = compilation.require().for_workload(labels)
        self.status = Status(problems=compilation.problems)
        _log_problems(compilation.problems)
        self._log_loaded()

    async def run(self, on_change: Callable[[Snapshot], None] | None = None) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                # In a thread: reading and compiling must not hold up the traffic.
                changed = await asyncio.to_thread(self.refresh)
            except Exception:
                logger.exception("the policy could not be looked at; the last good one stays in force")
                continue
            if changed and on_change is not None:
                on_change(self.snapshot)

    def problems(self) -> list[str]:
        """Return the problems of the newest documents, as a person reads them."""
        return [str(problem) for problem in self.status.problems]

    def refresh(self) -> bool:
        """Compile again if something changed. Return whether another snapshot is in force."""
        if not self._source.changed_since(self._reading):
            return False
        self._reading = self._source.read()
        compilation = self._reading.compilation
        try:
            snapshot = compilation.require().for_workload(self._labels)
        except PolicyError as e:
            self.status = Status(self.status.failures + 1, e.problems)
            _log_problems(e.problems)
            logger.error(  # noqa: TRY400 the problems say it all
                "the policy does not compile; the last good one stays in force",
                extra={"revision": self.snapshot.revision, "problems": len(errors_in(e.problems))},
            )
            return False
        self.snapshot = snapshot
        self.status = Status(self.status.failures, compilation.problems)
        _log_problems(compilation.problems)
        self._log_loaded()
        return True

    def _log_loaded(self) -> None:
        logger.info(
            "policy loaded", extra={"revision": self.snapshot.revision, "hosts": sorted(self.snapshot.hosts)[:20]}
        )


def _log_problems(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        logger.warning("%s", problem)

"""The admin endpoints: of one process, and of several workers together."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidestream.core.showing import shown
from sidestream.mitm.runtime import AUTOMATIC, OFF, Inside
from sidestream.sources.watching import PolicyWatch
from sidestream.telemetry.admin import AdminEndpoint, Page, Pages
from sidestream.telemetry.gathering import Gathering
from sidestream.telemetry.metrics import CONTENT_TYPE, Metrics
from sidestream.telemetry.recent import Recent

ADMIN_ADDRESS = "127.0.0.1:15020"
"""Where the endpoint is when nobody says otherwise."""


def endpoint_at(given: str, pages: Pages) -> AdminEndpoint:
    """Return the endpoint for `pages` at the address that was `given`."""
    is_automatic = given == AUTOMATIC
    return AdminEndpoint(ADMIN_ADDRESS if is_automatic else given, pages, may_miss=is_automatic)


class ProcessAdmin:
    """The admin endpoint of one process, at the address that was `given`."""

    def __init__(self, given: str, source: PolicyWatch[Any], metrics: Metrics, recent: Recent) -> None:
        self._source = source
        self._metrics = metrics
        self._recent = recent
        self._inside: Inside | None = None
        pages: Pages = {
            "/metrics": lambda: Page(metrics.exposition(), CONTENT_TYPE),
            "/healthz/live": lambda: Page(b"alive\n"),
            "/healthz/ready": lambda: Page.of_readiness(self._not_ready()),
            "/policy": lambda: Page.of_json(self._policy()),
            "/exchanges": lambda: Page.of_json(self._exchanges()),
        }
        self._endpoint = endpoint_at(given, pages)

    def open(self, inside: Inside) -> None:
        """
        Begin to answer.

        Raises:
            AdminError: the address can't be listened at.
        """
        self._inside = inside
        self._metrics.watch(inside)
        self._endpoint.open()

    def close(self) -> None:
        """Stop to answer."""
        self._endpoint.close()

    def _not_ready(self) -> str | None:
        return self._inside.not_ready() if self._inside is not None else "it is starting"

    def _policy(self) -> object:
        status = self._source.status
        problems = [str(problem) for problem in status.problems]
        return shown(self._source.snapshot) | {"reload_failures": status.failures, "problems": problems}

    def _exchanges(self) -> object:
        live = self._inside.live() if self._inside is not None else []
        return {"live": live, "recent": self._recent.newest_first()}


class WorkersAdmin(Gathering):
    """The admin endpoint of several workers."""

    def __init__(self, given: str, number: int, folder: Path) -> None:
        super().__init__(number, folder)
        self._endpoint = endpoint_at(given, self.pages())

    def open(self) -> None:
        """
        Begin to answer.

        Raises:
            AdminError: the address can't be listened at.
        """
        self._endpoint.open()

    def close(self) -> None:
        """Stop to answer."""
        self._endpoint.close()


@contextlib.contextmanager
def workers_admin(given: str, number: int) -> Iterator[WorkersAdmin | None]:
    """Make the endpoint for `number` workers at the address that was `given`, with a folder for their sockets."""
    if given == OFF:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="sidestream-") as folder:
        yield WorkersAdmin(given, number, Path(folder))

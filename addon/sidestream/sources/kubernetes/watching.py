"""
Keeping up with a resource: listed once, watched from there, without losing an event.

A watch that ends or breaks off goes on from the last version it was told of, by an event or a
bookmark. Only when the server no longer knows what came after (410 Gone) is all listed again, and
what was deleted meanwhile is missing from that list.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sidestream.sources.kubernetes.api import Api, ApiError, Watch
from sidestream.sources.kubernetes.objects import Changed, Event, Listed, Resource, version_of

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.2, 30.0)
"""The first pause after a failure, and the longest: each is up to twice the one before, and drawn at random."""

HASTY_SECONDS = 1.0
"""A watch that ends sooner, and told of nothing, is not begun again at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is watched: a resource, in one namespace or (``""``) everywhere, with selectors of fields and labels."""

    resource: Resource
    namespace: str = ""
    fields: str = ""
    labels: str = ""


class Watching:
    """A thread that tells `tell` of all that happens to a resource."""

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        tell: Callable[[Event], None],
        backoff_seconds: tuple[float, float] = BACKOFF_SECONDS,
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._tell = tell
        self._backoff_seconds = backoff_seconds
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {wanted.resource.plural}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it works, or is yet to begin."""
        return self._thread.ident is None or self._thread.is_alive()

    def start(self) -> None:
        """Start watching, if it has not started yet."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop watching, and wait until it has."""
        self._stopping.set()
        if (watch := self._watch) is not None:
            watch.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        version = ""
        failures = 0
        while not self._stopping.is_set():
            try:
                if not version:
                    version = self._list()
                started, before = time.monotonic(), version
                version = self._follow(version)
                failures = 0
                if version == before and time.monotonic() < started + HASTY_SECONDS:
                    self._pause(1)
            except _Broken as e:
                # What was told of before counts: a watch that got somewhere is no failure of its beginning.
                failures = 1 if e.version != version else failures + 1
                version = e.version
                self._report(e.error, failures)
                self._pause(failures)

    def _list(self) -> str:
        wanted = self._wanted
        try:
            items, version = self._api.list(
                wanted.resource, wanted.namespace, fields=wanted.fields, labels=wanted.labels
            )
        except ApiError as e:
            raise _Broken("", e) from e
        self._tell(Listed(wanted.resource, tuple(items)))
        return version

    def _follow(self, version: str) -> str:
        """Tell of all that happens after `version` until the watch ends. Return the last version told of."""
        wanted = self._wanted
        try:
            self._watch = self._api.watch(
                wanted.resource, wanted.namespace, version, fields=wanted.fields, labels=wanted.labels
            )
            for kind, content in self._watch:
                if self._stopping.is_set():
                    break
                if kind != "BOOKMARK":
                    self._tell(Changed(wanted.resource, content, deleted=kind == "DELETED"))
                version = version_of(content) or version
        except ApiError as e:
            raise _Broken("" if e.is_gone else version, e) from e
        finally:
            self._watch = None
        return version

    def _report(self, error: ApiError, failures: int) -> None:
        if self._stopping.is_set():
            return
        fields = {"resource": self._wanted.resource.plural, "error": str(error), "failures": failures}
        if error.is_gone:
            logger.info("a watch is too far behind; all is listed again", extra=fields)
        elif failures > 1 or error.status:
            logger.warning("the Kubernetes API can't be watched; trying again", extra=fields)
        else:
            logger.info("a watch broke off; it goes on where it was", extra=fields)

    def _pause(self, failures: int) -> None:
        base, most = self._backoff_seconds
        longest = min(most, base * 2 ** min(failures - 1, 16))
        self._stopping.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311 no secret


class _Broken(Exception):
    """Watching broke off. `version`: from where it can go on, ``""`` when all is to be listed again."""

    def __init__(self, version: str, error: ApiError) -> None:
        self.version = version
        self.error = error
        super().__init__(str(error))

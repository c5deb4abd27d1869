"""
The control plane at work: watches tell, the reconciler plans, and the leader carries out.

Every replica watches, so that one that becomes the leader knows everything; only the leader writes.
"""

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable

from sidestream.control.bundling import Entry
from sidestream.control.nudging import PATCHES_PER_SECOND, Nudging
from sidestream.control.reconciling import Plan, Reconciler, Step, WriteStatus
from sidestream.control.writing import NotOurs, rfc3339, write_bundle, write_status
from sidestream.core.snapshot import Labels
from sidestream.inject.options import INJECT_LABEL
from sidestream.sources.kubernetes.api import Api, ApiError
from sidestream.sources.kubernetes.keys import Secrets
from sidestream.sources.kubernetes.objects import (
    NAMESPACES,
    NOT_KEYS,
    PROVIDERS,
    ROUTES,
    SECRETS,
    Event,
    Key,
    Listed,
    version_of,
)
from sidestream.sources.kubernetes.watching import BACKOFF_SECONDS, Wanted, Watching

logger = logging.getLogger(__name__)

INJECTED = f"{INJECT_LABEL}=true"
"""Namespaces whose pods are injected: there is a bundle in each, though it be empty, so that they can start."""

SETTLE_SECONDS = 0.03
"""How long events are gathered before a namespace is planned: what is applied together is planned together."""

RETRY_SECONDS = (0.5, 60.0)
"""How long it takes until a namespace whose plan failed is planned again: at first, and at most."""


class Controlling:
    """
    The control plane of a cluster, or of one `namespace` of it.

    `rate`: how many pods are nudged a second. `backoff_seconds`: pauses of watches that fail.
    """

    def __init__(
        self,
        api: Api,
        *,
        namespace: str = "",
        rate: float = PATCHES_PER_SECOND,
        backoff_seconds: tuple[float, float] = BACKOFF_SECONDS,
    ) -> None:
        self._api = api
        self._reconciler = Reconciler(namespace)
        self._lock = threading.Lock()  # of the reconciler, which webhooks ask, too
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._leading = False
        self._still: Callable[[], bool] = lambda: True
        self._stopping = False
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._nudging = Nudging(api, self.bundle_for, self._unmounted, rate)
        wanted = [Wanted(PROVIDERS, namespace), Wanted(ROUTES, namespace)]
        if not namespace:
            wanted.append(Wanted(NAMESPACES, labels=INJECTED))
        self._first = [Watching(api, each, self._events.put, backoff_seconds) for each in wanted]
        self._secrets = Watching(api, Wanted(SECRETS, namespace, NOT_KEYS), self._events.put, backoff_seconds)
        self._thread = threading.Thread(target=self._run, name="control plane", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._nudging.start()
        self._thread.start()
        for watching in self._first:
            watching.start()

    def stop(self) -> None:
        """Stop, and wait until nothing is written any more."""
        self._stopping = True
        self._events.put(None)
        self._thread.join(timeout=10)
        for watching in (*self._first, self._secrets):
            watching.stop()
        self._nudging.stop()

    def lead(self, *, leads: bool, still: Callable[[], bool] = lambda: True) -> None:
        """Write from now on, as long as `still` says so, or write no more."""
        self._still = still
        with self._lock:
            self._leading = self._reconciler.leads = leads
            self._reconciler.mark_all()
        if not leads:
            self._nudging.clear()
        self._events.put(None)

    @property
    def ready(self) -> bool:
        """Whether everything was listed once."""
        with self._lock:
            return self._reconciler.ready

    @property
    def alive(self) -> bool:
        """Whether it is still told, and works on it."""
        watches = all(watching.alive for watching in (*self._first, self._secrets))
        return self._thread.is_alive() and watches and self._nudging.alive

    def bundle_for(self, namespace: str, labels: Labels) -> str:
        """Return the name of the bundle that a pod with `labels` mounts."""
        with self._lock:
            return self._reconciler.bundle_for(namespace, labels)

    def known(self, namespace: str) -> tuple[list[Entry], Secrets]:
        """Return the documents of a namespace, and the Secrets that they name."""
        with self._lock:
            return self._reconciler.documents(namespace), self._reconciler.secrets(namespace)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._take_in()
                self._work()
            except Exception as e:  # noqa: BLE001 nor for ever
                _report("the control plane stumbled; it goes on", e)
                time.sleep(RETRY_SECONDS[0])

    def _take_in(self) -> None:
        """Wait for something to do, and take in all that came."""
        now = time.monotonic()
        timeout = max(0.0, min(self._due.values()) - now) if self._due else None
        try:
            event = self._events.get(timeout=timeout)
            self._handle(event)
            settled = time.monotonic() + SETTLE_SECONDS
            while (left := settled - time.monotonic()) > 0 and not self._stopping:
                self._handle(self._events.get(timeout=left))
        except queue.Empty:
            pass
        for namespace in [namespace for namespace, at in self._due.items() if at <= time.monotonic()]:
            del self._due[namespace]
            with self._lock:
                self._reconciler.dirty.add(namespace)

    def _handle(self, event: Event | None) -> None:
        if event is None:
            return
        with self._lock:
            self._reconciler.handle(event)
        # Secrets come last: which of them matter is known then.
        if isinstance(event, Listed) and self._reconciler.knows_documents:
            self._secrets.start()

    def _work(self) -> None:
        with self._lock:
            unknown = self._reconciler.unknown_secrets()
        for key in unknown:
            if key[0] not in self._due:
                self._fetch(key)
        with self._lock:
            if not self._leading or not self._reconciler.ready:
                return
            dirty = sorted(self._reconciler.dirty - set(self._due))
        for namespace in dirty:
            if self._stopping or not self._leading:
                return
            if not self._still():
                self._due[namespace] = time.monotonic() + RETRY_SECONDS[0]
                continue
            try:
                with self._lock:
                    plan = self._reconciler.plan(namespace, now=rfc3339())
                self._carry_out(namespace, plan)
            except Exception as e:  # noqa: BLE001 a bug of ours in one namespace must not hold up the others
                _report("a namespace could not be planned", e, namespace=namespace)
                self._retry(namespace, e)

    def _fetch(self, key: Key) -> None:
        try:
            content = self._api.get(SECRETS, *key)
        except ApiError as e:
            if not e.is_missing:
                self._retry(key[0], e)
                return
            content = None
        with self._lock:
            self._reconciler.fetched(key, content)

    def _carry_out(self, namespace: str, plan: Plan) -> None:
        for document, message in plan.notices.items():
            logger.warning("%s: %s", document, message)
        try:
            for step in plan.steps:
                if not self._leading:
                    return
                if not self._still():
                    self._due[namespace] = time.monotonic() + RETRY_SECONDS[0]
                    return
                self._take(step)
            self._failures.pop(namespace, None)
        except (ApiError, NotOurs) as e:
            if isinstance(e, NotOurs) or e.is_final:
                self._tell(namespace, str(e))
            self._retry(namespace, e)

    def _take(self, step: Step) -> None:
        if isinstance(step, WriteStatus):
            write_status(self._api, step)
            with self._lock:
                self._reconciler.said(step)
            return
        written = write_bundle(self._api, step)
        with self._lock:
            self._reconciler.wrote(written)
        self._nudging.nudge((step.namespace, step.name), version_of(written))
        logger.info(
            "bundle written", extra={"bundle": f"{step.namespace}/{step.name}", "revision": version_of(written)}
        )

    def _tell(self, namespace: str, unwritten: str) -> None:
        """Say in every status of a namespace why its bundles can't be written."""
        with self._lock:
            plan = self._reconciler.plan(namespace, now=rfc3339(), unwritten=unwritten)
        for step in plan.steps:
            if isinstance(step, WriteStatus):
                try:
                    self._take(step)
                except ApiError as e:
                    logger.warning("a status could not be written", extra={"document": step.name, "error": str(e)})

    def _retry(self, namespace: str, error: Exception) -> None:
        failures = self._failures[namespace] = self._failures.get(namespace, 0) + 1
        first, most = RETRY_SECONDS
        pause = min(most, first * 2 ** min(failures - 1, 16))
        self._due[namespace] = time.monotonic() + pause
        logger.warning(
            "a namespace could not be brought up to date; trying again",
            extra={"namespace": namespace, "error": _said(error), "seconds": pause},
        )

    def _unmounted(self, bundle: Key) -> None:
        """Delete a bundle that is there for nobody."""
        with self._lock:
            obsolete = self._leading and self._reconciler.is_obsolete(bundle)
        if not obsolete:
            return
        try:
            self._api.delete(SECRETS, *bundle)
        except ApiError as e:
            if not e.is_missing:
                logger.info("a bundle could not be deleted", extra={"bundle": "/".join(bundle), "error": str(e)})
                return
        with self._lock:
            self._reconciler.forget_bundle(bundle)
        self._events.put(None)


def _said(error: Exception) -> str:
    """Return what may be told of an error: of our own, what it says; of others, which may quote anything, its name."""
    return str(error) if isinstance(error, (ApiError, NotOurs)) else type(error).__name__


def _report(event: str, error: Exception, **fields: str) -> None:
    """Log a bug of ours: what it is and where, not what it says, which may quote anything."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    logger.error(event, extra={"error": type(error).__name__, "place": place, **fields})

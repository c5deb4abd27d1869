"""
Leader election by a Lease, so that of several replicas one writes.

The official Python client elects with ConfigMaps only, so this is client-go's algorithm on the API's own kind: who
holds the lease renews it; who sees one that was not renewed for as long as it lasts takes it. How long that is, is
measured here and never by the times in the lease, so clocks may differ.

Source: client-go, `tools/leaderelection`; Kubernetes, "Leases".
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sidestream.sources.kubernetes.api import Api, ApiError
from sidestream.sources.kubernetes.objects import LEASES, Key, Object

logger = logging.getLogger(__name__)

LEASE = "sidestream-controller"


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How long things take, in seconds: client-go's defaults.

    `lease`: how long others wait for a renewal. `deadline`: how long a leader that can't renew goes on, which must be
    less. `retry`: how often the lease is looked at.
    """

    lease: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


class Seen:
    """The lease as it was seen, and since when it has been like that."""

    def __init__(self, identity: str, timing: Timing) -> None:
        self._identity = identity
        self._timing = timing
        self._spec: dict[str, Any] | None = None
        self._since = 0.0

    def claim(self, lease: Object | None, *, now: float, written: str) -> dict[str, Any] | None:
        """
        Return the spec with which the lease is to be written to hold it, ``None`` while another one does.

        `now`: a clock that only goes forward, in seconds. `written`: the time as the API has it.
        """
        spec = dict((lease or {}).get("spec") or {})
        if lease is not None and spec != self._spec:
            self._spec, self._since = spec, now
        holder = spec.get("holderIdentity") or ""
        lasts = float(spec.get("leaseDurationSeconds") or self._timing.lease)
        if holder not in ("", self._identity) and now < self._since + lasts:
            return None
        changes_hands = holder != self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._timing.lease)),
            "acquireTime": written if changes_hands else spec.get("acquireTime") or written,
            "renewTime": written,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (changes_hands and bool(spec)),
        }


class Electing:
    """A thread that stands for election. `tell` hears whether we lead, from that thread."""

    def __init__(
        self, api: Api, lease: Key, identity: str, tell: Callable[[bool], None], timing: Timing | None = None
    ) -> None:
        self._api = api
        self._lease = lease
        self._identity = identity
        self._tell = tell
        self._timing = timing or Timing()
        self._seen = Seen(identity, self._timing)
        self._leads = False
        self._renewed = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    @property
    def leads(self) -> bool:
        """Whether we lead: not past the deadline, even while a renewal hangs."""
        return self._leads and time.monotonic() < self._renewed + self._timing.deadline

    @property
    def alive(self) -> bool:
        """Whether the thread that stands for election is there, unless it was not started or is to stop."""
        return self._thread.ident is None or self._stopping.is_set() or self._thread.is_alive()

    def start(self) -> None:
        """Stand for election."""
        self._thread.start()

    def stop(self) -> None:
        """Lead no more, and give up the lease so that the next one need not wait for its end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                held = self._hold()
            except ApiError as e:
                held = self.leads
                logger.warning("the lease could not be renewed", extra={"leads": held, "error": str(e)})
            else:
                if held:
                    # From before the call: others count from when it arrived, which is later.
                    self._renewed = started
            self._become(leads=held)
            self._stopping.wait(self._timing.retry * random.uniform(0.8, 1.2))  # noqa: S311 no secret
        if self._leads:
            self._become(leads=False)
            self._release()

    def _hold(self) -> bool:
        """Write the lease if it may be ours. Return whether it is."""
        lease = self._read()
        spec = self._seen.claim(lease, now=time.monotonic(), written=_micro_time())
        if spec is None:
            return False
        try:
            if lease is None:
                namespace, name = self._lease
                metadata = {"namespace": namespace, "name": name}
                kind = {"apiVersion": LEASES.api_version, "kind": LEASES.kind}
                self._api.create(LEASES, kind | {"metadata": metadata, "spec": spec})
            else:
                self._api.replace(LEASES, {**lease, "spec": spec})
        except ApiError as e:
            if e.is_conflict:
                return False  # another one was faster
            raise
        return True

    def _read(self) -> Object | None:
        try:
            return self._api.get(LEASES, *self._lease)
        except ApiError as e:
            if e.is_missing:
                return None
            raise

    def _become(self, *, leads: bool) -> None:
        if leads != self._leads:
            self._leads = leads
            logger.info("leads now" if leads else "leads no more", extra={"identity": self._identity})
            self._tell(leads)

    def _release(self) -> None:
        try:
            lease = self._read()
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                spec = lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
                self._api.replace(LEASES, {**lease, "spec": spec})
        except ApiError as e:
            logger.info("the lease could not be given up; it ends by itself", extra={"error": str(e)})


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

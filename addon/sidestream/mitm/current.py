"""The settings and surroundings of the addon as they are now; its hooks share this."""

import logging
from collections.abc import Mapping

from sidestream.core.exchange import Record
from sidestream.core.hosts import normalise_host
from sidestream.core.snapshot import EMPTY, Snapshot
from sidestream.core.tracing import Trace, context_of
from sidestream.mitm.runtime import Runtime, Settings

logger = logging.getLogger(__name__)


class Current:
    """What is in force. Without settings, nothing is governed."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.runtime: Runtime | None = None
        self.is_ending = False

    @property
    def snapshot(self) -> Snapshot:
        """The policy in force."""
        return self.runtime.source.snapshot if self.runtime is not None else EMPTY

    def governs(self, host: str) -> bool:
        """Tell whether a policy names `host`, as a client wrote it."""
        return self.snapshot.governs(normalise_host(host))

    def trace(self, headers: Mapping[str, str]) -> Trace:
        """Return what is known of the trace of an exchange whose request has `headers`. It never harms the traffic."""
        parent, begin = context_of(headers), self.runtime.begin_span if self.runtime is not None else None
        try:
            return Trace(parent, begin(parent) if begin is not None else None)
        except Exception:
            logger.exception("a span could not be begun")
            return Trace(parent, None)

    def publish(self, record: Record) -> None:
        """Hand `record` to every sink. One that fails harms neither the others nor the traffic."""
        for sink in self.runtime.sinks if self.runtime is not None else ():
            try:
                sink(record)
            except Exception:
                logger.exception("a sink failed")

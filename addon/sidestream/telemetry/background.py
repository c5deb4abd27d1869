"""
A sink that never holds anybody up.

Writing can block: a pipe that nobody reads, a disk that is slow. So records are handed to a
thread, through a queue that is bounded: when it is full, records are lost and counted, and
the traffic goes on.
"""

import atexit
import logging
import queue
import threading
from collections.abc import Callable

from sidestream.core.exchange import Record

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""How many records may wait to be written."""
LAST_WORDS_SECONDS = 2.0
"""How long the end of the process waits for what is still to be written."""


class InBackground:
    """Hands records to `sink` in a thread of its own. `lost` counts those that found no place."""

    def __init__(self, sink: Callable[[Record], None], max_waiting: int = MAX_WAITING) -> None:
        self.lost = 0
        self._sink = sink
        self._waiting: queue.Queue[Record | None] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, record: Record) -> None:
        """Take `record`, to be written soon."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            if not self.lost:
                logger.warning("records are written too slowly; some are lost")
            self.lost += 1

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        try:
            self._waiting.put(None, timeout=LAST_WORDS_SECONDS)
        except queue.Full:
            return
        self._thread.join(LAST_WORDS_SECONDS)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._sink(record)
            except Exception:
                logger.exception("a record could not be written")

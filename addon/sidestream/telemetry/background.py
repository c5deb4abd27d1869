"""
A sink that never holds anybody up.

Writing can block: a pipe that nobody reads, a disk that is slow. So records are handed to a
thread, through a queue that is bounded: when it is full, records are lost and counted, and
the traffic goes on. The thread gathers for a moment what there is to write: to wake it for every
record took a tenth of the proxy's time.
"""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from sidestream.core.exchange import Record

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""How many records may wait to be written."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""How many bytes of bodies may wait with them, where records have any."""
GATHERING_SECONDS = 0.01
"""How long the thread waits for more when there is something to write."""
LAST_WORDS_SECONDS = 2.0
"""How long the end of the process waits for what is still to be written."""


class InBackground:
    """Hands records to `sink` in a thread of its own. `lost` counts those that found no place."""

    def __init__(
        self, sink: Callable[[Record], None], max_waiting: int = MAX_WAITING, max_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        self.lost = 0
        self._sink = sink
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        # Each is counted by one thread alone.
        self._bytes_taken = self._bytes_written = 0
        self._waiting: deque[Record] = deque()
        self._there_is_some = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write, name="records", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, record: Record) -> None:
        """Take `record`, to be written soon."""
        size = _body_bytes(record)
        is_heavy = size > 0 and self._bytes_taken - self._bytes_written + size > self._max_bytes
        if is_heavy or len(self._waiting) >= self._max_waiting:
            if not self.lost:
                logger.warning("records are written too slowly; some are lost")
            self.lost += 1
            return
        self._bytes_taken += size
        self._waiting.append(record)
        if not self._there_is_some.is_set():
            self._there_is_some.set()

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        self._is_closing = True
        self._there_is_some.set()
        self._thread.join(LAST_WORDS_SECONDS)

    def _write(self) -> None:
        while not (self._is_closing and not self._waiting):
            self._there_is_some.wait()
            if not self._is_closing:
                time.sleep(GATHERING_SECONDS)
                self._there_is_some.clear()
            while self._waiting:
                self._write_one(self._waiting.popleft())

    def _write_one(self, record: Record) -> None:
        try:
            self._sink(record)
        except Exception:
            logger.exception("a record could not be written")
        self._bytes_written += _body_bytes(record)


def _body_bytes(record: Record) -> int:
    return 0 if record.content is None else len(record.content.request) + len(record.content.response)

"""
A sink that never holds anybody up.

Writing can block: a pipe that nobody reads, a disk that is slow. So records are handed to a
thread, through a queue that is bounded: when it is full, records are lost and counted, and
the traffic goes on. The thread gathers for a moment what there is to write, and lets it be seen
together, for longer when there is much: each time that it takes its turn from the traffic costs more than a dozen
records do.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable

from sidestream.core.exchange import Record

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""How many records may wait to be written."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""How many bytes of bodies may wait with them, where records have any."""
GATHERING_SECONDS, GATHERING_SECONDS_WHEN_BUSY = 0.02, 0.25
"""How long the thread waits for more when there is something to write."""
MANY = 10
"""So many records at a time mean that there is much to do."""
LAST_WORDS_SECONDS = 2.0
"""How long the end of the process waits for what is still to be written."""


class InBackground:
    """
    Hands records to `sink` in a thread of its own, and calls `flush` after some.

    `lost` counts those that found no place.
    """

    def __init__(
        self,
        sink: Callable[[Record], None],
        flush: Callable[[], None] = lambda: None,
        *,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.lost = 0
        self._sink = sink
        self._flush = flush
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        # Each is counted by one thread alone.
        self._bytes_taken = self._bytes_written = 0
        self._waiting: deque[Record] = deque()
        self._there_is_some = threading.Event()
        self._is_closing = threading.Event()
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
        self._is_closing.set()
        self._there_is_some.set()
        self._thread.join(LAST_WORDS_SECONDS)

    def _write(self) -> None:
        number = 0
        while not (self._is_closing.is_set() and not self._waiting):
            self._there_is_some.wait()
            pause = GATHERING_SECONDS_WHEN_BUSY if number >= MANY else GATHERING_SECONDS
            if not self._is_closing.wait(pause):
                self._there_is_some.clear()
            number = len(self._waiting)
            for _ in range(number):
                self._write_one(self._waiting.popleft())
            try:
                self._flush()
            except Exception:
                logger.exception("records could not be flushed")

    def _write_one(self, record: Record) -> None:
        try:
            self._sink(record)
        except Exception:
            logger.exception("a record could not be written")
        self._bytes_written += _body_bytes(record)


def _body_bytes(record: Record) -> int:
    return 0 if record.content is None else len(record.content.request) + len(record.content.response)

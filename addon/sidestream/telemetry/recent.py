"""The last records, to be looked at."""

from collections import deque
from dataclasses import replace

from sidestream.core.exchange import Record

MAX_RECORDS = 200
"""How many records are kept."""


class Recent:
    """A sink that keeps the newest records."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self._records: deque[Record] = deque(maxlen=max_records)

    def __call__(self, record: Record) -> None:
        """Keep `record`."""
        # Without its bodies, which nobody is shown: of the records that are kept they would take a hundred megabytes.
        self._records.append(record if record.content is None else replace(record, content=None))

    def newest_first(self) -> list[dict[str, object]]:
        """Return the records that are kept, as the access log has them."""
        return [record.as_dict() for record in reversed(self._records.copy())]

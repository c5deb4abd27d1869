"""
Records as JSON lines, on standard output or in a file.

A sink never harms the traffic: what can't be written is counted, and said once.
"""

import json
import logging
import sys
from pathlib import Path
from typing import TextIO

from sidestream.core.exchange import Record

logger = logging.getLogger(__name__)

STANDARD_OUTPUT = "-"


class JsonLines:
    """Writes one line per record, at once. `lost` counts those that could not be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = 0

    @classmethod
    def to(cls, target: str) -> "JsonLines":
        """
        Return a sink for the file `target`, which is added to, or for ``-``, standard output.

        Raises:
            OSError: the file can't be opened.
        """
        if target == STANDARD_OUTPUT:
            if sys.stdout is None:  # as Python has it when the process was started without one
                raise OSError("standard output is closed: name a file for the records")
            return cls(sys.stdout)
        return cls(Path(target).open("a", encoding="utf-8"))

    def __call__(self, record: Record) -> None:
        """Write `record`."""
        # ASCII: any stream takes it, and no character in it is taken for the end of a line.
        line = json.dumps(record.as_dict(), separators=(",", ":"))
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError) as e:
            if not self.lost:
                logger.warning("records can't be written and are lost: %s", e)
            self.lost += 1

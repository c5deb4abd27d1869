"""
The access log: a line for each record, on standard output, in a file, or both.

A sink never harms the traffic: what can't be written is counted, and said once.
"""

import contextlib
import logging
import os
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

from sidestream.core.exchange import Record

logger = logging.getLogger(__name__)

STANDARD_OUTPUT = "-"

MAX_IN_PIPE_BYTES = 4096
"""How many bytes of lines are let out together: a pipe that several write to takes so many in one piece (PIPE_BUF)."""
MAX_IN_FILE_BYTES = 64 * 1024
"""The same for a file, to which whatever is added stays in one piece."""


class Output(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object:
        """Write a line."""

    def flush(self) -> None:
        """Let everybody see what was written."""


class AccessLog:
    """Writes a line for each record, to be seen at the next `flush`. `lost` counts those that could not be written."""

    def __init__(self, output: Output, format_record: Callable[[Record], str]) -> None:
        self._output = output
        is_file = isinstance(output, LogFile) and output.is_regular
        self._max_together = MAX_IN_FILE_BYTES if is_file else MAX_IN_PIPE_BYTES
        self._format = format_record
        self.lost = 0
        self._unseen = self._unseen_bytes = 0

    def __call__(self, record: Record) -> None:
        """Write `record`."""
        line = self._format(record) + "\n"
        size = len(line.encode())
        if self._unseen_bytes + size > self._max_together:
            self.flush()
        try:
            self._output.write(line)
            self._unseen += 1
            self._unseen_bytes += size
        except (OSError, ValueError) as e:
            self._lose(1, e)

    def flush(self) -> None:
        """Let everybody see what was written."""
        unseen, self._unseen, self._unseen_bytes = self._unseen, 0, 0
        try:
            if unseen:
                self._output.flush()
        except (OSError, ValueError) as e:
            self._lose(unseen, e)

    def _lose(self, number: int, error: Exception) -> None:
        if not self.lost:
            logger.warning("records can't be written and are lost: %s", error)
        self.lost += number


class Sampled:
    """
    Hands on a share of the records, and every one that tells of a failure.

    Which ones is told by their ids, so that several outputs with the same share have the same records.
    """

    def __init__(self, share: float, sink: Callable[[Record], None]) -> None:
        self._below = share * 2**32
        self._sink = sink

    def __call__(self, record: Record) -> None:
        """Hand on `record`, if it is one of those."""
        is_failure = record.error is not None or record.status is None or record.status >= 400
        if is_failure or zlib.crc32(record.id.encode()) < self._below:
            self._sink(record)


class LogFile:
    """
    A file that is added to. One that was moved away, or removed, is made anew.

    `max_bytes`: how large it may become; then it is renamed to `path`.1, that to `path`.2, and so on, up to
    `keep` of them. 0: it may grow.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, keep: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._file = self._open()
        self._size: int | None = None  # known from the first line after a flush until the next

    @property
    def is_regular(self) -> bool:
        """Whether it is a file and no pipe, terminal or other device."""
        return stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def write(self, line: str) -> None:
        """Write a line."""
        size, length = self._look() if self._size is None else self._size, len(line.encode())
        self._size = None  # if this fails, nobody knows
        if size and 0 < self._max_bytes < size + length:
            self._rotate()
            size = 0
        self._file.write(line)
        self._size = size + length

    def flush(self) -> None:
        """Let everybody see what was written."""
        self._size = None
        self._file.flush()

    def _open(self) -> TextIO:
        return self._path.open("a", MAX_IN_FILE_BYTES, encoding="utf-8")

    def _reopen(self) -> None:
        older, self._file = self._file, self._open()
        with contextlib.suppress(OSError):  # what it still had was told to be lost
            older.close()

    def _look(self) -> int:
        """Return the size of the file, which is made anew if it is no longer at its path."""
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if os.path.samestat(found, os.fstat(self._file.fileno())):
                return found.st_size
        self._reopen()
        return self._path.stat().st_size

    def _rotate(self) -> None:
        self._file.flush()
        for number in range(self._keep, 0, -1):
            older = Path(f"{self._path}.{number}")
            newer = Path(f"{self._path}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        if not self._keep:
            self._path.unlink(missing_ok=True)
        self._reopen()


def output_to(target: str, *, max_bytes: int = 0, keep: int = 0) -> Output:
    """
    Return where lines for `target` go: a file, or for ``-``, standard output.

    Raises:
        OSError: it can't be opened.
    """
    if target != STANDARD_OUTPUT:
        return LogFile(Path(target), max_bytes=max_bytes, keep=keep)
    if sys.stdout is None:  # as Python has it when the process was started without one
        raise OSError("standard output is closed: name a file for the records")
    return sys.stdout

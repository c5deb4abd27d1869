"""
What processes take of the machine, read from /proc.

A program is a process and all that descend from it. Time is user and system time; processor time of children
that have ended is their parent's.

Source: proc(5).
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return `pid` and its descendants."""
    children: dict[int, list[int]] = {}
    for each in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        if fields := _fields(each):
            children.setdefault(int(fields[1]), []).append(each)
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the program took so far."""
    return sum(sum(map(int, _fields(each)[11:15])) for each in tree(pid)) * TICK_SECONDS


def rss_mb(pid: int) -> float:
    """Return the program's resident memory in MB (10**6 bytes); what processes share counts for each."""
    return sum(_kilobytes(each) for each in tree(pid)) * 1024 / 1e6


def _fields(pid: int) -> list[str]:
    """Return what /proc/PID/stat says after the name; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


@dataclass
class Stopwatch:
    """
    What the program `pid`, on `cores`, takes while a block runs.

    `cpu`: seconds of processor time. `disturbance`: the share of `cores` that others took meanwhile (other programs,
    and the machine's owner), from 0 to 1.
    """

    pid: int | None
    cores: list[int]
    cpu: float = 0.0
    disturbance: float = 0.0

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        clock, cpu, busy = (now - before for now, before in zip(self._read(), self._before, strict=True))
        self.cpu = cpu
        self.disturbance = max(0.0, busy - cpu) / (clock * len(self.cores))

    def _read(self) -> tuple[float, float, float]:
        return time.monotonic(), cpu_seconds(self.pid) if self.pid else 0.0, _busy_seconds(self.cores)


def _busy_seconds(cores: list[int]) -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    rows = {row[0]: list(map(int, row[1:])) for row in map(str.split, lines) if row[0].startswith("cpu")}
    # All but idle and waiting for disks; guests count as users already.
    return sum(sum(rows[f"cpu{core}"][:8]) - sum(rows[f"cpu{core}"][3:5]) for core in cores) * TICK_SECONDS

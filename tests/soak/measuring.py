"""
What a process holds, as the kernel sees it, and whether it grows.

Source: proc(5); the states of /proc/PID/net/tcp are those of the kernel's net/tcp_states.h.
"""

import itertools
import os
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATES = {
    "01": "established",
    "02": "syn-sent",
    "03": "syn-recv",
    "04": "fin-wait-1",
    "05": "fin-wait-2",
    "06": "time-wait",
    "07": "close",
    "08": "close-wait",
    "09": "last-ack",
    "0A": "listen",
    "0B": "closing",
}

STARVED_SHARE = 0.25
"""From which share of the time on a process that waits for the CPU is starved."""


@dataclass(frozen=True, slots=True)
class Sample:
    """
    The proxy at one moment, `at` seconds after the start.

    `cpu_seconds`: used until now; `waited_seconds`: ready to run, while others had the CPU. `lag`: how
    late its event loop was at worst within a second, in seconds. `sockets`: kind and state → how many.
    """

    at: float
    rss_kb: int
    cpu_seconds: float
    waited_seconds: float
    fds: int
    threads: int
    tasks: int
    lag: float
    sockets: dict[str, int] = field(default_factory=dict)
    providers_open: int = 0
    finished: int = 0
    under_way: int = 0

    def as_dict(self):
        return asdict(self)


def look(pid: int, provider_ports: frozenset[int]) -> dict:
    """Look at the process `pid`; return what a `Sample` takes from it."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    targets = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            targets.append(entry.stat(follow_symlinks=False) and Path(entry.path).readlink().as_posix())
        except OSError:
            continue
    inodes = {target[8:-1] for target in targets if target.startswith("socket:[")}
    sockets = Counter()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                inodes.discard(fields[9])
                port = int(fields[2].rpartition(":")[2], 16)
                state = STATES.get(fields[3], fields[3])
                kind = "" if state == "listen" else "provider " if port in provider_ports else "client "
                sockets[kind + state] += 1
    # Unix sockets of the event loop, and TCP sockets that are neither bound nor connected.
    sockets["other"] = len(inodes)
    # Behind the name, which may hold anything: the 12th and 13th field are times in user and kernel mode.
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "cpu_seconds": sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        "waited_seconds": int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9,
        "rss_kb": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "fds": len(targets),
        "sockets": dict(sorted(sockets.items())),
    }


def starved(samples: list[Sample]) -> list[tuple[float, float]]:
    """Return when others had the CPU that the proxy wanted: from and to, in seconds after the start."""
    return [
        (before.at, after.at)
        for before, after in itertools.pairwise(samples)
        if after.waited_seconds - before.waited_seconds > STARVED_SHARE * (after.at - before.at)
    ]


def growth_kb(samples: list[Sample], warm_up_seconds: float) -> tuple[float, int]:
    """
    Return how much memory grew after the warm-up, and over how many finished calls.

    Medians of the first and the last third are compared, so that no single moment decides.
    """
    warm = [sample for sample in samples if sample.at >= warm_up_seconds]
    third = len(warm) // 3
    if not third:
        return 0.0, 0
    first, last = warm[:third], warm[-third:]
    kb = statistics.median(s.rss_kb for s in last) - statistics.median(s.rss_kb for s in first)
    calls = statistics.median(s.finished for s in last) - statistics.median(s.finished for s in first)
    return kb, int(calls)

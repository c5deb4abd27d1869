"""
The workloads: each puts load on one product for a while and returns its figures (see `figures`).

Nothing here knows which product it is about.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.load import Calls, Load
from tests.bench.measuring import Stopwatch, rss_mb
from tests.bench.stage import Actor

CONNECTIONS = (1, 8, 64)
STREAMS = 200
BULK_MB = 400
MEMORY_CONNECTIONS = 64
MEMORY_WARM_UP = 0.05
"""The share of the calls that is made before growth counts: allocators reach their size in the first thousands."""
MEMORY_PIECE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Options:
    """How much: `seconds` of calls, `count` streams in each place, `gap` seconds between events."""

    seconds: int
    count: int
    gap: float
    bulk_mb: int = BULK_MB


def chat(load: Load, actor: Actor, options: Options) -> dict[str, float]:
    """Make calls on connections that are kept."""
    figures: dict[str, float] = {}
    for connections in CONNECTIONS:
        # wrk gives up what is under way at its end, so that many connections need more time to tell.
        seconds = options.seconds * (2 if connections == max(CONNECTIONS) else 1)
        with actor.measured() as watch:
            calls = load.chat(actor.where, actor.target, connections, seconds)
        figures |= _of_calls(f"chat-{connections}", actor, calls, watch)
    return figures


def new(load: Load, actor: Actor, options: Options) -> dict[str, float]:
    """Make each call on a new connection."""
    with actor.measured() as watch:
        calls = load.new_connections(actor.where, actor.target, options.seconds)
    return _of_calls("new", actor, calls, watch)


def streams(load: Load, actor: Actor, options: Options) -> dict[str, float]:
    """Take many streams at a time."""
    with actor.measured() as watch:
        seen = load.streams(actor.where, actor.target, STREAMS, options.count, options.gap)
    figures = {"streams.rate": seen["events"] / seen["seconds"], "streams.disturbance": 100 * watch.disturbance}
    if actor.program:
        figures["streams.cpu"] = 1000 * watch.cpu / seen["events"]
    parts = [f"{part}_{share}" for part in ("first", "delay", "gap") for share in ("p50", "p99")]
    return figures | {f"streams.{part}": seen[part] for part in parts}


def passing(load: Load, actor: Actor, options: Options) -> dict[str, float]:
    """Let pass what is for somebody else: small connections, and one download."""
    with actor.measured() as watch:
        calls = load.passing_connections(actor.where, options.seconds)
    figures = {"pass.rate": calls.good / calls.seconds, "pass.p50": calls.p50_ms}
    if actor.program:
        figures["pass.cpu"] = 1000 * watch.cpu / calls.good
    with actor.measured() as watch:
        figures["pass.bulk"] = load.download(actor.where, options.bulk_mb)
    if actor.program:
        figures["pass.bulk_cpu"] = 1000 * watch.cpu / options.bulk_mb
    return figures | {"pass.disturbance": 100 * watch.disturbance}


def memory(load: Load, actor: Actor, calls: int, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """Make `calls` calls, or as many as there are in `seconds`, and look at the memory."""
    if actor.program is None:
        return {}
    pid = actor.program.pid
    highest = 0.0

    def make(wanted: float, limit: float) -> int:
        nonlocal highest
        made, begun, piece = 0, time.monotonic(), MEMORY_PIECE_SECONDS
        while made < wanted and time.monotonic() - begun < limit:
            seen = load.chat(actor.where, actor.target, MEMORY_CONNECTIONS, piece)
            made += seen.good
            highest = max(highest, rss_mb(pid))
            say(f"{actor.product.title}: {made} calls, {rss_mb(pid):.1f} MB")
            # Of a short piece, what is given up at its end would be a large part.
            piece = max(5, min(MEMORY_PIECE_SECONDS, round((wanted - made) * seen.seconds / seen.good)))
        return made

    with actor.measured():
        make(calls * MEMORY_WARM_UP, seconds / 4)
        before = rss_mb(pid)
        made = make(calls, seconds)
        after = rss_mb(pid)
    return {
        "memory.idle": actor.idle_mb,
        "memory.load": highest,
        "memory.after": after,
        "memory.growth": after - before,
        "memory.calls": made,
    }


def _of_calls(workload: str, actor: Actor, calls: Calls, watch: Stopwatch) -> dict[str, float]:
    figures = {"rate": calls.good / calls.seconds, "p50": calls.p50_ms, "p99": calls.p99_ms}
    figures["disturbance"] = 100 * watch.disturbance
    if actor.program:
        figures["cpu"] = 1000 * watch.cpu / calls.good
        figures["busy"] = 100 * watch.cpu / calls.seconds
    return {f"{workload}.{name}": value for name, value in figures.items()}


ROUNDS = {"chat": chat, "new": new, "streams": streams, "pass": passing}
"""Name → workload, in the order in which a round goes through them."""
WORKLOADS = (*ROUNDS, "memory")

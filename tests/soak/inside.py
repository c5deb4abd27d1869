"""
What only the proxy's own process knows: its asyncio tasks. An addon, named with `--set scripts=`.

Every second it writes a line of JSON to the file that `SOAK_INSIDE` names: how many tasks there are, and
how late the event loop was at worst, in seconds. When `SOAK_INSIDE` with
`.census` behind it exists and is empty, a census of what the process holds is written into it.
"""

import asyncio
import gc
import json
import os
import time
from collections import Counter
from pathlib import Path

from mitmproxy.proxy.server import ConnectionHandler

TICK_SECONDS = 0.1
TICKS = 10
TYPES = 60
"""How many types a census has: the most frequent."""


class Inside:
    def __init__(self, file):
        self._file, self._census = file, file.with_name(file.name + ".census")
        self._telling = None

    def running(self):
        self._telling = asyncio.create_task(self._tell())

    async def _tell(self):
        with self._file.open("a", buffering=1) as stream:
            while True:
                tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
                lag = max([await self._tick() for _ in range(TICKS)])
                stream.write(json.dumps({"tasks": tasks.total(), "lag": round(lag, 4), "kinds": tasks}) + "\n")
                if self._census.exists() and not self._census.stat().st_size:
                    self._census.write_text(json.dumps(_census(), indent=1))

    async def _tick(self):
        due = time.monotonic() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        return time.monotonic() - due


def _census():
    """Count all objects by type after a garbage collection, and show the connections that were held before it."""
    things = gc.get_objects()
    transports = [repr(thing) for thing in things if isinstance(thing, asyncio.Transport)]
    held = [
        f"{conn!r} {io.handler!r} {io.writer.transport if io.writer else None!r}"
        for thing in things
        if isinstance(thing, ConnectionHandler)
        for conn, io in thing.transports.items()
    ]
    del things
    collected = gc.collect()
    types = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return {"transports": transports, "held": held, "collected": collected, "types": types.most_common(TYPES)}


addons = [Inside(Path(os.environ["SOAK_INSIDE"]))]

"""
What one of several workers tells the process that started it.

One socket joins the two. The worker writes what it has counted, a line of JSON each time; that
the socket ends tells the worker that its parent has, however that came about.
"""

import asyncio
import json
import socket
from collections.abc import Callable

from mitmproxy import ctx

SECONDS_BETWEEN_REPORTS = 1.0


class Reporting:
    """An addon that reports `counts` over `parent`, and stops the proxy when nobody is there to hear it."""

    name = "sidestream-reporting"

    def __init__(self, counts: Callable[[], dict[str, int]], parent: socket.socket) -> None:
        self._counts = counts
        self._parent = parent
        self._parent.setblocking(False)  # noqa: FBT003 as the standard library has it
        self._reporting: asyncio.Task[None] | None = None

    def running(self) -> None:
        """Report, at once and from then on: the first report says that this worker runs."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._parent, self._look)
        self._reporting = loop.create_task(self._report_from_time_to_time())

    def done(self) -> None:
        """Report for the last time."""
        if self._reporting is not None:
            self._reporting.cancel()
            asyncio.get_running_loop().remove_reader(self._parent)
            self._report()

    def _look(self) -> None:
        try:
            is_over = not self._parent.recv(1024)
        except OSError:
            is_over = True
        if is_over:
            asyncio.get_running_loop().remove_reader(self._parent)
            ctx.master.shutdown()

    async def _report_from_time_to_time(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(SECONDS_BETWEEN_REPORTS)

    def _report(self) -> None:
        line = json.dumps(self._counts()) + "\n"
        try:
            self._parent.send(line.encode())  # so short that it goes whole, or not at all
        except OSError:
            return  # the parent is too slow, and will hear the next; or it is gone, and that is seen elsewhere

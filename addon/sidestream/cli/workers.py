"""
`sidestream run --workers`: several processes, each on ports of its own.

They share nothing but the folder of policies, the CA and the log. The first is started alone: it
makes the CA, and what keeps it from starting would keep all. One that ends is started again.
"""

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""How long it takes until a worker is started again: at first, and at most when it ends again and again."""
SOUND_SECONDS = 60.0
"""How long a worker must have run so that its end counts as the first."""
LAST_SECONDS = 20.0
"""How long workers have to end after the grace before they are killed."""

type Command = Callable[[int, int, str | None], Sequence[str]]
"""Worker's number, the file descriptor that it reports to, and where its admin endpoint is → its command line."""


class Admin(Protocol):
    """The admin endpoint of all workers."""

    def open(self) -> None:
        """
        Begin to answer.

        Raises:
            ValueError: it can't; the message says why.
        """

    def close(self) -> None:
        """Stop."""

    def began(self, index: int) -> str:
        """Take note that worker `index` starts; return the address for its own endpoint."""

    def ended(self, index: int) -> None:
        """Take note that worker `index` is no more."""


def shifted(modes: Sequence[str], by: int) -> list[str]:
    """
    Return mode specs that name their ports, with each port `by` higher.

    Raises:
        ValueError: a mode listens at no port, or there is no such port.
    """
    return [_shifted(mode, by) for mode in modes]


def _shifted(mode: str, by: int) -> str:
    matched = re.fullmatch(r"(.*@(?:.*:)?)(\d+)", mode)
    if matched is None:
        raise ValueError(f"mode {mode} listens at no port of its own: it can't have workers")
    port = int(matched[2]) + by
    if port > 65535:
        raise ValueError(f"mode {mode}: there is no port {port} for a worker")
    return f"{matched[1]}{port}"


def check(modes: Sequence[str], number: int) -> None:
    """
    Check that `number` workers can listen at `modes` and the ports after them.

    Raises:
        ValueError: they can't; the message says why.
    """
    addresses = Counter(mode.rpartition("@")[2] for index in range(number) for mode in shifted(modes, index))
    twice = sorted(address for address, times in addresses.items() if times > 1)
    if twice:
        raise ValueError(f"several workers would listen at {', '.join(twice)}: leave {number} ports to each mode")


def run(command: Command, number: int, admin: Admin | None = None, *, grace_seconds: float = 0.0) -> int:
    """
    Run `number` workers until SIGTERM or SIGINT; return the exit status.

    Every signal goes on to the workers, which end as one process does. `grace_seconds`: how long they may take.

    Raises:
        ValueError: `admin` can't be had.
    """
    return asyncio.run(_Workers(command, number, admin, grace_seconds).run())


class _Workers:
    """`ended`: what workers had counted that are no more. `counted`: what those did that are, by number."""

    def __init__(self, command: Command, number: int, admin: Admin | None, grace_seconds: float) -> None:
        self._command = command
        self._admin = admin
        self._number = number
        self._grace_seconds = grace_seconds
        self._stop = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._failed = 0
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ended: Counter[str] = Counter()
        self._counted: dict[int, dict[str, int]] = {}

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for of_ours in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(of_ours, self._end_all)
        loop.add_signal_handler(signal.SIGUSR1, self._say_totals)
        if self._admin is not None:
            self._admin.open()
        async with asyncio.TaskGroup() as tasks:
            started = asyncio.Event()
            tasks.create_task(self._keep(0, started))
            await started.wait()
            for index in range(1, self._number):
                tasks.create_task(self._keep(index, asyncio.Event()))
            await self._stop.wait()
            tasks.create_task(self._kill_late())
        if self._admin is not None:
            self._admin.close()
        self._say_totals()
        return self._failed

    async def _keep(self, index: int, came_up: asyncio.Event) -> None:
        """Keep worker `index` running. `came_up`: set when it did once, or when it never will."""
        pause, loop = FIRST_PAUSE_SECONDS, asyncio.get_running_loop()
        while not self._stop.is_set():
            since = loop.time()
            status = await self._run_once(index, came_up)
            if self._stop.is_set():
                break
            if not came_up.is_set():
                self._failed = max(status, 1)  # it is negative for one that a signal ended
                self._end_all()
                break
            pause = FIRST_PAUSE_SECONDS if loop.time() - since > SOUND_SECONDS else pause
            fields = {"worker": index, "status": status, "pause_seconds": pause}
            logger.error("a worker has ended; it will be started again", extra=fields)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        came_up.set()

    async def _run_once(self, index: int, came_up: asyncio.Event) -> int:
        ours, its = socket.socketpair()
        with its:
            address = self._admin.began(index) if self._admin is not None else None
            command = self._command(index, its.fileno(), address)
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=[its.fileno()]
            )
        self._processes[index] = process
        if self._stop.is_set():
            process.terminate()
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async for line in reader:
                if index not in self._counted:
                    logger.info("a worker runs", extra={"worker": index, "pid": process.pid})
                    came_up.set()
                with contextlib.suppress(ValueError):  # half a line, of one that was killed
                    self._counted[index] = json.loads(line)
        except OSError:
            pass  # it was killed
        status = await process.wait()
        writer.close()
        del self._processes[index]
        if self._admin is not None:
            self._admin.ended(index)
        self._ended.update(self._counted.pop(index, {}))
        return status

    def _end_all(self) -> None:
        if self._stop.is_set():
            self._is_hurried.set()
        self._stop.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()

    async def _kill_late(self) -> None:
        ended = asyncio.create_task(self._all_end())
        hurried = asyncio.create_task(self._is_hurried.wait())
        await asyncio.wait([ended, hurried], timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        await asyncio.wait([ended], timeout=LAST_SECONDS)
        for index, process in self._processes.items():
            if process.returncode is None:
                logger.error("a worker does not end; it is killed", extra={"worker": index})
                process.kill()

    async def _all_end(self) -> None:
        for process in list(self._processes.values()):
            await process.wait()

    def _say_totals(self) -> None:
        totals = self._ended.copy()
        for counted in self._counted.values():
            totals.update(counted)
        logger.info("totals", extra=dict(totals))


def own_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of another process of this very command."""
    return [sys.executable, "-m", "sidestream.cli.main", *arguments]

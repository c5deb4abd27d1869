"""
Programs that the bench starts: each in its namespace and on its cores, ended by process id.

A program that is not measured is frozen, so that it takes nothing from the one that is. Each ends with
the bench, even when the bench is killed (PR_SET_PDEATHSIG).
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measuring import tree
from tests.bench.scene import Namespace, environment

STOP_SECONDS = 10.0
"""How long a program may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores proxies run on, and which the load and the provider."""

    proxies: list[int]
    load: list[int]

    @classmethod
    def share(cls) -> "Cores":
        """Give proxies the first core (the first two where there are four), the load the others."""
        cores = sorted(os.sched_getaffinity(0))
        count = 2 if len(cores) >= 4 else 1
        return cls(cores[:count], cores[count:])


class Program:
    """A running program."""

    def __init__(self, process: subprocess.Popen, output: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._output = output

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self, lines: int = 3) -> str:
        """Return the end of what it wrote, in one line."""
        text = self._output.read_text(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in text[-lines:])[-600:]

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, and whatever it started."""
        started = tree(self.pid) if not self.has_ended else []
        self.thaw()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                if pid != self.pid:
                    os.kill(pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self.has_ended:
            for pid in tree(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


@contextlib.contextmanager
def started(
    namespace: Namespace, command: list[str], output: Path, cores: list[int], variables: dict[str, str] | None = None
) -> Iterator[Program]:
    """Run `command` until the block ends; what it says goes to `output`."""
    placed = ["setpriv", "--pdeathsig=KILL", "taskset", "--cpu-list", ",".join(map(str, cores)), *command]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            namespace.command(placed),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(**(variables or {})),
            start_new_session=True,  # Ctrl-C is for the bench, which then ends it
        )
    program = Program(process, output)
    try:
        yield program
    finally:
        program.stop()

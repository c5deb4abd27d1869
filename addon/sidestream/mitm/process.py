"""
mitmproxy as a process of ours: without a terminal, or with mitmweb's pages.

Under stock mitmproxy none of this is used; there the addon is loaded as a script.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mitmproxy import exceptions
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.tools.dump import DumpMaster

from sidestream.mitm import memory
from sidestream.mitm.addon import Sidestream
from sidestream.mitm.ending import Ending
from sidestream.mitm.engine.chain import put_first
from sidestream.mitm.reporting import Reporting

logger = logging.getLogger(__name__)

QUIET_LOGGERS = ("mitmproxy.proxy.server", "tornado", "asyncio", "hpack", "quic")
"""Loggers that say something for every connection. They are heard from WARNING on."""


class ProcessError(ValueError):
    """The process can't run with what it was given; the message says all that is wrong."""


class UsageError(ValueError):
    """The process was asked for in a way that makes no sense."""


@dataclass(frozen=True, slots=True)
class Process:
    """
    How to run.

    `modes`: mitmproxy's mode specs. `options`: mitmproxy option → value, the addon's own among
    them. `specs`: more of them, as ``name=value``. `web`: with mitmweb's pages. `parent`: whom to
    report to (see `mitm.reporting`), for one of several workers.
    """

    modes: Sequence[str]
    options: Mapping[str, object]
    specs: Sequence[str] = ()
    web: bool = False
    parent: socket.socket | None = None


def run(process: Process, addon: Sidestream) -> None:
    """
    Run until SIGTERM or SIGINT, and then until what is under way is done (see `mitm.ending`).

    The second one ends it at once.

    Raises:
        UsageError: a mode or an option of mitmproxy makes no sense.
        ProcessError: the policy, or a file that is named, is not as it must be.
        SystemExit: the process could not start, and said why.
    """
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    _raise_file_limit()
    memory.give_back_what_is_large()
    asyncio.run(_run(process, addon))


async def _run(process: Process, addon: Sidestream) -> None:
    options = Options()
    master: Master
    if process.web:
        from mitmproxy.tools.web.master import WebMaster  # noqa: PLC0415 it takes 6 MB, for those who want no pages, too

        master = WebMaster(options, with_termlog=False)
    else:
        master = DumpMaster(options, with_termlog=False, with_dumper=False)
    put_first(master.addons, addon)
    ending = Ending(addon, master)
    master.addons.add(_Settled(), ending)

    def counts() -> dict[str, int]:
        return addon.counts() | ending.counts

    if process.parent is not None:
        master.addons.add(Reporting(counts, process.parent))
    try:
        for mode in process.modes:
            ProxyMode.parse(mode)
        options.set(*process.specs)
    except (exceptions.OptionsError, ValueError) as e:
        raise UsageError(str(e)) from e
    try:
        # All at once: an addon never sees half of its options. Naming confdir makes the CA now; otherwise
        # it would be made after the port takes connections, and apps that wait for the port would not find it.
        always = {"confdir": options.confdir, "mode": list(process.modes)}
        options.update(**always | dict(process.options))
    except exceptions.OptionsError as e:
        raise ProcessError(str(e)) from e
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.begin)
    if process.parent is not None:
        # The terminal sends SIGINT to all of us, and it is the parent that says when to end, and tells the totals.
        loop.add_signal_handler(signal.SIGINT, _leave_it_to_the_parent)
        await master.run()
        return

    def say_totals() -> None:
        logger.info("totals", extra=counts())

    loop.add_signal_handler(signal.SIGUSR1, say_totals)
    await master.run()
    say_totals()


def _leave_it_to_the_parent() -> None:
    pass


class _Settled:
    """An addon that is the last to hear that all is running, and sees to the memory from then on."""

    name = "sidestream-settled"

    def __init__(self) -> None:
        self._tidying: asyncio.Task[None] | None = None

    def running(self) -> None:
        """Take what is there by now for granted."""
        memory.settle()
        self._tidying = asyncio.get_running_loop().create_task(memory.tidy())

    def done(self) -> None:
        """Stop."""
        if self._tidying is not None:
            self._tidying.cancel()


def _raise_file_limit() -> None:
    """Take as many open files as may be had: a connection that passes through needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

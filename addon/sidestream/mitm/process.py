"""
mitmproxy as a process of ours: without a terminal, or with mitmweb's pages.

Under stock mitmproxy none of this is used; there the addon is loaded as a script.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mitmproxy import exceptions
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.web.master import WebMaster

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.engine.chain import put_first

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
    them. `specs`: more of them, as ``name=value``. `web`: with mitmweb's pages.
    """

    modes: Sequence[str]
    options: Mapping[str, object]
    specs: Sequence[str] = ()
    web: bool = False


def run(process: Process, addon: Sidestream) -> None:
    """
    Run until SIGTERM or SIGINT.

    Raises:
        UsageError: a mode or an option of mitmproxy makes no sense.
        ProcessError: the policy, or a file that is named, is not as it must be.
        SystemExit: the process could not start, and said why.
    """
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    asyncio.run(_run(process, addon))


async def _run(process: Process, addon: Sidestream) -> None:
    options = Options()
    master: Master
    if process.web:
        master = WebMaster(options, with_termlog=False)
    else:
        master = DumpMaster(options, with_termlog=False, with_dumper=False)
    put_first(master.addons, addon)
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
        loop.add_signal_handler(number, master.shutdown)
    await master.run()

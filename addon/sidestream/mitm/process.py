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
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.web.master import WebMaster

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.engine.chain import put_first

QUIET_LOGGERS = ("mitmproxy.proxy.server", "tornado", "asyncio", "hpack", "quic")
"""Loggers that say something for every connection. They are heard from WARNING on."""


class ProcessError(ValueError):
    """The process can't run as it is asked to; the message says all that is wrong."""


@dataclass(frozen=True, slots=True)
class Process:
    """
    How to run.

    `options`: mitmproxy option → value, the addon's own among them. `specs`: more of them, as
    ``name=value``. `web`: with mitmweb's pages.
    """

    options: Mapping[str, object]
    specs: Sequence[str] = ()
    web: bool = False


def run(process: Process, addon: Sidestream) -> None:
    """
    Run until SIGTERM or SIGINT.

    Raises:
        ProcessError: an option, the policy among them, makes no sense.
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
    try:
        put_first(master.addons, addon)
        options.set(*process.specs)
        # All at once: an addon never sees half of its options.
        options.update(**process.options)
    except (exceptions.OptionsError, KeyError, ValueError) as e:
        raise ProcessError(str(e)) from e
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, master.shutdown)
    await master.run()

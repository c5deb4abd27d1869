"""The sockets that mitmproxy listens on."""

import asyncio

from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_servers import AsyncioServerInstance

BACKLOG = 4096
"""How many connections may wait to be taken. The system may allow less (net.core.somaxconn)."""

TURNS_TO_TAKE = 3
"""How often the loop turns until connections that wait have been taken, and their handlers made."""


def deepen_backlogs(proxyserver: Proxyserver) -> None:
    """
    Let more connections wait at every server that listens by now.

    asyncio lets 100 wait. What comes in a burst past that is dropped, and tries again a second later.
    """
    for instance in proxyserver.servers:
        for server in instance._servers if isinstance(instance, AsyncioServerInstance) else ():
            for listening in server.sockets if isinstance(server, asyncio.Server) else ():
                with listening.dup() as same:
                    same.listen(BACKLOG)  # again: only the number changes


async def stop_listening(proxyserver: Proxyserver) -> None:
    """Take no more connections; those that wait are taken first. What is connected stays."""
    for _ in range(TURNS_TO_TAKE):
        await asyncio.sleep(0)
    await proxyserver.servers.update([])

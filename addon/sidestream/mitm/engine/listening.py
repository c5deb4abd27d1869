"""The sockets that mitmproxy listens on."""

import asyncio

from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_servers import AsyncioServerInstance

BACKLOG = 4096
"""How many connections may wait to be taken. The system may allow less (net.core.somaxconn)."""


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

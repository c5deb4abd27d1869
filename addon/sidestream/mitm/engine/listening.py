"""The sockets that mitmproxy listens on."""

import asyncio
import socket
from collections.abc import Iterator

from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_servers import AsyncioServerInstance, ServerInstance
from mitmproxy.proxy.mode_specs import ProxyMode

type Instance = ServerInstance[ProxyMode]

BACKLOG = 4096
"""How many connections may wait to be taken. The system may allow less (net.core.somaxconn)."""


def deepen_backlogs(proxyserver: Proxyserver) -> None:
    """
    Let more connections wait at every server that listens by now.

    asyncio lets 100 wait. What comes in a burst past that is dropped, and tries again a second later.
    """
    for _, same in _listening(proxyserver):
        with same:
            same.listen(BACKLOG)  # again: only the number changes


async def stop_listening(proxyserver: Proxyserver) -> None:
    """
    Take no more connections. What is connected stays, and what waits to be taken is taken first.

    The system resets what waits when a socket is closed: on a busy proxy, whatever came in the last tenth of a second.
    """
    listening = list(_listening(proxyserver))
    await proxyserver.servers.update([])
    waiting = [(instance, taken) for instance, same in listening for taken in _take_all(same)]
    await asyncio.gather(*(_take(instance, taken) for instance, taken in waiting), return_exceptions=True)


def _listening(proxyserver: Proxyserver) -> Iterator[tuple[Instance, socket.socket]]:
    """Return the sockets of every server that listens by now, once more each: whoever gets one closes it."""
    for instance in proxyserver.servers:
        for server in instance._servers if isinstance(instance, AsyncioServerInstance) else ():
            for listening in server.sockets if isinstance(server, asyncio.Server) else ():
                yield instance, listening.dup()


def _take_all(listening: socket.socket) -> list[socket.socket]:
    """Take what waits, and close `listening` at once."""
    taken = []
    with listening:
        listening.setblocking(False)  # noqa: FBT003 as the standard library has it
        while True:
            try:
                taken.append(listening.accept()[0])
            except OSError:  # most likely there is no more
                return taken


async def _take(instance: Instance, taken: socket.socket) -> None:
    taken.setblocking(False)  # noqa: FBT003 as the standard library has it
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), instance.handle_stream, loop=loop)

    await loop.connect_accepted_socket(protocol, taken)

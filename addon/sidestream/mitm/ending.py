"""
How the process ends: nothing new, then what is under way, then itself.

From the first signal on, no connection is taken, the admin endpoint says that it is not ready, and a
connection that speaks HTTP is closed as soon as nothing is under way on it. What takes longer than
the grace is cut off, and its clients are told so. A second signal ends the grace.
"""

import asyncio
import logging

from mitmproxy import connection
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.master import Master

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.engine.ending import ClientConnection, is_connected
from sidestream.mitm.engine.listening import stop_listening

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.5
"""How long a client may take to say something on a connection that was just taken."""
LAST_WORDS_SECONDS = 1.0
"""How long clients have to take what they are told after the grace."""


class Ending:
    """
    Ends what `addon` does under `master`, when `begin` is called. It is an addon itself, after that one.

    `counts`: what became of exchanges and connections under way, once that is known.
    """

    name = "sidestream-ending"

    def __init__(self, addon: Sidestream, master: Master) -> None:
        self._addon = addon
        self._master = master
        self._is_hurried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._clients: dict[str, ClientConnection] = {}
        self._were_busy: set[str] = set()
        self.counts: dict[str, int] = {}

    def begin(self) -> None:
        """Begin to end, or if that was done before, end now."""
        if self._task is not None:
            self._is_hurried.set()
        elif self._addon.is_running:
            self._task = asyncio.get_running_loop().create_task(self._end())
        else:
            self._master.shutdown()

    def client_disconnected(self, client: connection.Client) -> None:
        """Take note that all is said, and recorded, about a connection."""
        if (known := self._clients.get(client.id)) is not None:
            known.gone.set()

    async def _end(self) -> None:
        try:
            await self._finish()
        except Exception:
            logger.exception("what is under way could not be ended in order")
        finally:
            self._master.shutdown()

    async def _finish(self) -> None:
        proxyserver = self._master.addons.get("proxyserver")
        assert isinstance(proxyserver, Proxyserver)
        began = asyncio.get_running_loop().time()
        grace = self._addon.current.settings.grace_seconds
        finished_before, cut_before = self._addon.ended_counts()
        exchanges = self._addon.live_count()
        self._addon.current.is_ending = True
        await stop_listening(proxyserver)
        await self._look(proxyserver, is_patience_over=True)
        if self._were_busy:
            under_way = {"exchanges": exchanges, "connections": len(self._were_busy), "grace_seconds": grace}
            logger.info("ending: no new connections; a second signal ends it at once", extra=under_way)
        left = await self._wait(proxyserver, began + min(grace, PATIENCE_SECONDS), began + grace)
        if left:
            await self._cut_off(left)
        for silent in self._open():
            silent.close()
        await self._wait_for(self._open(), LAST_WORDS_SECONDS)
        finished, cut = self._addon.ended_counts()
        self.counts = {
            "exchanges_finished_at_end": finished - finished_before,
            "exchanges_cut": cut - cut_before,
            "connections_finished_at_end": len(self._were_busy) - len(left),
            "connections_cut": len(left),
        }
        seconds = round(asyncio.get_running_loop().time() - began, 3)
        logger.info("ended", extra=self.counts | {"seconds": seconds})

    async def _look(self, proxyserver: Proxyserver, *, is_patience_over: bool) -> list[ClientConnection]:
        """Tell connections that were not known yet; return those that something is under way on, or may soon be."""
        for handler in list(proxyserver.connections.values()):
            if handler.client.id not in self._clients and is_connected(handler):
                client = self._clients[handler.client.id] = ClientConnection(handler)
                await client.finish()
        open_ones = {name: client for name, client in self._clients.items() if not client.closed.done()}
        busy = {name: client for name, client in open_ones.items() if not client.is_silent}
        self._were_busy |= {name for name, client in busy.items() if not client.is_closing}
        return list(busy.values()) if is_patience_over else list(open_ones.values())

    async def _wait(self, proxyserver: Proxyserver, patience: float, deadline: float) -> list[ClientConnection]:
        """Wait until nothing is under way, or the grace is over; return what still is."""
        loop = asyncio.get_running_loop()
        while True:
            is_patience_over = loop.time() >= patience
            is_over = loop.time() >= deadline or self._is_hurried.is_set()
            busy = await self._look(proxyserver, is_patience_over=is_patience_over or is_over)
            if is_over or not busy:
                return busy
            await self._wait_for(busy, (deadline if is_patience_over else patience) - loop.time())

    async def _wait_for(self, clients: list[ClientConnection], seconds: float) -> None:
        closed = asyncio.ensure_future(asyncio.wait([client.closed for client in clients])) if clients else None
        if closed is None:
            return
        hurried = asyncio.ensure_future(self._is_hurried.wait())
        await asyncio.wait([closed, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        hurried.cancel()

    async def _cut_off(self, clients: list[ClientConnection]) -> None:
        """End what takes too long. Clients that speak HTTP are told so, for others it breaks off."""
        self._addon.cut_off()
        for client in clients:
            await client.cut_off()
        told = [client for client in clients if not client.closed.done()]
        if told:
            await asyncio.wait([client.closed for client in told], timeout=LAST_WORDS_SECONDS)
        for client in told:
            if not client.closed.done():
                client.break_off()

    def _open(self) -> list[ClientConnection]:
        return [client for client in self._clients.values() if not client.closed.done()]

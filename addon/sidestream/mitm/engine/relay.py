"""
How mitmproxy's server holds a redirected connection that it does not read.

Left to itself, mitmproxy makes a clean end of a connection that breaks off, and loses what was
said just before; it reads from neither side while one of them has not taken what it was sent, cuts
what is silent for long, and shows a network between here and the server nothing of a connection
that is idle. None of this is so without a proxy. `PatientConnectionHandler` mends it, and leaves
alone what is mitmproxy's to read.

Source: tcp(7).
"""

import asyncio
import socket

from mitmproxy import connection
from mitmproxy.proxy import events
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionHandler

from sidestream.mitm.engine.handling import PersistentConnectionHandler
from sidestream.mitm.engine.transparent import PatientTransparentProxy

KEEP_ALIVE_SECONDS = 60
"""
How long nothing is said to a server before it is probed, and how long until it is probed again.

The app's own probes end here. Without ours, balancers and translators of addresses would forget
a connection that the app keeps alive: they do so after minutes (350 seconds are common).
"""

KEEP_ALIVE_PROBES = 120
"""How many probes go unanswered before a server is given up: two hours, as where nobody asked for less."""


_KEEP_ALIVE = {
    "TCP_KEEPIDLE": KEEP_ALIVE_SECONDS,
    "TCP_KEEPINTVL": KEEP_ALIVE_SECONDS,
    "TCP_KEEPCNT": KEEP_ALIVE_PROBES,
}


passed_through = {"sent": 0, "received": 0}
"""Bytes that connections which no policy names sent and received in this process, as their clients see it."""


class PatientConnectionHandler(PersistentConnectionHandler):
    """mitmproxy's handler of a client, for one whose connection may pass through."""

    layer: PatientTransparentProxy

    @classmethod
    def specialise(cls, handler: ConnectionHandler) -> None:
        """Turn the stock handler of a redirected connection that has not started into this one."""
        is_socket = isinstance(handler.transports[handler.client].reader, asyncio.StreamReader)
        if type(handler) is ProxyConnectionHandler and is_socket and isinstance(handler.layer, PatientTransparentProxy):
            handler.__class__ = cls

    async def server_event(self, event: events.Event) -> None:
        if isinstance(event, events.OpenConnectionCompleted) and event.command.connection in self.transports:
            self._keep_alive(event.command.connection)
        if isinstance(event, events.DataReceived) and self.layer.is_relaying:
            passed_through["sent" if event.connection is self.client else "received"] += len(event.data)
        if isinstance(event, events.ConnectionClosed) and self.layer.is_relaying and self._broke_off(event.connection):
            self.break_off()
        else:
            await super().server_event(event)

    def close_connection(self, connection: connection.Connection, half_close: bool = False) -> None:  # noqa: FBT001, FBT002
        if not half_close and self.layer.has_given_up:
            self.reset_on_close(connection)
        super().close_connection(connection, half_close)

    async def drain_writers(self) -> None:
        if not self.layer.is_relaying:
            await super().drain_writers()
            return
        # Who has just been heard waits for the others alone: they may listen only when they were listened to.
        reading = asyncio.current_task()
        for transport in list(self.transports.values()):
            if transport.writer is not None and transport.handler is not reading:
                try:
                    await transport.writer.drain()
                except OSError:
                    await asyncio.sleep(0)  # its last words are passed on first
                    self.break_off()
                    return

    async def on_timeout(self) -> None:
        # A client that has ended may have left long ago, which nobody would ever tell us.
        if not self.layer.is_relaying or not self.client.state & connection.ConnectionState.CAN_READ:
            await super().on_timeout()

    def _broke_off(self, connection: connection.Connection) -> bool:
        """Tell whether a connection that is at its end did not come to it by saying so."""
        reader = self.transports[connection].reader
        return isinstance(reader, asyncio.StreamReader) and reader.exception() is not None

    def _keep_alive(self, connection: connection.Connection) -> None:
        self.set_option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):  # not all systems have all of them
                self.set_option(connection, socket.IPPROTO_TCP, getattr(socket, name), value)

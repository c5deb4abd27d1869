"""
How mitmproxy's server calls hooks, and ends a connection.

Source: socket(7) for SO_LINGER.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterator

from mitmproxy import connection
from mitmproxy.flow import Flow
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.utils import asyncio_utils

from sidestream.mitm.engine.dispatch import Rest, TableAddonManager

MAX_HOOKS_AT_ONCE = 16
"""
After so many hooks in a row a task is made, as for those that take their time, so that others have their turn.

A request has four, and a client may send thousands of requests in one piece, each of which is answered here.
"""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 seconds."""


class HooksAtOnce:
    """
    The topmost layer of a connection, with hooks that are called as the layers ask for them.

    mitmproxy starts a task for each, which then waits until the layers can be told that it is done: a quarter of what a
    request costs. Most hooks are done when they return.
    """

    def __init__(self, handler: "PersistentConnectionHandler", layer: Layer) -> None:
        self._handler = handler
        self.layer = layer

    def __getattr__(self, name: str) -> object:
        return getattr(self.layer, name)

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        """Let the layers have `event`, and what comes of the hooks that they ask for."""
        waiting, left = deque((event,)), MAX_HOOKS_AT_ONCE
        while waiting:
            for command in self.layer.handle_event(waiting.popleft()):
                if not isinstance(command, commands.StartHook):
                    yield command
                    continue
                left -= 1
                if self._handler.is_done_at_once(command, may_be=left >= 0) and command.blocking:
                    waiting.append(events.HookCompleted(command))


class PersistentConnectionHandler(ProxyConnectionHandler):
    """
    mitmproxy's own, whose layers are always told that a connection is closed.

    A task that reads a connection may be cancelled twice: because it was closed, and because writing failed. The
    second one hits it while it waits to tell the layers, which then never know, and sockets stay open.
    """

    @classmethod
    def specialise(cls, handler: ConnectionHandler) -> None:
        """Turn the stock handler of a connection that has not started into this one."""
        if type(handler) is ProxyConnectionHandler:
            handler.__class__ = cls
        if isinstance(handler, cls) and isinstance(handler.master.addons, TableAddonManager):
            handler.layer = HooksAtOnce(handler, handler.layer)  # type: ignore[assignment]

    def is_done_at_once(self, hook: commands.StartHook, *, may_be: bool) -> bool:
        """
        Call the addons that have `hook`.

        If they are not done then, or the hook may not be, a task waits for them, and tells the layers.
        """
        arguments = hook.args()
        (subject,) = arguments
        rest = self.master.addons.begin(hook, arguments)
        if may_be and rest is None and not (isinstance(subject, Flow) and subject.intercepted):
            return True
        asyncio_utils.create_task(
            self._finish(hook, subject, rest),
            name=f"handle_hook({hook.name})",
            keep_ref=True,
            client=self.client.peername,
        )
        return False

    async def _finish(self, hook: commands.StartHook, subject: object, rest: Rest | None) -> None:
        with self.timeout_watchdog.disarm():
            if rest is not None:
                await rest
            if isinstance(subject, Flow):
                await subject.wait_for_resume()
        if hook.blocking:
            await self.server_event(events.HookCompleted(hook))

    async def server_event(self, event: events.Event) -> None:
        if not isinstance(event, events.ConnectionClosed):
            await super().server_event(event)
            return
        telling = asyncio.ensure_future(super().server_event(event))
        while not telling.done():
            try:
                await asyncio.shield(telling)
            except asyncio.CancelledError:
                event.connection.state = connection.ConnectionState.CLOSED

    def break_off(self) -> None:
        """Reset what is connected, at once: who waits to be listened to would never hear of it otherwise."""
        for each, transport in list(self.transports.items()):
            self.reset_on_close(each)
            if isinstance(transport.writer, asyncio.StreamWriter):
                transport.writer.transport.abort()
            if transport.handler is not None:
                transport.handler.cancel("one side broke off")

    def reset_on_close(self, conn: connection.Connection) -> None:
        """Let `conn` end by a reset when it is closed."""
        self.set_option(conn, socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def set_option(self, conn: connection.Connection, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket of `conn`, if it has one."""
        writer = self.transports[conn].writer
        if isinstance(writer, asyncio.StreamWriter) and not writer.is_closing():  # what is closed has no options
            writer.get_extra_info("socket").setsockopt(level, option, value)

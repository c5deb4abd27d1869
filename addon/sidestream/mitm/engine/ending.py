"""
How connections come to their end when the proxy does.

One that speaks HTTP is told so by an event that goes through its layers, and ends when nothing is
under way on it any more. All others end when their two sides do, or are broken off.
"""

import asyncio
import contextlib

import mitmproxy_rs
from h2.errors import ErrorCodes
from mitmproxy import connection
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.proxy.server import ConnectionHandler

from sidestream.mitm.engine.handling import PersistentConnectionHandler
from sidestream.mitm.engine.http1 import GovernedHttp1Server

type Commands = layer.CommandGenerator[None]
type Writer = asyncio.StreamWriter | mitmproxy_rs.Stream


class NoMoreRequests(events.Event):
    """What is under way is finished, then the client's connection is closed."""


class CutOff(events.Event):
    """What is under way is ended now, and the client told so."""


def last_layer(top: layer.Layer) -> layer.Layer:
    """Return the layer that the chain from `top` on ends in: one that reads, or one that has yet to be decided."""
    current, below = top, _below(top)
    while below is not None:
        current, below = below, _below(below)
    return current


def _below(current: layer.Layer) -> layer.Layer | None:
    names = ("layer", "child", "child_layer")
    below: layer.Layer | None = next((found for name in names if (found := getattr(current, name, None))), None)
    if below is None:
        # The first layer of a regular proxy keeps nothing of the next but its method.
        below = getattr(vars(current).get("_handle_event"), "__self__", None)
    return None if below is current else below


def leads_elsewhere(http: HttpLayer) -> bool:
    """Tell whether the client's connection is a way to somebody whom only the two of them understand."""
    below = (stream.child_layer for stream in http.streams.values())
    return any(top is not None and not isinstance(last_layer(top), HttpLayer) for top in below)


def is_idle(http: HttpLayer) -> bool:
    """Tell whether nothing is under way on the client's connection, down to the last byte of an answer."""
    server = http.connections.get(http.context.client)
    if isinstance(server, Http2Server):
        return not http.streams and not any(server.h2_conn.stream_buffers.values())
    return isinstance(server, GovernedHttp1Server) and server.is_idle


def say_goodbye(http: HttpLayer) -> Commands:
    """
    Close the client's connection.

    Over HTTP/2 it is told first which of its requests were seen. While others are under way it is not told
    anything: Python's h2 takes that for the end of them all.
    """
    client = http.context.client
    if not client.state & connection.ConnectionState.CAN_WRITE:
        return
    server = http.connections.get(client)
    if isinstance(server, Http2Server):
        server.h2_conn.close_connection(ErrorCodes.NO_ERROR)
        yield commands.SendData(client, server.h2_conn.data_to_send())
    yield commands.CloseConnection(client)


class ClientConnection:
    """
    A client's connection while the proxy ends.

    `gone`: to be set when mitmproxy says that the client is. `closed` is done when, besides, all that was written to it
    has left.
    """

    def __init__(self, handler: ConnectionHandler) -> None:
        self.gone = asyncio.Event()
        self._handler = handler
        writer = handler.transports[handler.client].writer
        assert writer is not None, "a client's connection can be written to"
        self.closed = asyncio.get_running_loop().create_task(self._close_of(writer))

    @property
    def is_silent(self) -> bool:
        """Tell whether nothing was said yet, so that nothing is lost with it."""
        last = last_layer(self._handler.layer)
        return isinstance(last, layer.NextLayer) and not last.data_client()

    @property
    def is_closing(self) -> bool:
        """Tell whether it is closed, as far as we are concerned."""
        return self._handler.client.state is connection.ConnectionState.CLOSED

    async def finish(self) -> None:
        """Let what is under way be the last."""
        if isinstance(last_layer(self._handler.layer), HttpLayer):
            await self._handler.server_event(NoMoreRequests())

    async def cut_off(self) -> None:
        """End what is under way. A client that speaks HTTP is told so; for any other it must not look like an end."""
        last = last_layer(self._handler.layer)
        if isinstance(last, HttpLayer) and not leads_elsewhere(last):
            await self._handler.server_event(CutOff())
        else:
            self.break_off()

    def close(self) -> None:
        """Close it."""
        if self._handler.client in self._handler.transports:
            self._handler.close_connection(self._handler.client)

    def break_off(self) -> None:
        """Reset it, and what was opened for it."""
        if isinstance(self._handler, PersistentConnectionHandler):
            self._handler.break_off()
        else:
            self.close()

    async def _close_of(self, writer: Writer) -> None:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await self.gone.wait()


def is_connected(handler: ConnectionHandler) -> bool:
    """Tell whether the client of `handler` is there, and not only yet to be taken leave of."""
    return handler.client in handler.transports

"""What is known of a client's connection only inside mitmproxy's server."""

import asyncio
import logging
from collections import defaultdict

from mitmproxy import connection, ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.server import ConnectionHandler

from sidestream.mitm.engine.handling import PersistentConnectionHandler
from sidestream.mitm.engine.reading import WholeReader
from sidestream.mitm.engine.relay import PatientConnectionHandler
from sidestream.mitm.engine.transparent import PatientTransparentProxy

MAX_CONNECTIONS_PER_ADDRESS = 10_000
"""Upstream connections of one client to one address. mitmproxy's five hold up parallel streams of HTTP/2."""


class ForgiveProbes(logging.Filter):
    """
    Takes a connection that was not redirected for what it is: no error of ours.

    mitmproxy logs it as one, and a process that logs an error while it starts is ended. So a
    probe of the port would end the proxy of a pod.
    """

    @classmethod
    def install(cls) -> None:
        """Let mitmproxy's servers be heard through this, once."""
        logger = logging.getLogger("mitmproxy.proxy.mode_servers")
        if not any(isinstance(present, cls) for present in logger.filters):
            logger.addFilter(cls())

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Transparent mode failure"):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def prepare(proxyserver: Proxyserver, client: connection.Client) -> None:
    """Prepare the connection of `client`, which has not started."""
    handler = proxyserver.connections.get(client.id)
    if handler is None:
        return  # a replay has none
    handler.max_conns = defaultdict(lambda: asyncio.Semaphore(MAX_CONNECTIONS_PER_ADDRESS))
    PatientTransparentProxy.specialise(handler.layer)
    PatientConnectionHandler.specialise(handler)  # for those whose layer is that; the next is for all others
    PersistentConnectionHandler.specialise(handler)
    WholeReader.specialise(handler.transports[client].reader)


def prepare_server(proxyserver: Proxyserver, client: connection.Client, server: connection.Server) -> None:
    """Prepare a connection that was opened for `client`, and of which nothing was read."""
    handler = proxyserver.connections.get(client.id)
    if handler is not None:
        WholeReader.specialise(handler.transports[server].reader)


def handler_of(client: connection.Client) -> ConnectionHandler:
    """Return what reads and writes the connection of `client`."""
    proxyserver = ctx.master.addons.get("proxyserver")
    assert isinstance(proxyserver, Proxyserver)
    return proxyserver.connections[client.id]


def was_redirected(proxyserver: Proxyserver, client: connection.Client) -> bool:
    """
    Tell whether a transparent connection was meant for somebody else than the proxy.

    One that was not would be sent on to the proxy itself, and again, without an end.
    """
    handler = proxyserver.connections.get(client.id)
    writer = handler.transports[client].writer if handler is not None else None
    own = writer.get_extra_info("sockname") if writer is not None else None
    return own is None or tuple(own[:2]) != tuple(client.sockname[:2])

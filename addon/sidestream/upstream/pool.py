"""
Connections to providers, shared by all clients.

A connection is used again for the very same endpoint: address, name, CA. The one that was used
last goes first, so that those that are not needed grow old and are closed.
"""

import asyncio
import os
import socket as sockets
import ssl
import time
from collections import defaultdict, deque

import aiohappyeyeballs

from sidestream.core.attempts import Failure
from sidestream.core.errors import cut
from sidestream.core.snapshot import Endpoint
from sidestream.upstream import tls
from sidestream.upstream.addresses import Addresses
from sidestream.upstream.connection import AttemptFailed, Connection

IDLE_SECONDS = 50.0
"""How long a connection is kept that nobody uses. Servers commonly close after a minute or more."""
MAX_AGE_SECONDS = 600.0
"""How long a connection is used, so that a provider that moves is followed."""
MAX_IDLE = 256
"""How many unused connections are kept for one endpoint."""
NEXT_ADDRESS_SECONDS = 0.25
"""How long one address is tried before the next one is, too (RFC 8305, 5)."""


_WATCHFUL = [
    (getattr(sockets, level), getattr(sockets, option), value)
    for level, option, value in (
        ("SOL_SOCKET", "SO_KEEPALIVE", 1),
        ("IPPROTO_TCP", "TCP_KEEPIDLE", 30),
        ("IPPROTO_TCP", "TCP_KEEPINTVL", 10),
        ("IPPROTO_TCP", "TCP_KEEPCNT", 3),
        ("IPPROTO_TCP", "TCP_USER_TIMEOUT", 20_000),
    )
    if hasattr(sockets, option)  # not all systems have all of them
]
"""Socket options by which a provider that vanished without a word is noticed, in less than a minute."""


class Pool:
    """
    The connections of a process. `extra_ca_pem`: CAs to trust besides the system's.

    `opened` and `reused` count what requests were given.
    """

    def __init__(self, extra_ca_pem: str = "") -> None:
        self.opened = 0
        self.reused = 0
        self._is_closed = False
        self._contexts = tls.Contexts(extra_ca_pem)
        self._addresses = Addresses()
        self._idle: defaultdict[Endpoint, deque[Connection]] = defaultdict(deque)
        self._sweeping: asyncio.TimerHandle | None = None

    def idle(self, endpoint: Endpoint) -> Connection | None:
        """Take an unused connection to `endpoint`, if there is one."""
        now, waiting = time.monotonic(), self._idle.get(endpoint)
        while waiting:
            connection = waiting.pop()
            if _is_good(connection, now):
                self.reused += 1
                return connection
            connection.abort()
        return None

    async def open(self, endpoint: Endpoint) -> Connection:
        """
        Open a connection to `endpoint`.

        Raises:
            AttemptFailed: it can't be had.
        """
        try:
            connection = await self._open(endpoint)
        except ssl.SSLError as e:
            raise AttemptFailed(Failure("connect-failure", cut(tls.why(e)))) from e
        except OSError as e:
            # asyncio's own text says that it failed, and where, but not why.
            number = e.errno or 0
            message = os.strerror(number) if number > 0 else e.strerror or str(e) or type(e).__name__
            raise AttemptFailed(Failure("connect-failure", cut(message))) from e
        self.opened += 1
        return connection

    def release(self, connection: Connection) -> None:
        """Take back `connection`, whose answer is complete; keep it if it can be used again."""
        if connection.uses == 1 and (session := connection.tls) is not None:
            self._contexts.remember(connection.endpoint, session)
        waiting = self._idle[connection.endpoint]
        if self._is_closed or not connection.is_reusable or len(waiting) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        waiting.append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """Close the unused connections; none is kept any more."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for waiting in self._idle.values():
            for connection in waiting:
                connection.abort()
        self._idle.clear()

    def _sweep(self) -> None:
        now = time.monotonic()
        for endpoint, waiting in list(self._idle.items()):
            for connection in [connection for connection in waiting if not _is_good(connection, now)]:
                waiting.remove(connection)
                connection.abort()
            if not waiting:
                del self._idle[endpoint]
        is_needed = bool(self._idle)
        self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._sweep) if is_needed else None

    async def _open(self, endpoint: Endpoint) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._addresses.of(endpoint.host, endpoint.port)
        socket = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, interleave=1, loop=loop
        )
        for level, option, value in _WATCHFUL:
            socket.setsockopt(level, option, value)
        # From here on the socket is asyncio's, which closes it when this fails: once more would close somebody else's.
        _, connection = await loop.create_connection(
            lambda: Connection(endpoint),
            sock=socket,
            ssl=self._contexts.of(endpoint) if endpoint.tls else None,
            server_hostname=endpoint.server_name if endpoint.tls else None,
            # The caller's own deadline is the earlier one.
            ssl_handshake_timeout=MAX_AGE_SECONDS if endpoint.tls else None,
            ssl_shutdown_timeout=1.0 if endpoint.tls else None,
        )
        return connection


def _is_good(connection: Connection, now: float) -> bool:
    is_young = now - connection.opened_at < MAX_AGE_SECONDS and now - connection.idle_since < IDLE_SECONDS
    return is_young and not connection.is_closed

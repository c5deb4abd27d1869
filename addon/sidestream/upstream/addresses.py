"""
Addresses of providers, looked up once in a while.

An answer is good for a few seconds, since names of providers move; while the name can't be
looked up, the last one is used. However many calls want a name, it is looked up once at a time.
"""

import asyncio
import ipaddress
import socket
import time
from dataclasses import dataclass
from typing import Any

FRESH_SECONDS = 10.0
"""How long addresses are used without asking again."""
STALE_SECONDS = 600.0
"""How long they are used when asking fails."""
SLOW_SECONDS = 1.0
"""How long asking may take where they could still be used."""

type Address = Any
"""As `socket.getaddrinfo` gives it."""


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: list[Address]
    at: float


class Addresses:
    """Addresses by host and port, in the order of the system's preference."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Known] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def of(self, host: str, port: int) -> list[Address]:
        """
        Return the addresses of `host`.

        Raises:
            OSError: there are none.
        """
        if _is_address(host):
            return await _look_up(host, port)
        key = host, port
        known, now = self._known.get(key), time.monotonic()
        if known is not None and now - known.at < FRESH_SECONDS:
            return known.addresses
        last = known.addresses if known is not None and now - known.at < STALE_SECONDS else None
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(host, port))
        try:
            async with asyncio.timeout(SLOW_SECONDS if last is not None else None):
                return await asyncio.shield(self._asking[key])
        except OSError:  # which a timeout is, too
            if last is not None:
                return last
            raise

    async def _ask(self, host: str, port: int) -> list[Address]:
        try:
            found = await _look_up(host, port)
        finally:
            del self._asking[host, port]
        self._known[host, port] = _Known(found, time.monotonic())
        return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(host: str, port: int) -> list[Address]:
    numeric = socket.AI_NUMERICHOST if _is_address(host) else 0
    loop = asyncio.get_running_loop()
    if numeric:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

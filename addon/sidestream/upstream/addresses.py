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
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(_look_up(host, port))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key))
        try:
            found = await asyncio.shield(self._asking[key])
        except OSError:
            if known is not None and now - known.at < STALE_SECONDS:
                return known.addresses
            raise
        self._known[key] = _Known(found, time.monotonic())
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

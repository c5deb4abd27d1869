"""Addresses: looked up once in a while, and once at a time."""

import asyncio
import socket

import pytest

from sidestream.upstream import addresses
from sidestream.upstream.addresses import Addresses


class Names:
    """A name service. `asked`: the names, in order. While `is_open` is not set, nobody is answered."""

    def __init__(self):
        self.asked = []
        self.found = ["first"]
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def look_up(self, host, port):
        self.asked.append((host, port))
        await self.is_open.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
async def names(monkeypatch):
    names = Names()
    monkeypatch.setattr(addresses, "_look_up", names.look_up)
    return names


def grow_old(monkeypatch, name):
    monkeypatch.setattr(addresses, name, 0.0)


async def test_an_answer_is_used_again(names):
    known = Addresses()

    assert [await known.of("a.test", 1) for _ in range(3)] == [["first"]] * 3
    assert names.asked == [("a.test", 1)]


async def test_each_name_and_port_is_its_own(names):
    known = Addresses()

    for host, port in [("a.test", 1), ("b.test", 1), ("a.test", 2)]:
        await known.of(host, port)

    assert names.asked == [("a.test", 1), ("b.test", 1), ("a.test", 2)]


async def test_an_answer_that_is_old_is_asked_for_again(names, monkeypatch):
    known = Addresses()
    await known.of("a.test", 1)
    grow_old(monkeypatch, "FRESH_SECONDS")

    names.found = ["second"]

    assert await known.of("a.test", 1) == ["second"]


async def test_many_calls_ask_once(names):
    known = Addresses()
    names.is_open.clear()
    asking = [asyncio.create_task(known.of("a.test", 1)) for _ in range(10)]
    await asyncio.sleep(0)

    names.is_open.set()

    assert await asyncio.gather(*asking) == [["first"]] * 10
    assert len(names.asked) == 1


async def test_a_call_that_gives_up_takes_nothing_from_the_others(names):
    known = Addresses()
    names.is_open.clear()
    asking = [asyncio.create_task(known.of("a.test", 1)) for _ in range(2)]
    await asyncio.sleep(0)

    asking[0].cancel()
    await asyncio.sleep(0)
    names.is_open.set()

    assert await asking[1] == ["first"]
    assert len(names.asked) == 1


async def test_the_last_answer_serves_while_there_is_none(names, monkeypatch):
    known = Addresses()
    await known.of("a.test", 1)
    grow_old(monkeypatch, "FRESH_SECONDS")

    names.found = socket.gaierror(socket.EAI_AGAIN, "try again")

    assert await known.of("a.test", 1) == ["first"]


async def test_the_last_answer_serves_while_the_next_is_slow_to_come(names, monkeypatch):
    known = Addresses()
    await known.of("a.test", 1)
    grow_old(monkeypatch, "FRESH_SECONDS")
    grow_old(monkeypatch, "SLOW_SECONDS")
    names.is_open.clear()

    served = await known.of("a.test", 1)
    names.found = ["second"]
    names.is_open.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert served == ["first"]
    monkeypatch.undo()
    assert await known.of("a.test", 1) == ["second"]


async def test_but_not_for_ever(names, monkeypatch):
    known = Addresses()
    await known.of("a.test", 1)
    grow_old(monkeypatch, "FRESH_SECONDS")
    grow_old(monkeypatch, "STALE_SECONDS")

    names.found = socket.gaierror(socket.EAI_AGAIN, "try again")

    with pytest.raises(OSError, match="try again"):
        await known.of("a.test", 1)


async def test_a_name_that_was_never_known_is_a_failure_and_is_asked_for_again(names):
    known = Addresses()
    names.found = socket.gaierror(socket.EAI_NONAME, "no such name")
    with pytest.raises(OSError, match="no such name"):
        await known.of("a.test", 1)

    names.found = ["first"]

    assert await known.of("a.test", 1) == ["first"]


async def test_a_lookup_that_hangs_serves_who_comes_later(names):
    known = Addresses()
    names.is_open.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await known.of("a.test", 1)

    names.is_open.set()

    assert await known.of("a.test", 1) == ["first"]
    assert len(names.asked) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_is_not_looked_up(host):
    [(*_, name)] = await Addresses().of(host, 443)

    assert name[:2] == (host, 443)

"""A reader that gives all that has come, and what it relies on in asyncio and mitmproxy."""

import asyncio
import inspect
import socket

import pytest
from mitmproxy.proxy import server

from sidestream.mitm.engine.reading import LIMIT_BYTES, WholeReader


class Transport:
    is_paused = False

    def get_extra_info(self, name):
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.send(b"last words")
        return self.near

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False


@pytest.fixture
async def reader():
    made = asyncio.StreamReader()
    made.set_transport(Transport())
    WholeReader.specialise(made)
    return made


async def test_all_that_has_come_is_read_at_once(reader):
    reader.feed_data(b"a" * 100_000)
    reader.feed_data(b"b" * 100_000)

    assert await reader.read(65535) == b"a" * 100_000 + b"b" * 100_000


async def test_what_comes_later_is_waited_for(reader):
    reading = asyncio.ensure_future(reader.read(65535))
    await asyncio.sleep(0)
    assert not reading.done()

    reader.feed_data(b"later")

    assert await reading == b"later"


async def test_the_end_is_read_after_all_else(reader):
    reader.feed_data(b"last")
    reader.feed_eof()

    assert [await reader.read(65535), await reader.read(65535)] == [b"last", b""]


async def test_a_broken_connection_is_raised_after_what_came_before(reader):
    reader.feed_data(b"known, ")

    reader.set_exception(ConnectionResetError())

    assert await reader.read(65535) == b"known, last words"
    with pytest.raises(ConnectionResetError):
        await reader.read(65535)


async def test_a_sender_that_is_too_fast_is_stopped_until_it_was_read(reader):
    reader.feed_data(b"x" * 2 * LIMIT_BYTES)
    assert not reader._transport.is_paused
    reader.feed_data(b"x")
    assert reader._transport.is_paused

    await reader.read(65535)

    assert not reader._transport.is_paused


def test_another_kind_of_reader_is_left_alone():
    WholeReader.specialise(None)
    WholeReader.specialise(other := object())

    assert type(other) is object


def test_asyncios_reader_is_the_known_one():
    source = inspect.getsource(asyncio.StreamReader)

    assert list(inspect.signature(asyncio.StreamReader.read).parameters) == ["self", "n"]
    assert "await self._wait_for_data('read')" in source
    assert "len(self._buffer) > 2 * self._limit" in source
    assert "def _maybe_resume_transport(self):" in source


def test_mitmproxy_reads_with_it():
    source = inspect.getsource(server.ConnectionHandler)

    assert "data = await reader.read(65535)" in source
    opened = source.index(
        "self.transports[command.connection] = ConnectionIO(\n                    handler=asyncio.current_task()"
    )
    told = source.index("await self.handle_hook(server_hooks.ServerConnectedHook(hook_data))")
    assert opened < told < source.index("await self.handle_connection(command.connection)")

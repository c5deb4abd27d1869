"""How many connections are taken, how many may wait, and what is counted and kept of them."""

import asyncio
import gc
import socket
import struct
import sys
from pathlib import Path

import pytest
from mitmproxy import ctx, exceptions
from mitmproxy.http import HTTPFlow

from sidestream.mitm.engine.listening import BACKLOG, stop_listening
from tests.mitm.test_addon import POLICY, make_addon, provider_at, running, witness


async def connect(port):
    return await asyncio.open_connection("127.0.0.1", port)


async def until(look):
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 mitmproxy has no event for it
            await asyncio.sleep(0)


async def is_closed(reader):
    try:
        return await asyncio.wait_for(reader.read(1), 20) == b""
    except ConnectionResetError:
        return True


async def ask(reader, writer, target, host="localhost"):
    """Make a chat call on a connection that stays open; return the status."""
    body = b'{"messages": []}'
    writer.write(f"POST {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    return int(head.split()[1])


async def test_connections_past_the_limit_are_closed_at_once_and_said_once(caplog):
    addon, _ = make_addon(provider_at(1))
    async with running(addon, sidestream_max_connections=2) as port:
        kept = [await connect(port) for _ in range(2)]
        await until(lambda: addon.counts()["connections_accepted"] == 2)
        refused = [await connect(port) for _ in range(3)]

        assert all([await is_closed(reader) for reader, _ in refused])
        assert not any(reader.at_eof() for reader, _ in kept)
        assert addon.counts()["connections_refused"] == 3
        for _, writer in kept + refused:
            writer.close()

    said = [record for record in caplog.records if "too many" in record.getMessage()]
    assert [(record.limit, record.refused) for record in said] == [(2, 1)]


async def test_a_connection_that_ends_makes_room():
    async with witness() as (at, _):
        addon, _ = make_addon(provider_at(at))
        async with running(addon, sidestream_max_connections=1) as port:
            _, first = await connect(port)
            await until(lambda: addon.counts()["connections_accepted"])
            first.close()
            await until(lambda: not ctx.master.addons.get("proxyserver").connections)
            second = await connect(port)

            assert await ask(*second, "http://localhost/") == 200
            second[1].close()


async def test_without_a_limit_all_are_taken():
    addon, _ = make_addon(provider_at(1))
    async with running(addon, sidestream_max_connections=0) as port:
        writers = [(await connect(port))[1] for _ in range(20)]
        await until(lambda: addon.counts()["connections_accepted"] == 20)
        for writer in writers:
            writer.close()

    assert addon.counts()["connections_refused"] == 0


async def test_what_waits_when_nobody_listens_any_more_is_taken_first():
    addon, _ = make_addon(provider_at(1))
    async with running(addon) as port:
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]  # nobody takes them meanwhile
        await stop_listening(ctx.master.addons.get("proxyserver"))
        await until(lambda: addon.counts()["connections_accepted"] == 20)

        with pytest.raises(ConnectionRefusedError):
            await connect(port)
        for client in waiting:
            client.close()


@pytest.mark.parametrize("name", ["sidestream_max_connections", "sidestream_web_max_flows"])
def test_a_negative_limit_is_refused(mitmproxy, name):
    addon, _ = make_addon()
    mitmproxy.master.addons.add(addon)

    with pytest.raises(exceptions.OptionsError, match="negative"):
        mitmproxy.options.update(**POLICY, **{name: -1})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sidestream_admin", "here", "no HOST:PORT"),
        ("sidestream_admin", "127.0.0.1:70000", "no HOST:PORT"),
        ("sidestream_log_format", "xml", "write json or text"),
        ("sidestream_log_sample", "2", "from 0 to 1"),
        ("sidestream_log_sample", "half", "from 0 to 1"),
        ("sidestream_log_max_size", "big", "like 64m"),
        ("sidestream_log_keep", -1, "negative"),
    ],
)
def test_what_records_cannot_be_is_refused(mitmproxy, name, value, said):
    addon, _ = make_addon()
    mitmproxy.master.addons.add(addon)

    with pytest.raises(exceptions.OptionsError, match=said):
        mitmproxy.options.update(**POLICY, **{name: value})


@pytest.mark.parametrize(("text", "limit", "errors"), [("7", 7, 0), ("", 10_000, 0), ("many", 10_000, 1)])
def test_a_limit_may_come_from_the_environment(monkeypatch, caplog, mitmproxy, text, limit, errors):
    monkeypatch.setenv("SIDESTREAM_MAX_CONNECTIONS", text)
    addon, _ = make_addon()

    mitmproxy.master.addons.add(addon)

    assert mitmproxy.options.sidestream_max_connections == limit
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == errors


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many may wait")
async def test_as_many_may_wait_to_be_taken_as_the_system_allows():
    addon, _ = make_addon()
    expected = most_that_may_wait()

    async with running(addon):
        await until(lambda: ctx.master.addons.get("proxyserver").is_running)
        assert backlogs() == [expected]
        ctx.options.update(mode=[*ctx.options.mode, "reverse:http://localhost@127.0.0.2:0"])
        await until(lambda: backlogs() == [expected, expected])


def most_that_may_wait():
    return min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def backlogs():
    """Return how many may wait at each socket that mitmproxy listens on: `tcpi_sacked` of a listening one."""
    servers = [server for instance in ctx.master.addons.get("proxyserver").servers for server in instance._servers]
    sockets = [listening for server in servers for listening in server.sockets]
    return [
        struct.unpack_from("I", each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28)[0] for each in sockets
    ]


@pytest.fixture
def _collector_at_rest():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def flows():
    return [each for each in gc.get_objects() if isinstance(each, HTTPFlow)]


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CUT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n{}"
WRONG = b"HTTP/1.1 503 Unavailable\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "target", "status"),
    [
        (WHOLE, "http://localhost/", 200),
        (WHOLE, "http://localhost/v1/chat/completions", 200),
        (WRONG, "http://localhost/v1/chat/completions", 503),
        (CUT, "http://localhost/v1/chat/completions", 502),
        (WHOLE, "http://other.example/", 400),
        (WHOLE, "http://127.0.0.1:{at}/", 200),
    ],
    ids=["unknown", "chat", "an error", "no answer", "two hosts", "ungoverned"],
)
@pytest.mark.usefixtures("_collector_at_rest")
async def test_nothing_keeps_a_flow_after_its_end_not_even_itself(answer, target, status):
    async def end_all(reader, writer):
        await reader.readuntil(b"[]}")
        writer.write(answer)
        writer.close()

    others = flows()  # which other tests left
    async with await asyncio.start_server(end_all, "127.0.0.1", 0) as provider:
        at = provider.sockets[0].getsockname()[1]
        addon, _ = make_addon(provider_at(at))
        async with running(addon) as port:
            reader, writer = await connect(port)
            host = "127.0.0.1" if "127.0.0.1" in target else "localhost"
            assert await ask(reader, writer, target.format(at=at), host) == status

            await until(lambda: len(flows()) == len(others))
            writer.close()

"""The pool: a connection is used again for the very same endpoint only, and while it is good."""

import asyncio
import socket
import ssl
from dataclasses import replace

import pytest

from sidestream.upstream import pool as pools
from sidestream.upstream.connection import MAX_WAITING_BYTES, AttemptFailed
from sidestream.upstream.pool import IDLE_SECONDS, MAX_AGE_SECONDS, Pool
from tests.upstream.provider import OK, REQUEST, serving, until


@pytest.fixture
async def pool():
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
async def provider(authority, certificate):
    async with serving(authority, certificate) as provider:
        yield provider


async def ask(pool, endpoint):
    """Make a call; return its connection, which is not given back yet."""
    connection = pool.idle(endpoint) or await pool.open(endpoint)
    connection.send(REQUEST, b"", is_head_only=False)
    answer = await connection.answer()
    assert (answer.status, await connection.read(), await connection.read()) == (200, b"{}", b"")
    return connection


async def call(pool, endpoint):
    connection = await ask(pool, endpoint)
    pool.release(connection)
    return connection


async def test_a_connection_is_used_again(pool, provider):
    first, second, third = [await call(pool, provider.endpoint()) for _ in range(3)]

    assert first is second is third
    assert (pool.opened, pool.reused, len(provider.writers)) == (1, 2, 1)


async def test_a_connection_that_is_in_use_is_not_used_by_another(pool, provider):
    first = await ask(pool, provider.endpoint())

    assert await ask(pool, provider.endpoint()) is not first


async def test_another_endpoint_gets_a_connection_of_its_own(pool, provider):
    endpoint = provider.endpoint()
    await call(pool, endpoint)

    others = [
        replace(endpoint, server_name="another.test"),
        replace(endpoint, authority="another.test"),
        replace(endpoint, ca_pem=endpoint.ca_pem + "\n"),
        replace(endpoint, host="localhost"),
        replace(endpoint, tls=False),
    ]
    assert [pool.idle(other) for other in others] == [None] * len(others)
    assert pool.idle(replace(endpoint)) is not None


async def test_the_connection_that_was_used_last_goes_first(pool, provider):
    endpoint = provider.endpoint()
    first, second = await ask(pool, endpoint), await ask(pool, endpoint)

    pool.release(first)
    pool.release(second)

    assert [pool.idle(endpoint), pool.idle(endpoint), pool.idle(endpoint)] == [second, first, None]


@pytest.mark.parametrize(("what", "seconds"), [("idle_since", IDLE_SECONDS), ("opened_at", MAX_AGE_SECONDS)])
async def test_a_connection_that_is_too_old_is_closed(pool, provider, what, seconds):
    connection = await call(pool, provider.endpoint())

    setattr(connection, what, getattr(connection, what) - seconds)

    assert pool.idle(provider.endpoint()) is None
    assert connection.is_closed


async def test_connections_that_nobody_asks_for_any_more_are_closed_too(pool, provider):
    old, young = await ask(pool, provider.endpoint()), await ask(pool, provider.endpoint("another.test"))
    pool.release(old)
    pool.release(young)
    old.idle_since -= IDLE_SECONDS

    pool._sweep()

    assert (old.is_closed, young.is_closed) == (True, False)
    assert pool._idle.keys() == {young.endpoint}


async def test_no_more_connections_are_kept_than_the_bound(pool, provider, monkeypatch):
    monkeypatch.setattr(pools, "MAX_IDLE", 1)
    first, second = await ask(pool, provider.endpoint()), await ask(pool, provider.endpoint())

    pool.release(first)
    pool.release(second)

    assert (first.is_closed, second.is_closed) == (False, True)


@pytest.mark.parametrize("goodbye", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
async def test_a_connection_that_its_provider_closes_is_not_used_again(pool, provider, goodbye):
    connection = await call(pool, provider.endpoint())

    provider.writers[0].write(goodbye)
    provider.writers[0].close()
    await until(lambda: connection.is_closed)

    assert pool.idle(provider.endpoint()) is None
    assert (await call(pool, provider.endpoint())).uses == 1


async def test_a_connection_that_is_to_be_closed_is_not_kept(pool, authority, certificate):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"200 OK\r\n", b"200 OK\r\nconnection: close\r\n"))
        await reader.read()

    async with serving(authority, certificate, talk) as provider:
        connection = await call(pool, provider.endpoint())

        assert connection.is_closed
        assert pool.idle(provider.endpoint()) is None


async def test_closing_the_pool_closes_what_is_unused(pool, provider):
    connection = await call(pool, provider.endpoint())

    pool.close()

    assert connection.is_closed
    assert pool.idle(provider.endpoint()) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_another_connection_takes_up_the_tls_session_of_the_last(pool, authority, certificate, version):
    async with serving(authority, certificate, version=version) as provider:
        first = await call(pool, provider.endpoint())
        taken = pool.idle(provider.endpoint())
        second = await ask(pool, provider.endpoint())

        assert taken is first
        assert (first.tls.session_reused, second.tls.session_reused) == (False, True)
        assert first.tls.version() == version.name.replace("_", ".")


async def test_a_session_is_of_its_endpoint_only(pool, provider):
    await call(pool, provider.endpoint())

    other = await call(pool, provider.endpoint("another.test"))

    assert not other.tls.session_reused


async def test_plain_http_goes_over_plain_tcp(pool, authority):
    async with serving(authority, None) as provider:
        connection = await call(pool, provider.endpoint(tls=False))

        assert connection.tls is None


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
@pytest.mark.parametrize(("size", "milliseconds"), [(1000, 20_000), (MAX_WAITING_BYTES, 0)])
async def test_a_provider_that_is_slow_to_take_a_large_request_has_not_vanished(pool, authority, size, milliseconds):
    async with serving(authority, None) as provider:
        connection = await pool.open(provider.endpoint(tls=False))

        connection.send(REQUEST, b"x" * size, is_head_only=False)

        connected = connection._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
        connection.abort()


async def test_nobody_there_is_a_failure_that_says_so(pool, provider):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = replace(provider.endpoint(), port=taken.getsockname()[1])

        with pytest.raises(AttemptFailed) as failed:
            await pool.open(endpoint)

    assert (failed.value.failure.kind, failed.value.failure.status) == ("connect-failure", None)
    assert "refused" in failed.value.failure.message.lower()
    assert pool.opened == 0


async def test_giving_up_while_tls_is_set_up_closes_the_connection(pool, authority):
    left = asyncio.Event()

    async def talk(reader, writer):
        while await reader.read(65536):
            pass
        left.set()

    async with serving(authority, None, talk) as provider:
        opening = asyncio.create_task(pool.open(provider.endpoint()))
        await until(lambda: provider.writers)
        opening.cancel()

        await asyncio.wait_for(left.wait(), 10)
        assert pool.opened == 0

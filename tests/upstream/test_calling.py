"""A call: attempts until there is an answer, and what of it the client's half is given."""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

import pytest

from sidestream.core.attempts import Attempts, Health
from sidestream.core.calls import Broken, End, Head, Outgoing
from sidestream.core.exchange import Exchange
from sidestream.core.operations import CHAT
from sidestream.core.planning import Attempt, Plan
from sidestream.core.routing import Forward
from sidestream.core.secret import Secret
from sidestream.core.snapshot import Backend, OpenAIConfig, OutlierDetection, Provider, Rule, Timeouts
from sidestream.upstream.calling import PooledUpstream
from tests.upstream.provider import OK, serving, until

KEY = Secret("sk-marker-calling-90d2")


class Client:
    """The client's half, that takes what it is given. `parts`: what that was, pieces of a body in one."""

    def __init__(self, endpoint, *, method=b"POST", only_unsent=False, **timeouts):
        provider = Provider(
            "default/provider",
            "provider.test",
            endpoint,
            "/v1/chat/completions",
            OpenAIConfig(key=KEY),
            outlier_detection=OutlierDetection(consecutive_errors=1),
        )
        backend = Backend(provider, provider.config)
        rule = Rule("only", (), (backend,), timeouts=Timeouts(**timeouts))
        forward = Forward(backend, rule=rule)
        now = time.monotonic()
        self.exchange = Exchange("1", "127.0.0.1:1", "provider.test", wall_time=0, now=now)
        self.exchange.decision = forward
        self.health = Health()
        self.attempts = Attempts(forward, self.health, now=now, only_unsent=only_unsent)
        self.method = method
        self.first = self.attempts.first(now=now, draw=0)
        self.planned = Plan(CHAT, Attempt(endpoint, "/v1/chat/completions", key=KEY), "m", "m", stream=False)
        self.fields = [(b"Host", b"provider.test")]
        self.parts = []
        self.is_congested = False

    def plan(self, attempt):
        return self.planned

    def outgoing(self, planned):
        return Outgoing(self.method, b"/v1/chat/completions", self.fields, b"")

    async def deliver(self, parts):
        for part in parts:
            if isinstance(part, bytes) and self.parts and isinstance(self.parts[-1], bytes):
                self.parts[-1] += part
            else:
                self.parts.append(part)

    async def relief(self):
        assert self.is_congested
        await asyncio.Event().wait()

    @property
    def attempts_made(self):
        record = self.exchange.finish(now=time.monotonic())
        return [(one.status, one.error) for one in record.attempts]


@pytest.fixture
async def provider(authority, certificate):
    async with serving(authority, certificate) as provider:
        yield provider


@pytest.fixture
async def upstream():
    upstream = PooledUpstream()
    yield upstream
    upstream.close()


async def call(upstream, client):
    async with asyncio.timeout(10):
        await upstream.call(client)
    return client.parts


async def test_a_client_is_given_a_head_a_body_and_an_end(upstream, provider):
    client = Client(provider.endpoint())

    [head, body, end] = await call(upstream, client)

    assert (head.status, head.length, body, end) == (200, 2, b"{}", End.END)
    assert client.attempts_made == [(200, None)]
    assert isinstance(head, Head)


async def test_a_connection_that_was_closed_unnoticed_is_no_attempt_of_its_own(upstream, provider):
    await call(upstream, Client(provider.endpoint()))
    provider.writers[0].transport.abort()
    client = Client(provider.endpoint())

    assert (await call(upstream, client))[-1] is End.END
    assert client.attempts_made == [(200, None)]
    assert len(provider.writers) == 2


async def test_the_connection_after_one_that_was_closed_has_no_more_time_than_any(upstream, provider, monkeypatch):
    async def never(endpoint):
        await asyncio.Event().wait()

    await call(upstream, Client(provider.endpoint()))
    provider.writers[0].transport.abort()
    monkeypatch.setattr(upstream.pool, "open", never)
    client = Client(provider.endpoint(), connect_seconds=0.1)

    assert await call(upstream, client) == [Broken("provider_unreachable", "no connection within 0.1 s")]
    assert client.attempts_made == [(None, "connect-failure")]


async def test_what_may_not_be_sent_twice_goes_over_no_connection_that_may_be_gone(upstream, authority, certificate):
    received = []

    async def answer_once(reader, writer):
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        with contextlib.suppress(asyncio.IncompleteReadError):
            received.append(await reader.readuntil(b"\r\n\r\n"))  # and ends the connection, who knows why

    async with serving(authority, certificate, answer_once) as provider:
        ended = [(await call(upstream, Client(provider.endpoint(), only_unsent=True)))[-1] for _ in range(3)]

    assert ended == [End.END] * 3
    assert len(received) == 3


JSON = b"\r\ncontent-type: application/json\r\n"
ZIPPED = JSON + b"content-encoding: gzip\r\n"


@pytest.mark.parametrize(
    ("method", "answer", "length"),
    [
        (b"HEAD", b"200 OK" + JSON + b"content-length: 33\r\n", 33),
        (b"HEAD", b"200 OK" + JSON, None),
        (b"HEAD", b"200 OK" + ZIPPED + b"content-length: 33\r\n", 33),
        (b"GET", b"304 Not Modified" + JSON + b"content-length: 33\r\n", 33),
        (b"GET", b"304 Not Modified" + ZIPPED, None),
        (b"GET", b"401 Unauthorized" + ZIPPED + b"content-length: 0\r\n", 0),
    ],
)
async def test_an_answer_without_a_body_is_whole(upstream, authority, certificate, method, answer, length):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + answer + b"\r\n")
        await reader.read()

    async with serving(authority, certificate, talk) as provider:
        client = Client(provider.endpoint(), method=method)

        [head, end] = await call(upstream, client)

    assert (head.length, end) == (length, End.END)
    assert client.attempts_made == [(int(answer[:3]), None)]


@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_client_that_does_not_read_ejects_no_provider(upstream, authority, certificate, is_slow):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await reader.read()

    async with serving(authority, certificate, talk) as provider:
        client = Client(provider.endpoint(), request_seconds=0.3)
        client.is_congested = is_slow

        assert (await call(upstream, client))[-1].fault == "provider_timeout"

    assert client.health.outliers.ejections == (0 if is_slow else 1)


async def test_whoever_gives_up_is_told_nothing_and_the_connection_is_closed(upstream, authority, certificate):
    left = asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        left.set()

    async with serving(authority, certificate, talk) as provider:
        client = Client(provider.endpoint())
        under_way = upstream.call(client)
        await until(lambda: provider.writers)

        under_way.cancel()

        await asyncio.wait_for(left.wait(), 10)
        assert client.parts == []
        assert upstream.pool.idle(provider.endpoint()) is None


async def test_a_bug_of_ours_is_an_error_and_nothing_of_it_is_told_but_in_the_log(upstream, provider, caplog):
    client = Client(provider.endpoint())
    client.fields.append((b"X-One", b"1\r\n2"))

    with caplog.at_level(logging.ERROR):
        assert await call(upstream, client) == [Broken("internal_error", "")]

    assert "a call failed for a bug of ours" in caplog.text
    assert "sk-marker" not in caplog.text
    assert provider.writers == []


async def test_a_key_that_no_header_can_hold_is_in_no_log(upstream, provider, caplog):
    client = Client(provider.endpoint())
    attempt = replace(client.planned.attempt, key=Secret("sk-marker-你好"))
    client.planned = replace(client.planned, attempt=attempt)

    with caplog.at_level(logging.ERROR):
        assert await call(upstream, client) == [Broken("internal_error", "")]

    assert "sk-marker" not in caplog.text

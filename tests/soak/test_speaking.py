import asyncio
import contextlib

import pytest

from tests.soak.asking import CHAT, Ask, Leave
from tests.soak.speaking import Line

ASK = Ask("tag-1", "soak.test", CHAT, {"model": "tag-1"}, "")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"


@contextlib.asynccontextmanager
async def line_to(content):
    """Connect to a server that says `content` to the first bytes it hears, and closes."""

    async def serve(reader, writer):
        await reader.read(1)
        writer.write(content)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield await Line.open(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (CHUNKED + b"0\r\n\r\n", "complete"),
        (CHUNKED, "cut"),
        (CHUNKED + b"3\r\nh", "cut"),
        (CHUNKED + b"no size\r\n", "bad-framing"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", "cut"),
        (b"HTTP/1.1 200 OK\r\nconten", "nothing"),
        (b"how do you do?\r\n\r\n", "bad-framing"),
        (b"", "nothing"),
    ],
)
async def test_the_end_of_an_answer_is_told_apart(content, end):
    async with line_to(content) as line:
        answer = await line.call(ASK, "key")

    assert answer.end == end


async def test_bytes_after_the_answer_are_noticed():
    async with line_to(CHUNKED + b"0\r\n\r\n" + CHUNKED) as line:
        answer = await line.call(ASK, "key")

    assert (answer.body, answer.excess) == (b"hi", CHUNKED)


async def test_a_client_leaves_in_the_middle_of_an_answer():
    async with line_to(CHUNKED) as line:
        answer = await line.call(Ask("tag-1", "soak.test", CHAT, {}, "", leave=Leave("answer", 1, "reset")), "key")

    assert (answer.end, answer.body, line.is_open) == ("left", b"hi", False)

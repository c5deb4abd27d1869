"""A connection: whatever comes, and however it was cut, there is one answer or one failure."""

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.snapshot import Endpoint
from sidestream.upstream.connection import MAX_HEAD_BYTES, MAX_WAITING_BYTES, AttemptFailed, Connection

ENDPOINT = Endpoint("127.0.0.1", 443, "provider.test")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nX-One: 1\r\ncontent-length: 5\r\n\r\nhello"
UNTIL_END = b"HTTP/1.1 200 OK\r\n\r\nhello"


@dataclass
class Transport:
    """What a connection does to its transport."""

    written: bytes = b""
    is_aborted: bool = False
    is_paused: bool = False
    unsent: int = 0
    tls: list = field(default_factory=list)

    def write(self, content: bytes) -> None:
        self.written += content

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent


def connect():
    connection, transport = Connection(ENDPOINT), Transport()
    connection.connection_made(transport)
    return connection, transport


def asked(*, is_head_only=False):
    connection, transport = connect()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", is_head_only=is_head_only)
    return connection, transport


def end(connection, ending):
    if ending == "end":
        connection.eof_received()
    connection.connection_lost(ConnectionResetError() if ending == "reset" else None)


async def _take(connection):
    status, body = None, b""
    try:
        answer = await connection.answer()
        status = answer.status, answer.fields
        while chunk := await connection.read():
            body += chunk
    except AttemptFailed as e:
        return status, body, e.failure.kind
    return status, body, "whole"


def take(connection):
    """Take what there is. It may not wait: nothing more comes."""
    with pytest.raises(StopIteration) as taken:
        _take(connection).send(None)
    return taken.value.value


def heard(chunks, ending="end", **how):
    """Return what came of `chunks` and then `ending`."""
    connection, transport = asked(**how)
    for chunk in chunks:
        if not transport.is_aborted:
            connection.data_received(chunk)
    end(connection, ending)
    return take(connection)


ANSWERS = {
    "of known length": (SIZED, b"hello", "whole"),
    "in chunks": (CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello", "whole"),
    "with trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", b"hello", "whole"),
    "until the end": (UNTIL_END, b"hello", "whole"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello", "whole"),
    "after interim answers": (HINTS + b"HTTP/1.1 100 Continue\r\n\r\n" + HINTS + SIZED, b"hello", "whole"),
    "without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", "whole"),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", "whole"),
    "and another": (SIZED + b"HTTP/1.1 500 No\r\ncontent-length: 1\r\n\r\n!", b"hello", "whole"),
    "and garbage": (SIZED + b"how do you do?", b"hello", "whole"),
    "closing, and garbage": (SIZED.replace(b"X-One: 1", b"connection: close") + b"what?", b"hello", "whole"),
    "cut": (SIZED[:-1], b"hell", "reset"),
    "cut in chunks": (CHUNKED + b"5\r\nhello\r\n", b"hello", "reset"),
    "bad chunks": (CHUNKED + b"5\r\nhello\r\nno size\r\n", b"hello", "reset"),
    "cut in the head": (SIZED[:20], b"", "reset"),
    "garbage": (b"how do you do?\r\n\r\n", b"", "reset"),
    "nothing": (b"", b"", "reset"),
    "only interim": (HINTS, b"", "reset"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", b"", "reset"),
    "length and chunks": (CHUNKED.replace(b"OK\r\n", b"OK\r\ncontent-length: 1\r\n") + b"1\r\nx\r\n", b"", "reset"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", b"", "reset"),
}


@pytest.mark.parametrize(("content", "body", "how"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_whole_or_a_failure(content, body, how):
    _, got, ended = heard([content])

    assert (got, ended) == (body, how)


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 200)).map(sorted), st.sampled_from(["end", "reset"]))
def test_cutting_into_chunks_changes_nothing(name, cuts, ending):
    content = ANSWERS[name][0]
    chunks = [part for a, b in itertools.pairwise([0, *cuts, len(content)]) if (part := content[a:b])]

    assert heard(chunks, ending) == heard([content], ending)


@given(st.lists(st.binary() | st.sampled_from([SIZED, CHUNKED, HINTS, UNTIL_END, b"5\r\n", b"\r\n"])), st.booleans())
def test_no_bytes_make_it_raise_or_wait_for_ever(chunks, is_head_only):
    for ending in ("end", "reset"):
        _, _, ended = heard([chunk for chunk in chunks if chunk], ending, is_head_only=is_head_only)
        assert ended in ("whole", "reset")


def test_a_reset_is_never_the_end_of_an_answer_that_only_the_end_ends():
    assert heard([UNTIL_END], "reset")[1:] == (b"hello", "reset")


def test_an_interim_answer_leaves_nothing_behind():
    (status, fields), _, _ = heard([HINTS + SIZED])

    assert (status, fields) == (200, [(b"x-one", b"1"), (b"content-length", b"5")])


def test_the_answer_to_head_has_no_body_whatever_it_says():
    status, body, ended = heard([SIZED.removesuffix(b"hello")], is_head_only=True)

    assert (status[0], body, ended) == (200, b"", "whole")


def test_a_head_is_not_read_for_ever():
    connection, transport = asked()

    connection.data_received(b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD_BYTES)

    assert transport.is_aborted
    assert take(connection) == (None, b"", "reset")


def test_reading_stops_while_nobody_takes_what_was_read():
    connection, transport = asked()
    connection.data_received(CHUNKED)

    for _ in range(5):
        connection.data_received(b"%x\r\n%s\r\n" % (MAX_WAITING_BYTES // 4, b"x" * (MAX_WAITING_BYTES // 4)))
    was_paused = transport.is_paused
    with pytest.raises(StopIteration) as taken:
        connection.read().send(None)

    assert was_paused
    assert not transport.is_paused
    assert len(taken.value.value) == MAX_WAITING_BYTES // 4 * 5


def test_reading_does_not_stop_at_the_end_of_an_answer():
    connection, transport = asked()

    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_WAITING_BYTES + 1))
    connection.data_received(b"x" * (MAX_WAITING_BYTES + 1))

    assert not transport.is_paused  # else nobody would notice that an unused connection is closed


@pytest.mark.parametrize("content", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\r\n", b"x"])
def test_bytes_that_nobody_asked_for_end_an_unused_connection(content):
    connection, transport = asked()
    connection.data_received(SIZED)
    take(connection)

    connection.data_received(content)

    assert transport.is_aborted
    assert connection.is_closed


@pytest.mark.parametrize(
    ("content", "is_reusable"),
    [
        (SIZED, True),
        (CHUNKED + b"0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (SIZED.replace(b"X-One: 1", b"connection: close"), False),
        (SIZED.replace(b"1.1", b"1.0"), False),
        (SIZED[:-1], False),
        (SIZED + SIZED, False),
        (SIZED + b"x", False),
    ],
)
def test_a_connection_is_used_again_only_after_a_whole_answer_that_lets_it(content, is_reusable):
    connection, _ = asked()

    connection.data_received(content)

    assert connection.is_reusable == is_reusable


def test_a_connection_whose_request_is_not_all_sent_is_not_used_again():
    connection, transport = asked()
    transport.unsent = 1

    connection.data_received(SIZED)

    assert not connection.is_reusable


def test_nothing_of_one_answer_is_in_the_next():
    connection, _ = asked()
    connection.data_received(CHUNKED + b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n")
    take(connection)

    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", is_head_only=False)
    connection.data_received(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")

    assert take(connection) == ((404, [(b"content-length", b"2")]), b"no", "whole")


@pytest.mark.parametrize(("said", "is_silent"), [(b"", True), (b"H", False), (HINTS, False)])
def test_a_failure_tells_whether_the_provider_said_a_word(said, is_silent):
    connection, _ = asked()
    if said:
        connection.data_received(said)
    end(connection, "end")

    with pytest.raises(AttemptFailed) as failed:
        connection.answer().send(None)

    assert failed.value.is_silent == is_silent


async def test_who_waits_is_woken_by_whatever_happens():
    for happening in (lambda c: c.data_received(SIZED), lambda c: c.data_received(b"?"), lambda c: end(c, "reset")):
        connection, _ = asked()
        waiting = asyncio.create_task(_take(connection))
        await asyncio.sleep(0)

        happening(connection)

        assert (await asyncio.wait_for(waiting, 10))[2] in ("whole", "reset")

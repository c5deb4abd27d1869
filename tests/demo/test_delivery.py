import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.demo.answers import Whole
from sidestream.demo.behaviour import parse
from sidestream.demo.delivery import End, Head, Leave, Pause, Piece, Stall, split, steps
from sidestream.demo.events import Streamed

WHOLE = Whole(200, b"0123456789")
STREAM = Streamed((b"role ",), (b"one ", b"two ", b"three "), (b"done",))


def plan(answer, settings=""):
    return list(steps(answer, parse(settings), (("x-id", "1"),)))


def body(planned):
    return b"".join(step.content for step in planned if isinstance(step, Piece))


def kinds(planned):
    return [type(step) for step in planned]


def test_a_whole_answer_says_its_length():
    head, *rest = plan(WHOLE)

    assert head == Head(200, (("content-type", "application/json"), ("content-length", "10"), ("x-id", "1")))
    assert rest == [Piece(WHOLE.body), End()]


def test_a_stream_is_one_piece_per_event():
    planned = plan(STREAM)

    assert ("transfer-encoding", "chunked") in planned[0].headers
    assert body(planned) == b"role one two three done"
    assert kinds(planned) == [Head, *[Piece] * 5, End]


@pytest.mark.parametrize(
    ("settings", "last"), [("cut=2", Leave("cut")), ("reset=2", Leave("reset")), ("stall=2", Stall())]
)
def test_a_stream_is_spoilt_after_the_events_asked_for(settings, last):
    planned = plan(STREAM, settings)

    assert body(planned) == b"role one two "
    assert planned[-1] == last
    assert End() not in planned


@pytest.mark.parametrize(("settings", "sent"), [("cut=0", b"role "), ("cut=9", b"role one two three ")])
def test_a_spoilt_stream_never_finishes(settings, sent):
    assert body(plan(STREAM, settings)) == sent


@pytest.mark.parametrize("settings", ["cut=2", "reset=2", "stall=2"])
def test_a_whole_answer_is_spoilt_half_way(settings):
    planned = plan(WHOLE, settings)

    assert ("content-length", "10") in planned[0].headers
    assert body(planned) == b"01234"
    assert End() not in planned


@pytest.mark.parametrize("answer", [WHOLE, STREAM])
@pytest.mark.parametrize(("settings", "how"), [("close=before", "cut"), ("close=reset", "reset")])
def test_closing_before_sends_nothing(answer, settings, how):
    assert plan(answer, settings) == [Leave(how)]


def test_the_first_byte_waits():
    assert plan(WHOLE, "first-byte=0.5")[0] == Pause(0.5)


def test_gaps_are_between_events():
    planned = plan(STREAM, "gap=0.02")

    assert kinds(planned) == [Head, Piece, *[Pause, Piece] * 4, End]
    assert planned[2] == Pause(0.02)


@pytest.mark.parametrize(
    ("settings", "comment"),
    [("comments=1", b": keep-alive\n\n"), ("comments=1 crlf=1", b": keep-alive\r\n\r\n")],
)
def test_comments_come_before_events(settings, comment):
    assert body(plan(STREAM, settings)).split(comment) == [b"", b"role ", b"one ", b"two ", b"three ", b"done"]


def test_a_compressed_whole_answer():
    planned = plan(WHOLE, "gzip=1")

    assert ("content-encoding", "gzip") in planned[0].headers
    assert gzip.decompress(body(planned)) == WHOLE.body


def test_a_compressed_stream_can_be_read_event_by_event():
    planned = plan(STREAM, "gzip=1")
    reader = zlib.decompressobj(wbits=31)

    read = [reader.decompress(step.content) for step in planned if isinstance(step, Piece)]

    assert read == [b"role ", b"one ", b"two ", b"three ", b"done", b""]
    assert reader.eof


def test_a_cut_compressed_stream_never_finishes():
    reader = zlib.decompressobj(wbits=31)

    assert reader.decompress(body(plan(STREAM, "gzip=1 cut=1"))) == b"role one "
    assert not reader.eof


def test_a_closing_connection_is_announced():
    assert ("connection", "close") in plan(WHOLE, "connection=close")[0].headers


def test_a_dropped_connection_is_not_announced():
    planned = plan(WHOLE, "connection=drop")

    assert planned[-2:] == [End(), Leave("close")]
    assert "connection" not in dict(planned[0].headers)


def test_a_split_answer_pauses_between_pieces():
    planned = plan(WHOLE, "split=1")

    assert body(planned) == WHOLE.body
    assert kinds(planned) == [Head, Piece, Pause, Piece, Pause, Piece, End]


@given(st.binary())
def test_splitting_loses_nothing(content):
    assert b"".join(split(content)) == content


def test_splitting_cuts_characters_in_two():
    assert split("data: 你🌊\r\n\r\n".encode()) == [b"d", b"ata: \xe4", b"\xbd\xa0\xf0", b"\x9f\x8c\x8a\r\n\r", b"\n"]

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestream.core.sse import MAX_COMMENT_BYTES, MAX_EVENT_BYTES, Block, Decoder, Event
from tests.core.builders import cut_at, pieces, places

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b'data: {"delta":"\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x8c\x8d"}\r\n\r\n'
    b"event: error\rdata: one\rdata:two\r\r"
    b"id: 7\nretry: 10\ndata\n\n"
    b"\r\n\r\n"
    b"data: [DONE]\n\r\n"
    b"data: never ends\n"
)
EVENTS = [
    Event('{"delta":"你好 🌍"}'.encode()),
    Event(b"one\ntwo", b"error"),
    Event(b""),
    Event(b"[DONE]"),
]
FRAGMENTS = (
    b"data",
    b"event",
    b":",
    b" ",
    b"\r",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xe4\xbd\xa0",
    b"[DONE]",
    b"id",
    b"x",
)
streams = st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join) | st.binary()


def decode(*chunks):
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@given(places(STREAM))
@example(list(range(len(STREAM))))
def test_cutting_into_chunks_changes_nothing(cuts):
    assert decode(*cut_at(cuts, STREAM)) == EVENTS


@settings(max_examples=300)
@given(streams.flatmap(lambda stream: st.tuples(st.just(stream), places(stream))))
def test_no_cut_of_any_bytes_changes_their_events(stream_and_places):
    stream, cuts = stream_and_places

    assert decode(*cut_at(cuts, stream)) == decode(stream) == decode(*pieces(stream))


@given(streams)
def test_no_bytes_make_it_raise_or_give_an_event_with_a_line_end_in_its_type(stream):
    events = decode(stream)

    assert all(b"\n" not in event.type and b"\r" not in event.type and event.type for event in events)
    assert all(b"\r" not in event.data for event in events)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_is_one(end):
    stream = b"event: a\ndata: 1\ndata: 2\n\ndata: 3\n\n".replace(b"\n", end)

    assert decode(stream) == decode(*pieces(stream)) == [Event(b"1\n2", b"a"), Event(b"3")]


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=6, max_size=6))
def test_line_ends_may_be_mixed(ends):
    lines = [b"data: 1", b"event: x", b": pad", b"data: 2", b"data: 3", b": end"]
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=True)) + b"\n\n"

    assert decode(*pieces(stream)) == decode(stream) == [Event(b"1\n2\n3", b"x")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"\n\n\n", []),
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a \n\n", [Event(b" a ")]),
        (b"data: a: b\n\n", [Event(b"a: b")]),
        (b"data:\tx\n\n", [Event(b"\tx")]),
        (b"data\n\n", [Event(b"")]),
        (b"data:\n\n", [Event(b"")]),
        (b"data\ndata\n\n", [Event(b"\n")]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event(b"YHOO\n+2\n10")]),
        (b": test stream\n\ndata: first\nid: 1\n\ndata:second\nid\n\n", [Event(b"first"), Event(b"second")]),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [Event(b"1", b"add"), Event(b"2")]),
        (b"event: add\n\ndata: 2\n\n", [Event(b"2")]),
        (b"event: a\nevent: b\ndata: 1\n\n", [Event(b"1", b"b")]),
        (b"event:\ndata: 1\n\n", [Event(b"1")]),
        (b"DATA: a\n\n", []),
        (b" data: a\n\n", []),
        (b"data : a\n\n", []),
        (b"unknown: a\ndata: b\n\n", [Event(b"b")]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data: a\x00b\n\n", [Event(b"a\x00b")]),
        (b"data: a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e\n\n", [Event(b"a\x0bb\x0cc\xc2\x85d\xe2\x80\xa8e")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"\xef\xbb\xbf\ndata: a\n\n", [Event(b"a")]),
        (b'{"error": {"message": "no stream at all"}}', []),
    ],
)
def test_a_stream_is_interpreted_as_the_standard_says(stream, events):
    assert decode(stream) == decode(*pieces(stream)) == events


def test_an_event_is_given_with_the_chunk_that_completes_it():
    decoder = Decoder()

    given_back = [decoder.feed(chunk) for chunk in (b"data: a", b"\r", b"\n", b"\r", b"\ndata: b\n", b"\n")]

    assert given_back == [[], [], [], [Event(b"a")], [], [Event(b"b")]]


def test_an_empty_chunk_changes_nothing():
    assert decode(b"", b"data: a\r", b"", b"\n", b"", b"\r", b"", b"\n", b"") == [Event(b"a")]


@pytest.mark.parametrize("size", [65_537, MAX_EVENT_BYTES, 10 * MAX_EVENT_BYTES])
@pytest.mark.parametrize(
    ("large", "overflows"),
    [
        (b"data: " + b"x" * (MAX_EVENT_BYTES - 6), False),
        (b"data: " + b"x" * (MAX_EVENT_BYTES - 5), True),
        ((b"data: " + b"x" * 1023 + b"\n") * 4095, False),
        ((b"data: " + b"x" * 1023 + b"\n") * 4096, True),
        (b"data: " + b"x" * (MAX_EVENT_BYTES - 1000) + b"\ndata" * 1000, True),
        (b": " + b"x" * MAX_EVENT_BYTES, True),
        (b"event: " + b"x" * MAX_EVENT_BYTES, True),
        (b"x" * (MAX_EVENT_BYTES + 1), True),
    ],
    ids=["largest line", "larger line", "lines", "larger lines", "empty lines", "comment", "type", "no field"],
)
def test_an_event_is_given_up_past_the_bound_however_it_was_cut(large, overflows, size):
    stream = b"data: before\n\n" + large + b"\n\ndata: after\n\n"

    decoder = Decoder()

    events = [event for chunk in pieces(stream, size) for event in decoder.feed(chunk)]

    assert decoder.overflowed is overflows
    assert events[0] == Event(b"before")
    assert (events[-1] == Event(b"after")) is not overflows


def test_a_stream_of_any_length_stays_within_the_bound():
    decoder = Decoder()

    events = [event for _ in range(64) for event in decoder.feed(b": ping\n\ndata: " + b"x" * 100_000 + b"\n\n")]

    assert len(events) == 64
    assert not decoder.overflowed


def test_comments_alone_never_overflow():
    decoder = Decoder()

    events = [event for _ in range(100) for event in decoder.feed(b": " + b"x" * 100_000 + b"\n")]

    assert events == []
    assert not decoder.overflowed


def test_nothing_is_kept_after_an_overflow():
    decoder = Decoder()
    decoder.feed(b"data: " + b"x" * MAX_EVENT_BYTES)

    assert decoder.overflowed
    assert decoder.feed(b"\n\ndata: after\n\n") == []
    assert not decoder._line
    assert not decoder._data


# --- blocks ---------------------------------------------------------------------------------------


def split(*chunks):
    """Return the blocks that `chunks` hold, and what is left."""
    decoder = Decoder()
    return [block for chunk in chunks for block in decoder.split(chunk)], decoder.rest


def raw(blocks):
    return b"".join(block.raw for block in blocks)


def test_a_block_is_an_event_with_its_bytes():
    assert split(STREAM.replace(b"\r\n", b"\n"))[0] == [
        Block(b'\xef\xbb\xbf: a comment\ndata: {"delta":"\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x8c\x8d"}\n\n', EVENTS[0]),
        Block(b"event: error\rdata: one\rdata:two\r\r", EVENTS[1]),
        Block(b"id: 7\nretry: 10\ndata\n\n", EVENTS[2]),
        Block(b"\n", None),
        Block(b"\n", None),
        Block(b"data: [DONE]\n\n", EVENTS[3]),
    ]


@settings(max_examples=300)
@given(streams.flatmap(lambda stream: st.tuples(st.just(stream), places(stream))))
@example((STREAM, list(range(len(STREAM)))))
def test_blocks_and_the_rest_are_all_the_bytes(stream_and_places):
    stream, cuts = stream_and_places

    blocks, rest = split(*cut_at(cuts, stream))

    assert raw(blocks) + rest == stream


@settings(max_examples=300)
@given(streams.flatmap(lambda stream: st.tuples(st.just(stream), places(stream))))
def test_no_cut_of_any_bytes_changes_blocks_by_more_than_where_half_a_line_end_is(stream_and_places):
    stream, cuts = stream_and_places

    cut, whole = split(*cut_at(cuts, stream)), split(stream)

    assert [block.event for block in cut[0]] == [block.event for block in whole[0]]
    assert [block.raw.strip(b"\n") for block in cut[0]] == [block.raw.strip(b"\n") for block in whole[0]]


@given(st.lists(st.sampled_from([b": ping\n\n", b"data: 1\n\n", b"event: x\ndata: 2\n\n", b"\n"]), max_size=6))
def test_a_block_ends_with_its_empty_line(written):
    blocks, rest = split(b"".join(written))

    assert [block.raw for block in blocks] == written
    assert rest == b""


@pytest.mark.parametrize("size", [1000, 65_537, 10 * MAX_EVENT_BYTES])
@pytest.mark.parametrize("line", [b": " + b"x" * 100_000 + b"\n", b"id: " + b"x" * 1000 + b"\n"])
def test_lines_without_data_do_not_wait_for_an_empty_line_for_ever(line, size):
    stream = line * (2 * MAX_EVENT_BYTES // len(line) + 1)

    blocks, rest = split(*pieces(stream, size))

    assert raw(blocks) + rest == stream
    assert len(rest) <= MAX_COMMENT_BYTES + len(line)
    assert {block.event for block in blocks} == {None}


def test_an_event_keeps_its_type_over_comments_of_any_length():
    stream = b"event: add\n" + b": ping\n" * MAX_COMMENT_BYTES + b"data: 1\n\ndata: 2\n\n"

    assert decode(stream) == [Event(b"1", b"add"), Event(b"2")]


@pytest.mark.parametrize("size", [65_537, 10 * MAX_EVENT_BYTES])
@pytest.mark.parametrize(
    "large",
    [b"data: " + b"x" * MAX_EVENT_BYTES, (b"data: " + b"x" * 1023 + b"\n") * 4100, b": " + b"x" * MAX_EVENT_BYTES],
)
def test_no_byte_of_an_event_that_is_too_large_is_lost(large, size):
    stream = b"data: before\n\n" + large + b"\n\ndata: after\n\n"

    blocks, rest = split(*pieces(stream, size))

    assert raw(blocks) + rest == stream
    assert [block.event for block in blocks if block.event] == [Event(b"before")]

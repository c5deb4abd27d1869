"""How the load reads streams."""

import pytest

from tests.bench.streaming import Decoder

TIMES = [1111111111111111111, 2222222222222222222]
EVENTS = [b'data: {"choices":[{"delta":{"content": "%d"}}]}\n\n' % time for time in TIMES] + [b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = b"".join(EVENTS)
ANSWER = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (TEXT[:30], TEXT[30:])) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 60, 100, len(ANSWER) - 1, len(ANSWER)])
def test_cutting_an_answer_into_pieces_changes_nothing(size):
    decoder = Decoder()

    times = [time for at in range(0, len(ANSWER), size) for time in decoder.feed(ANSWER[at : at + size])]

    assert times == TIMES
    assert (decoder.status, decoder.is_complete, decoder.has_done) == (200, True, True)


def test_a_stream_without_its_last_chunk_is_not_complete():
    decoder = Decoder()

    decoder.feed(ANSWER[:-1])

    assert not decoder.is_complete


def test_an_answer_that_is_no_stream_is_refused_with_what_it_says():
    with pytest.raises(ValueError, match="no credit"):
        Decoder().feed(b"HTTP/1.1 402 Payment Required\r\ncontent-length: 9\r\n\r\nno credit")

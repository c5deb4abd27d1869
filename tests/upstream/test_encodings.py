"""Encodings: decoded as they come, whole or refused, and never much at a time."""

import functools
import gzip
import itertools
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.upstream.encodings import MAX_STEP_BYTES, BadEncoding, decoding_of

ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": functools.partial(brotli.compress, quality=5),
}
BODY = ("你好 🌊 " * 100).encode()
BOMB_BYTES = 16 * 1024 * 1024


def decoded(encoding, chunks):
    decoding = decoding_of(encoding)
    return b"".join(piece for chunk in chunks for piece in decoding.feed(chunk)), decoding.is_whole


@pytest.mark.parametrize("encoding", ENCODERS)
@given(cuts=st.lists(st.integers(0, 120)).map(sorted))
def test_cutting_into_chunks_changes_nothing(encoding, cuts):
    content = ENCODERS[encoding](BODY)
    chunks = [part for a, b in itertools.pairwise([0, *cuts, len(content)]) if (part := content[a:b])]

    assert decoded(encoding, chunks) == (BODY, True)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_body_that_is_cut_is_not_whole(encoding):
    content = ENCODERS[encoding](BODY)

    assert not any(decoded(encoding, [content[:length]])[1] for length in range(len(content)) if length)


def test_a_body_may_be_several_that_were_compressed_one_by_one():
    content = gzip.compress(BODY) + gzip.compress(b"") + gzip.compress(BODY)

    assert decoded("gzip", [content]) == (BODY + BODY, True)
    assert decoded("gzip", [bytes([byte]) for byte in content]) == (BODY + BODY, True)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_follows_the_end_of_a_body_is_refused(encoding):
    with pytest.raises(BadEncoding):
        decoded(encoding, [ENCODERS[encoding](BODY) + b"and more"])


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_was_flushed_is_there_before_the_rest(encoding):
    compressor = (
        brotli.Compressor() if encoding == "br" else zlib.compressobj(wbits=15 if encoding == "deflate" else 31)
    )
    write = compressor.process if encoding == "br" else compressor.compress
    first = write(b"data: 1\n\n") + (compressor.flush() if encoding == "br" else compressor.flush(zlib.Z_SYNC_FLUSH))

    assert decoded(encoding, [first]) == (b"data: 1\n\n", False)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_bomb_comes_in_pieces_of_bounded_size(encoding):
    decoding = decoding_of(encoding)

    sizes = [len(piece) for piece in decoding.feed(ENCODERS[encoding](bytes(BOMB_BYTES)))]

    assert sum(sizes) == BOMB_BYTES
    assert max(sizes) <= 2 * MAX_STEP_BYTES  # br's limit is not exact
    assert decoding.is_whole


@pytest.mark.parametrize("encoding", ENCODERS)
def test_what_is_in_no_encoding_is_refused(encoding):
    with pytest.raises(BadEncoding):
        decoded(encoding, [b'{"model": "m-1", "choices": []}' * 10])


@pytest.mark.parametrize("encoding", ENCODERS)
@given(chunks=st.lists(st.binary(min_size=1)))
def test_no_bytes_do_more_than_be_refused(encoding, chunks):
    try:
        decoded(encoding, chunks)
    except BadEncoding as e:
        assert str(e) == "its body does not fit its Content-Encoding"


@pytest.mark.parametrize("written", ["GZIP", " gzip ", "Br"])
def test_how_it_is_written_does_not_matter(written):
    assert decoding_of(written) is not None


@pytest.mark.parametrize("written", ["", "identity", "zstd", "gzip, br", "compress"])
def test_what_is_not_known_is_left_alone(written):
    assert decoding_of(written) is None

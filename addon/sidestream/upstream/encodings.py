"""
Bodies of providers that compress although they were asked not to.

What a provider answers is read on the way, so it is decoded as it comes.

Source: RFC 9110, 8.4.1; RFC 7932 (br).
"""

import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli

MAX_STEP_BYTES = 1024 * 1024
"""How much one piece may become at a time, in bytes."""

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BadEncoding(ValueError):
    """The bytes are not what their encoding says."""


class Decoding(Protocol):
    """Decodes one body."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """
        Take the next bytes; give what they hold, piece by piece.

        Raises:
            BadEncoding: they do not fit.
        """

    @property
    def is_whole(self) -> bool:
        """Tell whether the body may end here."""


def decoding_of(encoding: str) -> Decoding | None:
    """Return what decodes `encoding`, or ``None`` where that is not known here."""
    encoding = encoding.strip().lower()
    if encoding in _WINDOW_BITS:
        return _Zlib(_WINDOW_BITS[encoding])
    return _Brotli() if encoding == "br" else None


class _Zlib:
    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._inflate = zlib.decompressobj(window_bits)

    @property
    def is_whole(self) -> bool:
        return self._inflate.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                if self._inflate.eof:  # a body may be several members, one after another (RFC 1952, 2.2)
                    self._inflate = zlib.decompressobj(self._window_bits)
                if piece := self._inflate.decompress(chunk, MAX_STEP_BYTES):
                    yield piece
                chunk = self._inflate.unconsumed_tail or self._inflate.unused_data
        except zlib.error as e:
            raise BadEncoding("its body does not fit its Content-Encoding") from e


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()

    @property
    def is_whole(self) -> bool:
        return bool(self._decompressor.is_finished())

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while piece := bytes(self._decompressor.process(chunk, output_buffer_limit=MAX_STEP_BYTES)):
                yield piece
                chunk = b""
        except brotli.error as e:
            raise BadEncoding("its body does not fit its Content-Encoding") from e

"""
Reading what has come in one piece.

mitmproxy reads 64 KB at a time, and asyncio stops the sender at twice that; each piece goes
through all layers by itself. A `WholeReader` gives whatever has come, and lets more of it come. What
came before a connection broke off is given, too.
"""

import asyncio
import contextlib
import os

LIMIT_BYTES = 128 * 1024
"""Half of what may wait to be read before the sender is told to stop. asyncio itself reads 256 KB at a time."""


class WholeReader(asyncio.StreamReader):
    """asyncio's own, which pays no regard to how little is asked for."""

    _buffer: bytearray
    _eof: bool
    _exception: Exception | None
    _transport: asyncio.Transport | None

    @classmethod
    def specialise(cls, reader: object) -> None:
        """Turn the stock reader of a connection into this one."""
        if type(reader) is asyncio.StreamReader:
            reader.__class__ = cls
            reader._limit = LIMIT_BYTES

    def set_exception(self, exc: Exception) -> None:
        # A server that refuses an upload answers, and breaks off. asyncio meets that while it writes, and would
        # drop the answer, that nobody has read yet.
        if not self._eof and self._transport is not None:
            number = self._transport.get_extra_info("socket").fileno()
            with contextlib.suppress(OSError):
                while words := os.read(number, LIMIT_BYTES):
                    self.feed_data(words)
        super().set_exception(exc)

    async def read(self, n: int = -1) -> bytes:
        if n < 0:
            return await super().read(n)
        if not self._buffer:
            if self._exception is not None:
                raise self._exception
            if not self._eof:
                await self._wait_for_data("read")
        content = bytes(self._buffer)
        self._buffer.clear()
        self._maybe_resume_transport()
        return content

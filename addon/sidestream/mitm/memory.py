"""
What the C library does with memory that was given back.

glibc raises the size from which on it takes memory from the system piece by piece, once such a piece was freed;
then large bodies come from a heap that is full of holes and never shrinks. With the size fixed, what they took
goes back when they are gone. It must be well above the 256 KB that asyncio takes for every read: to get these from the
system each time cost two thirds of what passes through. What is smaller leaves holes, too; their pages are given back
from time to time. Elsewhere than on glibc nothing is done.

Connections die in cycles, each with 256 KB of its TLS. Python's collector counts objects, not bytes, and waits for a
quarter more of them: a hundred connections are few objects. So what is dead is collected from time to time.

Source: mallopt(3), malloc_trim(3).
"""

import asyncio
import ctypes
import functools
import gc
import itertools
import platform

PIECE_BYTES = 1024 * 1024
"""From this size on, memory is taken from the system by itself, and given back when freed."""

SECONDS_BETWEEN_TRIMS = 5.0
"""How often holes are given back. It takes a quarter of a millisecond for each megabyte."""

TRIMS_BETWEEN_COLLECTIONS = 6
"""How often what died in cycles is collected. It takes milliseconds: what was there at the start is left out."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def give_back_what_is_large() -> None:
    """Let large pieces go back to the system. To be called before there are threads."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, PIECE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 4 * PIECE_BYTES)
        libc.mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """
    Give back what the start left over, and let nobody look through what it made.

    What is there by now stays, and is most of what there is: a full collection took 78 ms, and nothing else meanwhile.
    """
    gc.collect()
    gc.freeze()
    give_back_holes()


async def tidy() -> None:
    """Collect, and give back holes, from time to time, until it is cancelled."""
    for number in itertools.count(1):
        await asyncio.sleep(SECONDS_BETWEEN_TRIMS)
        if number % TRIMS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        give_back_holes()


def give_back_holes() -> None:
    """Give back the pages of the heap that nothing is in."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None

"""
How an answer travels: the steps, in order, of sending it whole, slowly, in pieces or not at all.

Pure: steps are values, and `connection` carries them out on a socket. HTTP framing is not
decided here; a `Piece` becomes one chunk of a chunked body or a part of a sized one.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

from sidestream.demo.answers import Answer, Whole
from sidestream.demo.behaviour import HTTP_OK, Behaviour
from sidestream.demo.events import Streamed

BETWEEN_PIECES_SECONDS = 0.001
"""The pause that makes the pieces of a `split` answer travel apart."""

MAX_SPLIT_CHARACTERS = 3
"""How many characters of one event `split` cuts in two."""

GZIP = 31
"""`wbits` that make zlib write gzip's format."""

type Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Say nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """Send the status line and headers."""

    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Piece:
    """Send a part of the body."""

    content: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Finish the answer properly."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing until the client leaves."""


@dataclass(frozen=True, slots=True)
class Leave:
    """
    Close the connection: properly, by an end without goodbye (`cut`), or by a TCP reset.

    As on any network, what has not left this side by then may be lost with the last two:
    kilobytes arrive, megabytes that nobody reads do not.
    """

    how: Literal["close", "cut", "reset"]


type Step = Pause | Head | Piece | End | Stall | Leave


def steps(answer: Answer, behaviour: Behaviour, headers: Headers) -> Iterator[Step]:
    """Plan the delivery of `answer`; `headers` are sent besides those that describe the body."""
    if behaviour.first_byte_seconds:
        yield Pause(behaviour.first_byte_seconds)
    if behaviour.close is not None:
        yield Leave("cut" if behaviour.close == "before" else "reset")
        return
    if behaviour.connection == "close":
        headers += (("connection", "close"),)
    if behaviour.gzip:
        headers += (("content-encoding", "gzip"),)
    match answer:
        case Whole():
            yield from _whole(answer, behaviour, headers)
        case Streamed():
            yield from _streamed(answer, behaviour, headers)
        case _:
            assert_never(answer)


def _whole(answer: Whole, behaviour: Behaviour, headers: Headers) -> Iterator[Step]:
    body = zlib.compress(answer.body, wbits=GZIP) if behaviour.gzip else answer.body
    sized = (("content-type", "application/json"), ("content-length", str(len(body))))
    yield Head(answer.status, sized + answer.headers + headers)
    # An error event spoils streams only; `answers` refuses it where a stream was possible.
    spoilt = behaviour.ending not in {None, "error-event"}
    yield from _pieces(body[: len(body) // 2] if spoilt else body, behaviour)
    yield from _ending(behaviour)


def _streamed(answer: Streamed, behaviour: Behaviour, headers: Headers) -> Iterator[Step]:
    described = (
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("transfer-encoding", "chunked"),
    )
    yield Head(HTTP_OK, described + headers)
    events: Iterable[bytes] = answer.opening + answer.content + answer.closing
    if behaviour.ending not in {None, "error-event"}:
        events = answer.opening + answer.content[: behaviour.ending_after]
    compressor = zlib.compressobj(wbits=GZIP) if behaviour.gzip else None
    for index, event in enumerate(events):
        if index and behaviour.gap_seconds:
            yield Pause(behaviour.gap_seconds)
        said = event
        if behaviour.comments:
            end = b"\r\n\r\n" if behaviour.crlf else b"\n\n"
            said = b": keep-alive" + end + event
        if compressor:
            said = compressor.compress(said) + compressor.flush(zlib.Z_SYNC_FLUSH)
        yield from _pieces(said, behaviour)
    if compressor and behaviour.ending in {None, "error-event"}:
        yield Piece(compressor.flush())
    yield from _ending(behaviour)


def _ending(behaviour: Behaviour) -> Iterator[Step]:
    match behaviour.ending:
        case None | "error-event":
            yield End()
            if behaviour.connection == "drop":
                yield Leave("close")
        case "stall":
            yield Stall()
        case "cut" | "reset":
            yield Leave(behaviour.ending)
        case _:
            assert_never(behaviour.ending)


def _pieces(content: bytes, behaviour: Behaviour) -> Iterator[Step]:
    if not behaviour.split:
        yield Piece(content)
        return
    for index, piece in enumerate(split(content)):
        if index:
            yield Pause(BETWEEN_PIECES_SECONDS)
        yield Piece(piece)


def split(content: bytes) -> list[bytes]:
    """
    Cut at odd places.

    They are: after the first byte, inside characters of several bytes, and before the last byte
    (inside the line end that ends an event).
    """
    inside = [i + 1 for i, byte in enumerate(content) if byte >= 0xC0]  # UTF-8 lead bytes
    cuts = sorted({1, *inside[:MAX_SPLIT_CHARACTERS], len(content) - 1} & set(range(1, len(content))))
    return [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]

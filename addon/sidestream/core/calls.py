"""
What the two halves of the data plane are to each other.

The client's half (`mitm`) hands a governed request to the upstream half (`upstream`) as a `Caller`,
and is given the parts of one answer: a head, pieces of body and an end, or a break. The halves
do not know each other; they meet in these types.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from sidestream.core.attempts import Attempts, Failure, Try
from sidestream.core.errors import Fault, client_error
from sidestream.core.exchange import Exchange
from sidestream.core.planning import Plan

type Fields = Sequence[tuple[bytes, bytes]]
"""Header fields as they stand on the wire, in order."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is written, all but the key. `target`: path and query."""

    method: bytes
    target: bytes
    fields: Fields = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Head:
    """
    The head of an answer. `length`: of its body, in bytes, where that is known.

    `fields` hold nothing that is between the provider and us only, and nothing about length.
    """

    status: int
    reason: bytes
    fields: Fields
    length: int | None


class End(Enum):
    """The end of an answer that is complete."""

    END = "end"


@dataclass(frozen=True, slots=True)
class Broken:
    """There is no answer, or no more of it. `message` is for a person; it holds nothing of a body, and no key."""

    fault: Fault
    message: str


type Part = Head | bytes | End | Broken


class Caller(Protocol):
    """One exchange, as the upstream half sees it."""

    exchange: Exchange
    attempts: Attempts
    first: Try

    def plan(self, attempt: Try) -> Plan:
        """Return what is sent for `attempt`."""

    def outgoing(self, planned: Plan) -> Outgoing:
        """Return the request as it is written."""

    async def deliver(self, parts: Sequence[Part]) -> None:
        """Pass parts of the answer on to the client."""

    @property
    def is_congested(self) -> bool:
        """Tell whether the client is slower than the answer."""

    async def relief(self) -> None:
        """Wait until the client can take more."""


class Call(Protocol):
    """A call under way."""

    def cancel(self) -> object:
        """End it: nobody waits for it any more."""


class Upstream(Protocol):
    """The upstream half."""

    def call(self, caller: Caller) -> Call:
        """Begin to get an answer for `caller`."""

    def counts(self) -> dict[str, int]:
        """Return what happened since the start: name → how often."""

    def close(self) -> None:
        """Close the connections that nobody uses."""


def broken_by(failure: Failure) -> Broken:
    """Return how `failure` is told, which is the exchange's last."""
    match failure.kind:
        case "connect-failure":
            return Broken("provider_unreachable", failure.message)
        case "timeout":
            return Broken("provider_timeout", failure.message)
        case "reset" | "stream-error" | "rate-limited" | "server-error":
            return Broken("provider_failed", failure.message)


def last_parts(broken: Broken, *, in_stream: bool) -> Sequence[Part]:
    """
    Return what ends an answer that is `broken`.

    A client must be able to tell this from an end. `in_stream`: it reads a stream of events, and waits for more.
    """
    error = client_error(broken.fault, broken.message)
    return (broken,) if error is None or not in_stream else (b"data: " + error.body() + b"\n\n", broken)

"""
Where an exchange stands in a trace.

A client that is traced names its own span in the request. The exchange has a span below it, each attempt one below
that, and a provider is told the attempt's. What is malformed is as if it were not there.

Source: W3C Trace Context Level 2, 3.2 "Traceparent header", 3.3 "Tracestate header", 4.3 "Mutating".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
"""Names of the headers."""
SAMPLED, RANDOM = 1, 2
"""Flags: somebody keeps the trace; its id was drawn at random."""
MAX_STATE_CHARACTERS = 512
"""How long a `tracestate` may be. Others' entries beyond it are dropped, long ones first."""

_MAX_MEMBERS = 32
_LONG_MEMBER_CHARACTERS = 128
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(
    r"((?:[a-z0-9][a-z0-9_\-*/]{0,240}@)?[a-z0-9][a-z0-9_\-*/]{0,255})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A span, as one process tells another of it. Ids are lower-case hex; `state` is for those who trace."""

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether somebody keeps it."""
        return bool(self.flags & SAMPLED)

    @property
    def traceparent(self) -> str:
        """The header that names it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def below(self, number: int) -> "SpanContext":
        """Return a span below it. `number`: 64 random bits, which become its id."""
        return SpanContext(self.trace_id, f"{number or 1:016x}", self.flags, self.state)


@dataclass(frozen=True, slots=True)
class Trace:
    """
    What is known of the trace of an exchange.

    `parent`: the client's span, if it named one. `own`: the exchange's; ``None``: it has none, and the client's headers
    go to the provider as they are.
    """

    parent: SpanContext | None
    own: SpanContext | None


NO_TRACE = Trace(None, None)

type BeginSpan = Callable[[SpanContext | None], SpanContext]
"""Returns the span of an exchange that begins. Its argument: the client's span, if it named one."""


def context_of(headers: Mapping[str, str]) -> SpanContext | None:
    """Return the span that `headers` (lower-case name → value) name."""
    written = headers.get(TRACEPARENT)
    matched = _PARENT.fullmatch(written.strip(" \t")) if written is not None else None
    if matched is None:
        return None
    version, trace_id, span_id, flags, more = matched.groups()
    if version == "00" and more is not None:
        return None
    return SpanContext(trace_id, span_id, int(flags, 16) & (SAMPLED | RANDOM), _state_of(headers.get(TRACESTATE, "")))


def _state_of(written: str) -> str:
    """Return a `tracestate` in its shortest form; nothing, if any of it is malformed."""
    members = [member for part in written.split(",") if (member := part.strip(" \t"))]
    matched = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in matched if match is not None}
    if len(members) > _MAX_MEMBERS or len(keys) < len(members):
        return ""
    if len(state := ",".join(members)) > MAX_STATE_CHARACTERS:
        members = [member for member in members if len(member) <= _LONG_MEMBER_CHARACTERS]
        while len(state := ",".join(members)) > MAX_STATE_CHARACTERS:
            members.pop()
    return state

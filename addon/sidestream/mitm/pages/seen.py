"""
What is kept of governed flows for the pages, beside the flows themselves.

By the flow's id, and within bounds: the oldest go when there are too many, or too many bytes of
requests. It holds no key and no credential of a client, and is saved with no flow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sidestream.core.body import Body
from sidestream.core.exchange import Exchange, Record
from sidestream.core.explain import Explanation, explain
from sidestream.core.routing import RequestView
from sidestream.core.secret import CREDENTIAL_HEADERS, REDACTED
from sidestream.core.snapshot import Snapshot

MAX_BODY_BYTES = 64 * 1024 * 1024
"""How much of all that apps sent is kept, in bytes."""
MAX_FLOWS = 10_000
"""Of how many flows something is kept, where the view has no limit of its own."""

_LARGE = ("messages", "tools", "functions", "input", "prompt")
"""Fields of a body that no decision depends on, but on whether they are there."""


@dataclass(frozen=True, slots=True)
class Before:
    """A request as the app sent it. `headers`: lower-case name → value, credentials redacted."""

    method: str
    host: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(slots=True)
class Seen:
    """
    What is known of one flow. `explanation`: of its decision, without the bodies that would be sent.

    `exchange`: while it is under way; after that, `record`.
    """

    before: Before
    explanation: Explanation | None
    exchange: Exchange | None = field(default=None, repr=False)
    record: Record | None = None


def before_of(view: RequestView, body: bytes) -> Before:
    """Return the request of `view` as it may be kept. `body`: its bytes."""
    headers = {name: REDACTED if name in CREDENTIAL_HEADERS else value for name, value in view.headers.items()}
    return Before(view.method, view.host, view.target, headers, body)


def explained(view: RequestView, snapshot: Snapshot) -> Explanation:
    """Explain what `snapshot` made of `view`, at a cost that does not grow with its body, and keeping none of it."""
    explanation = explain(replace(view, body=_slim(view.body)), snapshot)
    return replace(explanation, requests=tuple(replace(request, body=None) for request in explanation.requests))


def _slim(body: Body | None) -> Body | None:
    return None if body is None else {**body, **{name: [] for name in _LARGE if name in body}}


class Store:
    """What is known of flows, by their id, oldest first."""

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._seen: dict[str, Seen] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[tuple[str, Seen]]:
        return iter(list(self._seen.items()))

    def get(self, flow_id: str) -> Seen | None:
        """Return what is known of a flow; ``None``: nothing, or no more."""
        return self._seen.get(flow_id)

    def put(self, flow_id: str, seen: Seen, *, limit: int) -> None:
        """Keep `seen`; of all flows, at most `limit`. The oldest make room, `seen` itself if it is too large."""
        self.forget(flow_id)
        self._seen[flow_id] = seen
        self._bytes += len(seen.before.body)
        while self._seen and (len(self._seen) > limit or self._bytes > self._max_bytes):
            self.forget(next(iter(self._seen)))

    def forget(self, flow_id: str) -> None:
        """Forget a flow."""
        seen = self._seen.pop(flow_id, None)
        if seen is not None:
            self._bytes -= len(seen.before.body)

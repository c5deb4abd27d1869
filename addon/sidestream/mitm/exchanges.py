"""
The exchanges that are under way, by flow.

State about a flow is kept here and not in `flow.metadata`, which is saved with the flow.
Nothing stays after the record.
"""

import random
import time
from dataclasses import dataclass, field, replace

from mitmproxy import connection, http

from sidestream.core.attempts import Attempts, Try
from sidestream.core.calls import Call
from sidestream.core.errors import Fault
from sidestream.core.exchange import Exchange, Record
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, RequestView
from sidestream.core.snapshot import Snapshot
from sidestream.core.tracing import SpanContext
from sidestream.mitm.apply import apply

MAX_KEPT_BYTES = 256 * 1024
"""How much of a streamed answer is kept to be looked at in mitmweb or a saved flow, in bytes."""
MAX_KEPT_MESSAGES = 100
"""How many messages of a WebSocket are kept, at most."""


@dataclass(slots=True)
class Sending:
    """
    What is sent for an exchange (the engine's `Calling`).

    `planned`: for `first`. `view`: of the request as it came, from which any other attempt is planned.
    """

    exchange: Exchange
    flow: http.HTTPFlow = field(repr=False)
    view: RequestView = field(repr=False)
    forward: Forward
    attempts: Attempts
    first: Try
    planned: Plan
    call: Call | None = None

    def plan(self, attempt: Try) -> Plan:
        """Return what is sent for `attempt`, and show it in the flow."""
        if attempt is self.first:
            return self.planned
        planned = plan(replace(self.forward, backend=attempt.backend), self.view, span_of_attempt(self.exchange))
        assert isinstance(planned, Plan), "what could be sent to one backend can be sent to another"
        apply(planned.attempt, self.flow)
        return planned

    def cancel(self) -> None:
        """End the call, if one is under way."""
        call, self.call = self.call, None
        if call is not None:
            call.cancel()


def span_of_attempt(exchange: Exchange) -> SpanContext | None:
    """Return the span of another attempt of `exchange`, if it is traced."""
    span = exchange.trace.own
    return span.below(random.getrandbits(64)) if span is not None else None


@dataclass(slots=True)
class Open:
    """
    An exchange under way: its snapshot, and the client's headers as they came.

    `original`: the request as it came, kept only to fail open. `view`: what was decided on, once it was; `record`: at
    the end.
    """

    exchange: Exchange
    snapshot: Snapshot
    host: str
    headers: dict[str, str] = field(repr=False)
    client: str
    fault: Fault | None = None
    sending: Sending | None = field(default=None, repr=False)
    original: http.Request | None = field(default=None, repr=False)
    kept: bytearray = field(default_factory=bytearray, repr=False)
    view: RequestView | None = field(default=None, repr=False)
    record: Record | None = None

    def tap(self, chunk: bytes) -> bytes:
        """Take note of a chunk of a streamed answer."""
        self.exchange.passed(chunk)
        if len(self.kept) < MAX_KEPT_BYTES:
            self.kept += chunk[: MAX_KEPT_BYTES - len(self.kept)]
        return chunk


class Exchanges:
    """Exchanges by the id of their flow."""

    def __init__(self) -> None:
        self._open: dict[str, Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, flow: http.HTTPFlow, snapshot: Snapshot, host: str, headers: dict[str, str]) -> Open:
        """Begin the exchange of `flow`."""
        peer = flow.client_conn.peername
        client = f"{peer[0]}:{peer[1]}"
        exchange = Exchange(flow.id, client, host, wall_time=time.time(), now=time.monotonic())
        self._open[flow.id] = opened = Open(exchange, snapshot, host, headers, flow.client_conn.id)
        return opened

    def under_way(self) -> list[Exchange]:
        """Return the exchanges that are under way, oldest first. Any thread may ask."""
        return [opened.exchange for opened in self._open.copy().values()]

    def of(self, flow: http.HTTPFlow) -> Open | None:
        """Return the exchange of `flow`, if it is governed and not finished."""
        return self._open.get(flow.id)

    def end(self, flow: http.HTTPFlow) -> Open | None:
        """Forget the exchange of `flow`, and return it."""
        return self._open.pop(flow.id, None)

    def note_fault(self, fault: Fault) -> None:
        """Take note that all exchanges under way are ended early, each that was not before."""
        for opened in self._open.values():
            opened.fault = opened.fault or fault

    def end_all(self, client: connection.Client) -> list[Open]:
        """Forget the exchanges of `client`, and return them."""
        left = [flow_id for flow_id, opened in self._open.items() if opened.client == client.id]
        return [self._open.pop(flow_id) for flow_id in left]

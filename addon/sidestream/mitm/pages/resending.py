"""
A request of a flow, sent again to a provider that somebody names.

mitmproxy replays through layers of its own, where no key is added. So this does not replay: it is a call of
ours, by the policy in force, with a flow of its own that shows the answer, and a record like any other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.flow import Error

from sidestream.core.attempts import Attempts, Health, Try
from sidestream.core.body import read_object
from sidestream.core.calls import Broken, End, Head, Outgoing, Part
from sidestream.core.exchange import Exchange
from sidestream.core.operations import OTHER
from sidestream.core.planning import Plan, plan
from sidestream.core.routing import Forward, Reject, RequestView
from sidestream.core.snapshot import Backend, Labels, Provider, Route, Snapshot
from sidestream.mitm.apply import apply
from sidestream.mitm.exchanges import Open
from sidestream.mitm.pages.seen import Before
from sidestream.mitm.view import header_values

REPLAYED = "sidestream.replay_of"
"""Where the metadata of a flow that is sent again names the first."""


class CannotResend(ValueError):
    """A request can't be sent again; the message says why."""


def provider_named(name: str, snapshot: Snapshot) -> Provider:
    """
    Return the provider that `name` names: by namespace/name, by name, or by host.

    Raises:
        CannotResend: no provider of the policy is named so, or several are.
    """
    providers = {provider.name: provider for provider in _providers(snapshot)}
    named = [p for p in providers.values() if name in (p.name, p.name.rpartition("/")[2], p.host)]
    if len(named) != 1:
        known = ", ".join(sorted(providers)) or "none"
        raise CannotResend(
            f"{'several providers are' if named else 'no provider is'} named {name!r}; there are: {known}"
        )
    return named[0]


def _providers(snapshot: Snapshot) -> Iterator[Provider]:
    for policy in snapshot.hosts.values():
        if isinstance(policy, Route):
            yield from (backend.provider for rule in policy.rules for backend in rule.backends)
        else:
            yield policy


def before_of_flow(flow: http.HTTPFlow) -> Before:
    """Return the request of a flow of which nothing is kept, as it went out: credentials are redacted there, too."""
    request = flow.request
    return Before(request.method, request.pretty_host, request.path, header_values(request), request.content or b"")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    What a call of ours needs besides a request.

    `changed`: is told of a flow that shows more than before. `ended`: is called once, with why it broke off, if it did.
    """

    snapshot: Snapshot
    labels: Labels
    health: Health
    changed: Callable[[http.HTTPFlow], None]
    ended: Callable[[http.HTTPFlow, Open, str | None], None]


class Resending:
    """
    The `Caller` that sends `before`, which `original` was, to `backend`. Its `flow` shows the answer.

    Raises:
        CannotResend: the backend can't be sent this.
    """

    def __init__(self, original: http.HTTPFlow, before: Before, backend: Backend, around: Surroundings) -> None:
        body = read_object(before.body)
        self.view = RequestView(before.method, before.host, before.target, before.headers, body, around.labels)
        forward = Forward(backend)
        planned = plan(forward, self.view)
        if isinstance(planned, Reject):
            raise CannotResend(planned.error.message)
        if planned.operation is OTHER:  # it would get no key, and may have an effect
            raise CannotResend("only OpenAI's operations are sent again")
        now = time.monotonic()
        self.flow = _copy(original, before)
        apply(planned.attempt, self.flow)
        self.exchange = Exchange(self.flow.id, _client_of(original), before.host, wall_time=time.time(), now=now)
        self.exchange.decision, self.exchange.plan = forward, planned
        self.exchange.bytes_in = len(before.body)
        self.exchange.received(now=now)
        self.attempts = Attempts(forward, around.health, now=now)
        self.first = self.attempts.first(now=now, draw=0.0)
        self.opened = Open(self.exchange, around.snapshot, before.host, before.headers, original.client_conn.id)
        self.before = before
        self._planned = planned
        self._around = around

    def plan(self, attempt: Try) -> Plan:
        """Return what is sent. There is one attempt: the backend was named, and no rule is asked for others."""
        assert attempt is self.first, "there is one attempt"
        return self._planned

    def outgoing(self, planned: Plan) -> Outgoing:
        """Return the request as it is written."""
        request = self.flow.request
        fields = [(name, value) for name, value in request.headers.fields if name.lower() != b"host"]
        fields.insert(0, (b"Host", planned.attempt.endpoint.authority.encode("ascii")))
        return Outgoing(request.data.method, request.data.path, fields, request.raw_content or b"")

    async def deliver(self, parts: Sequence[Part]) -> None:
        """Show parts of the answer."""
        for part in parts:
            match part:
                case Head():
                    self.exchange.answered(part.status, now=time.monotonic())
                    self.flow.response = _response(part)
                    self._around.changed(self.flow)
                case bytes():
                    self.opened.tap(part)
                case End():
                    self._end(None)
                case Broken():
                    self.flow.error = Error(part.message or part.fault)
                    self._end(part.fault)

    @property
    def is_congested(self) -> bool:
        """Nobody is slower than the answer."""
        return False

    async def relief(self) -> None:
        """Wait for nobody."""

    def _end(self, fault: str | None) -> None:
        if self.flow.response is not None:
            self.flow.response.raw_content = bytes(self.opened.kept)
            self.flow.response.timestamp_end = time.time()
        self._around.ended(self.flow, self.opened, fault)
        self._around.changed(self.flow)


def _copy(original: http.HTTPFlow, before: Before) -> http.HTTPFlow:
    """Return a flow whose request is `before`, as if the same client had sent it now."""
    flow = http.HTTPFlow(original.client_conn.copy(), Server(address=None))
    request = original.request.copy()
    request.method, request.path = before.method, before.target
    fields = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in before.headers.items()]
    request.headers = http.Headers(fields)
    if read_object(before.body) is not None:
        request.headers.pop("content-encoding", None)  # it was decoded to be read
    request.raw_content = before.body
    request.timestamp_start = request.timestamp_end = time.time()
    flow.request = request
    flow.is_replay = "request"
    flow.metadata[REPLAYED] = original.id
    return flow


def _response(head: Head) -> http.Response:
    fields = [*head.fields, *([] if head.length is None else [(b"content-length", b"%d" % head.length)])]
    response = http.Response(
        http_version=b"HTTP/1.1",
        status_code=head.status,
        reason=head.reason,
        headers=http.Headers(fields),
        content=None,
        trailers=None,
        timestamp_start=time.time(),
        timestamp_end=None,
    )
    response.stream = True  # what has come of it is shown like that of any other
    return response


def _client_of(flow: http.HTTPFlow) -> str:
    peer = flow.client_conn.peername
    return f"{peer[0]}:{peer[1]}"

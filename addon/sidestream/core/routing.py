"""
The decision: what happens to a request under a snapshot.

`decide` is a pure function; it takes the same time however many hosts the policy names.
What it asks of rules, conditions and shares can be asked one by one, so that an explanation
(`core.explain`) can never differ from what was done.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidestream.core.body import Body
from sidestream.core.errors import ClientError
from sidestream.core.snapshot import Backend, Condition, Labels, Match, Provider, Route, Rule, Snapshot


@dataclass(frozen=True, slots=True)
class RequestView:
    """
    A request as the policy sees it.

    `host`: normalised. `headers`: lower-case name → value, several values joined by ``", "``.
    `body`: the JSON object it holds, if it does. `labels`: of the workload that sent it.
    """

    method: str
    host: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: Body | None = field(default=None, repr=False)
    labels: Labels = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The model that the client asks for."""
        model = self.body.get("model") if self.body else None
        return model if isinstance(model, str) else None


@dataclass(frozen=True, slots=True)
class Forward:
    """Send it to `backend`. `route` and `rule` are ``None`` for a provider without a route."""

    backend: Backend
    route: Route | None = None
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class PassThrough:
    """No policy names it: send it where it was going, untouched."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer with `error`. `route` and `rule` say where the policy led to it."""

    error: ClientError
    route: Route | None = None
    rule: Rule | None = None


type Decision = Forward | PassThrough | Reject


def decide(request: RequestView, snapshot: Snapshot, *, draw: float) -> Decision:
    """
    Decide what happens to `request` under `snapshot`.

    `draw` picks among weighted backends. It is uniform in [0, 1) and comes from the
    caller, so that the same arguments always give the same decision.
    """
    policy = snapshot.hosts.get(request.host)
    if policy is None:
        return PassThrough()
    if isinstance(policy, Provider):
        return Forward(Backend(policy, policy.config))
    for rule in policy.rules:
        if _rule_holds(rule, request):
            return _follow(policy, rule, request, draw)
    message = f"no rule of route {policy.name} matches this request"
    return Reject(ClientError(404, "no_rule_matched", message), policy)


def shares(rule: Rule) -> tuple[tuple[Backend, float], ...]:
    """Return each backend of the first tier with the share of requests it gets, in [0, 1]."""
    tier = rule.first_tier()
    total = sum(backend.weight for backend in tier)
    return tuple((backend, backend.weight / total) for backend in tier) if total else ()


def hashed_draw(rule: Rule, request: RequestView) -> float | None:
    """Return the draw that the `hashOn` of `rule` makes of `request`, or ``None`` where it makes none."""
    value = request.headers.get(rule.hash_on_header) if rule.hash_on_header else None
    if not value:
        return None
    return int.from_bytes(hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()[:6]) / 2**48


def _follow(route: Route, rule: Rule, request: RequestView, draw: float) -> Decision:
    hashed = hashed_draw(rule, request)
    backend = pick(rule.first_tier(), draw if hashed is None else hashed)
    if backend is None:
        message = f"rule {rule.name or 'without a name'} of route {route.name} has no backend for this workload"
        return Reject(ClientError(503, "no_backend", message), route, rule)
    return Forward(backend, route, rule)


def pick(tier: Sequence[Backend], draw: float) -> Backend | None:
    """Return the backend of `tier` that `draw`, in [0, 1), falls on by weight; ``None`` if none has a weight."""
    point = draw * sum(backend.weight for backend in tier)
    for backend in tier:
        if point < backend.weight:
            return backend
        point -= backend.weight
    # Rounding can carry a draw just below 1 past the last share.
    return next((backend for backend in reversed(tier) if backend.weight), None)


def value_of(condition: Condition, request: RequestView) -> str | None:
    """Return what `request` has where `condition` looks."""
    match condition.subject:
        case "header":
            return request.headers.get(condition.name)
        case "sourceLabel":
            return request.labels.get(condition.name)
        case "model":
            return request.model


def condition_holds(condition: Condition, request: RequestView) -> bool:
    """Tell whether `condition` holds for `request`."""
    return condition.test(value_of(condition, request))


def _match_holds(match: Match, request: RequestView) -> bool:
    return all(condition_holds(condition, request) for condition in match)


def _rule_holds(rule: Rule, request: RequestView) -> bool:
    return not rule.matches or any(_match_holds(match, request) for match in rule.matches)

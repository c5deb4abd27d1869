"""
Why a request is treated as it is, as data.

The CLI and the UI show the same `Explanation`. It is built by the code that decides, for
each backend that could be taken, and holds no key and no credential of the client.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from sidestream.core.body import Body, read_object
from sidestream.core.planning import Attempt, Plan, plan
from sidestream.core.routing import (
    Forward,
    PassThrough,
    Reject,
    RequestView,
    condition_holds,
    decide,
    hashed_draw,
    shares,
    value_of,
)
from sidestream.core.secret import CREDENTIAL_HEADERS, REDACTED
from sidestream.core.snapshot import Backend, Condition, Match, Route, Rule, Snapshot


@dataclass(frozen=True, slots=True)
class ConditionVerdict:
    """Whether one condition holds: what is `wanted` of `subject`, and what was `found`."""

    subject: str
    wanted: str
    found: str | None
    holds: bool


@dataclass(frozen=True, slots=True)
class MatchVerdict:
    """Whether one block of conditions holds: all of them must."""

    holds: bool
    conditions: tuple[ConditionVerdict, ...]


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """Whether a rule holds, and whether it is the one `taken`: the first that holds."""

    name: str | None
    holds: bool
    taken: bool
    matches: tuple[MatchVerdict, ...]


@dataclass(frozen=True, slots=True)
class SentRequest:
    """
    A request as it would be sent to a backend that gets `share` of the requests, key redacted.

    With a share of 0 it is sent when those before it failed.
    """

    share: float
    provider: str
    provider_host: str
    connect_to: str
    tls: bool
    method: str
    target: str
    headers: Mapping[str, str]
    body: Body | None
    operation: str
    sent_model: str | None
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer to "what would happen, and why"."""

    host: str
    revision: str
    decision: Literal["forward", "pass-through", "reject"]
    reason: str
    route: str | None = None
    rules: tuple[RuleVerdict, ...] = ()
    requests: tuple[SentRequest, ...] = field(default=())

    def as_dict(self) -> dict[str, object]:
        """Return the explanation as plain values, for JSON."""
        return asdict(self)


def explain(request: RequestView, snapshot: Snapshot) -> Explanation:
    """Explain what `snapshot` makes of `request`: each rule, each backend, each request sent."""
    decision = decide(request, snapshot, draw=0.0)
    policy = snapshot.hosts.get(request.host)
    rules = _judge(policy, request, decision) if isinstance(policy, Route) else ()
    route = policy.name if isinstance(policy, Route) else None
    match decision:
        case PassThrough():
            reason = f"no policy names host {request.host!r}: it goes where it was going, untouched"
            return Explanation(request.host, snapshot.revision, "pass-through", reason)
        case Reject(error=error):
            reason = f"{error.status} {error.code}: {error.message}"
            return Explanation(request.host, snapshot.revision, "reject", reason, route, rules)
        case Forward():
            alternatives = _alternatives(decision, request)
            alternatives += [(replace(decision, backend=backend), 0.0) for backend in _fallbacks(decision.rule)]
            requests = tuple(_sent(forward, share, request) for forward, share in alternatives)
            return Explanation(request.host, snapshot.revision, "forward", _reason(decision), route, rules, requests)


def _judge(route: Route, request: RequestView, decision: object) -> tuple[RuleVerdict, ...]:
    taken = decision.rule if isinstance(decision, Forward | Reject) else None
    return tuple(_judge_rule(rule, request, taken=rule is taken) for rule in route.rules)


def _judge_rule(rule: Rule, request: RequestView, *, taken: bool) -> RuleVerdict:
    matches = tuple(_judge_match(match, request) for match in rule.matches)
    holds = not matches or any(match.holds for match in matches)
    return RuleVerdict(rule.name, holds, taken, matches)


def _judge_match(match: Match, request: RequestView) -> MatchVerdict:
    conditions = tuple(_judge_condition(condition, request) for condition in match)
    return MatchVerdict(all(condition.holds for condition in conditions), conditions)


def _judge_condition(condition: Condition, request: RequestView) -> ConditionVerdict:
    found = value_of(condition, request)
    secret = condition.subject == "header" and condition.name in CREDENTIAL_HEADERS
    return ConditionVerdict(
        subject=condition.subject if condition.subject == "model" else f"{condition.subject} {condition.name}",
        wanted=f"{condition.kind} {REDACTED if secret and condition.expected else condition.expected}".rstrip(),
        found=REDACTED if secret and found is not None else found,
        holds=condition_holds(condition, request),
    )


def _alternatives(forward: Forward, request: RequestView) -> list[tuple[Forward, float]]:
    if forward.rule is None or hashed_draw(forward.rule, request) is not None:
        return [(forward, 1.0)]
    return [(replace(forward, backend=backend), share) for backend, share in shares(forward.rule) if share]


def _fallbacks(rule: Rule | None) -> list[Backend]:
    """Return the backends of every tier but the first, in the order of the tiers."""
    first = rule.first_tier() if rule is not None else ()
    others = [backend for backend in rule.backends if backend not in first and backend.weight] if rule else []
    return sorted(others, key=lambda backend: backend.priority)


def _reason(forward: Forward) -> str:
    if forward.rule is None or forward.route is None:
        return f"{forward.backend.provider.name} names this host, and no route does"
    index = forward.route.rules.index(forward.rule)
    name = f"rule {forward.rule.name!r}" if forward.rule.name else f"rule number {index + 1} (without a name)"
    retry = forward.rule.retry
    again = f"; a failed attempt is followed by up to {retry.attempts} more" if retry and retry.attempts else ""
    return f"{name} of {forward.route.name} is the first that matches{again}"


def _sent(forward: Forward, share: float, request: RequestView) -> SentRequest:
    planned = plan(forward, request)
    provider = forward.backend.provider
    endpoint = provider.endpoint
    common = (share, provider.name, provider.host, f"{endpoint.host}:{endpoint.port}", endpoint.tls, request.method)
    match planned:
        case Reject(error=error):
            refusal = f"{error.status} {error.code}: {error.message}"
            return SentRequest(*common, request.target, {}, None, "chat", None, refusal)
        case Plan(attempt=attempt):
            body = request.body if attempt.body is None else read_object(attempt.body)
            headers = sent_headers(attempt, request.headers)
            return SentRequest(*common, attempt.target, headers, body, planned.operation.name, planned.sent_model)


def sent_headers(attempt: Attempt, headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` as `attempt` sends them, with the key redacted."""
    sent = {name: value for name, value in headers.items() if name not in attempt.remove_headers}
    sent.update(attempt.set_headers)
    if attempt.key is not None:
        sent["authorization"] = f"Bearer {REDACTED}"
    return sent

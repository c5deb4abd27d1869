"""An explanation as lines for a person: what `sidestream explain` prints, and what pages show."""

import json

from sidestream.core.explain import ConditionVerdict, Explanation, RuleVerdict, SentRequest


def lines_of(explanation: Explanation) -> list[str]:
    """Return `explanation` as lines for a person: the decision, and each request that could be sent."""
    lines = decision_lines(explanation)
    for request in explanation.requests:
        lines += _request_lines(request)
    return lines


def decision_lines(explanation: Explanation) -> list[str]:
    """Return what was decided, and each rule's verdict."""
    lines = [f"{explanation.host or '(no host)'}: {explanation.decision}, policy revision {explanation.revision}"]
    lines.append(f"  {explanation.reason}")
    for number, rule in enumerate(explanation.rules, 1):
        lines += _rule_lines(number, rule)
    return lines


def _rule_lines(number: int, rule: RuleVerdict) -> list[str]:
    verdict = "taken" if rule.taken else "matches, but an earlier one did" if rule.holds else "does not match"
    lines = [f"  rule {number} {rule.name or '(no name)'}: {verdict}"]
    if not rule.matches:
        lines.append("    no conditions: always matches")
    for match in rule.matches:
        lines += [f"    {_condition_line(condition)}" for condition in match.conditions]
    return lines


def _condition_line(condition: ConditionVerdict) -> str:
    found = "it is absent" if condition.found is None else f"it is {condition.found!r}"
    return f"{'✓' if condition.holds else '✗'} {condition.subject} {condition.wanted}: {found}"


def _request_lines(request: SentRequest) -> list[str]:
    when = f"{request.share:.0%}" if request.share else "when those before failed:"
    lines = ["", f"  {when} to {request.provider} ({request.provider_host}), {request.operation}"]
    if request.rejected:
        return [*lines, f"    answered with {request.rejected}"]
    lines.append(f"    connect to {request.connect_to}{' with verified TLS' if request.tls else ' without TLS'}")
    lines.append(f"    {request.method} {request.target} HTTP/1.1")
    lines += [f"    {name}: {value}" for name, value in request.headers.items()]
    if request.body is not None:
        lines += ["", f"    {json.dumps(request.body, ensure_ascii=False)}"]
    return lines

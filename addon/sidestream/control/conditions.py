"""
Statuses: what the control plane says of a document, as conditions.

`Accepted`: the document is good in itself. `ResolvedRefs`: what it refers to is there.
`Programmed`: this version of it is in the bundles.

Source: Kubernetes API conventions, "Typical status properties"; Gateway API's names of conditions.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sidestream.control.bundling import InForce, Verdict
from sidestream.policy.problems import Problem, Severity, errors_in

MAX_MESSAGE = 4096
"""How long a message may be, in characters; the API takes 32768 of a condition."""

type Status = dict[str, Any]


def status_for(
    verdict: Verdict, *, generation: int, before: Mapping[str, Any] | None, now: str, unwritten: str = ""
) -> Status:
    """
    Return the status of a document of `generation`.

    `before`: its status until now, whose times stay where nothing changed. `now`: the time as RFC 3339 text.
    `unwritten`: why the bundles can't be written, if they can't.
    """
    since = {condition.get("type"): condition for condition in (before or {}).get("conditions") or []}
    conditions = []
    for kind, good, reason, message in (_accepted(verdict), _resolved(verdict), _programmed(verdict, unwritten)):
        status = "True" if good else "False"
        was = since.get(kind) or {}
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": was.get("lastTransitionTime") or now if was.get("status") == status else now,
            }
        )
    return {"observedGeneration": generation, "conditions": conditions}


def says_the_same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tell whether two statuses say the same, whenever they came to."""
    return _without_times(one) == _without_times(other)


def _accepted(verdict: Verdict) -> tuple[str, bool, str, str]:
    errors = errors_in(verdict.problems)
    if errors:
        return "Accepted", False, "Invalid", _told(errors)
    warnings = [problem for problem in verdict.problems if problem.severity is Severity.WARNING]
    return "Accepted", True, "Accepted", _told(warnings)


def _resolved(verdict: Verdict) -> tuple[str, bool, str, str]:
    if verdict.unresolved:
        return "ResolvedRefs", False, "RefNotFound", _told(verdict.unresolved)
    if verdict.kept_keys:
        return "ResolvedRefs", False, "LastGoodKey", "; ".join(verdict.kept_keys)
    return "ResolvedRefs", True, "ResolvedRefs", ""


def _programmed(verdict: Verdict, unwritten: str) -> tuple[str, bool, str, str]:
    if unwritten:
        return "Programmed", False, "NotWritten", f"the bundle can't be written: {unwritten}"
    match verdict.in_force:
        case InForce.CURRENT:
            return "Programmed", True, "Programmed", f"in the Secret {verdict.bundle}"
        case InForce.LAST_GOOD:
            return "Programmed", False, "LastGood", f"the last good version stays in the Secret {verdict.bundle}"
        case InForce.NONE:
            return "Programmed", False, "NotInForce", "nothing of this document is in force"


def _told(problems: Iterable[Problem]) -> str:
    return "; ".join(
        f"{problem.field}: {problem.message}" if problem.field else problem.message for problem in problems
    )


def _without_times(status: Mapping[str, Any] | None) -> object:
    status = status or {}
    conditions = [
        {name: value for name, value in condition.items() if name != "lastTransitionTime"}
        for condition in status.get("conditions") or []
    ]
    return status.get("observedGeneration"), conditions

"""From an `LLMRoute` to a route of the snapshot, with its providers looked up and its matches compiled."""

import functools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import re2

from sidestream.core.errors import cut
from sidestream.core.hosts import normalise_host
from sidestream.core.snapshot import Backend, Condition, Match, Retry, Route, Rule, Subject, Timeouts
from sidestream.policy import documents
from sidestream.policy.backends import KnownProviders, find_provider
from sidestream.policy.documents import LLMRoute, StringMatch
from sidestream.policy.places import Spot
from sidestream.policy.problems import Problem
from sidestream.policy.reading import Located

_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


def compile_route(located: Located[LLMRoute], known: KnownProviders, problems: list[Problem]) -> Route:
    """Compile one route; its problems are added to `problems`."""
    spec = located.document.spec
    spot = Spot(located.source, ("spec",), problems)
    names: set[str] = set()
    for index, rule in enumerate(spec.rules):
        if rule.name in names:
            spot.at("rules", index, "name").error(f"{rule.name!r} is the name of another rule: rename one")
        if rule.name is not None:
            names.add(rule.name)
        if not _has_conditions(rule) and index < len(spec.rules) - 1:
            spot.at("rules", index).warn("matches every request: the rules after it are never used")
    metadata = located.document.metadata
    known = replace(known, namespace=metadata.namespace)
    rules = tuple(_rule(rule, known, spot.at("rules", index)) for index, rule in enumerate(spec.rules))
    return Route(metadata.qualified, normalise_host(spec.host), rules)


def applies(located: Located[LLMRoute], problems: list[Problem]) -> bool:
    """Tell whether a route is one for here; if not, or not only, that is added to `problems`."""
    spot = Spot(located.source, ("spec", "gateways"), problems)
    gateways = located.document.spec.gateways or []
    others = [cut(name) for name in gateways if name != "mesh"]
    if not others:
        return True
    if len(others) < len(gateways):
        spot.warn(f"not applicable here: {', '.join(others)}; the route is used for mesh")
        return True
    spot.warn("not applicable here: mesh is not among them, so the route is not used")
    return False


def _has_conditions(rule: documents.Rule) -> bool:
    return bool(rule.matches) and all(
        match.headers or match.source_labels or match.model is not None for match in rule.matches
    )


def _rule(rule: documents.Rule, known: KnownProviders, spot: Spot) -> Rule:
    retry, timeouts = None, Timeouts()
    if rule.retry is not None:
        backoff = rule.retry.backoff
        retry = Retry(rule.retry.attempts, tuple(rule.retry.on or ()), backoff.base, backoff.max)
    if rule.timeouts is not None:
        written = rule.timeouts
        timeouts = Timeouts(written.connect, written.first_byte, written.stream_idle, written.request)
    return Rule(
        name=rule.name,
        matches=tuple(_match(match, spot.at("matches", index)) for index, match in enumerate(rule.matches)),
        backends=_backends(rule, known, spot.at("backendRefs")),
        retry=retry,
        timeouts=timeouts,
        hash_on_header=rule.hash_on.header.lower() if rule.hash_on else None,
    )


def _backends(rule: documents.Rule, known: KnownProviders, spot: Spot) -> tuple[Backend, ...]:
    backends: list[Backend] = []
    unweighted = [index for index, ref in enumerate(rule.backend_refs) if ref.weight is None]
    if unweighted and len(unweighted) < len(rule.backend_refs):
        spot.at(unweighted[0], "weight").error("is missing: give every backend a weight, or none")
    tiers: dict[int, int] = defaultdict(int)
    for index, ref in enumerate(rule.backend_refs):
        weight = 1 if ref.weight is None else ref.weight
        tiers[ref.priority] += weight
        provider = find_provider(ref, known, spot.at(index))
        if provider is not None:
            backends.append(Backend(provider, provider.config_for(rule.name), weight, ref.priority))
    for priority, total in tiers.items():
        if total == 0:
            tier = f" of priority {priority}" if len(tiers) > 1 else ""
            spot.error(f"all weights{tier} are 0, so none could ever be taken: give one a weight")
    return tuple(backends)


def _match(match: documents.RouteMatch, spot: Spot) -> Match:
    conditions = [
        _condition("header", name.lower(), condition, spot, "headers", name)
        for name, condition in match.headers.items()
    ]
    conditions += [
        _condition("sourceLabel", name, StringMatch(exact=value), spot, "sourceLabels", name)
        for name, value in match.source_labels.items()
    ]
    if match.model is not None:
        conditions.append(_condition("model", "", match.model, spot, "model"))
    return tuple(conditions)


def _condition(subject: Subject, name: str, written: StringMatch, spot: Spot, *path: str) -> Condition:
    if (exact := written.exact) is not None:
        return Condition(subject, name, "exact", exact, lambda value: value == exact)
    if (prefix := written.prefix) is not None:
        return Condition(subject, name, "prefix", prefix, lambda value: value is not None and value.startswith(prefix))
    if (regex := written.regex) is not None:
        try:
            fullmatch = _compiled(regex).fullmatch
        except re2.error as e:
            spot.at(*path, "regex").error(f"{cut(regex)!r} is no RE2 expression: {_reason(e)}")
            return Condition(subject, name, "regex", regex, lambda _: False)
        return Condition(subject, name, "regex", regex, lambda value: value is not None and bool(fullmatch(value)))
    wanted = written.present is True
    return Condition(subject, name, "present", str(wanted).lower(), lambda value: (value is not None) is wanted)


@functools.lru_cache(maxsize=1024)
def _compiled(regex: str) -> Any:
    # Rules repeat expressions, and a reload repeats all of them.
    return re2.compile(regex, _RE2_OPTIONS)


def _reason(error: re2.error) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)

"""
From documents to a snapshot: all problems at once, and the same result in any order.

What is wrong in one document never hides what is wrong in another, and is not reported
again where something refers to it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sidestream.core.hosts import normalise_host
from sidestream.core.snapshot import Provider, Route, Snapshot
from sidestream.policy.documents import LLMProvider, LLMRoute
from sidestream.policy.keys import Resolver
from sidestream.policy.places import Spot, Text
from sidestream.policy.problems import PolicyError, Problem, Severity, errors_in
from sidestream.policy.providers import References, compile_provider
from sidestream.policy.reading import Located, read_documents
from sidestream.policy.routes import KnownHosts, compile_route

type _Group[D: (LLMProvider, LLMRoute)] = Iterable[Located[D]]


@dataclass(frozen=True, slots=True)
class Compilation:
    """What came of compiling. `snapshot` is ``None`` when an error is among the `problems`."""

    snapshot: Snapshot | None
    problems: tuple[Problem, ...]

    def require(self) -> Snapshot:
        """
        Return the snapshot.

        Raises:
            PolicyError: there is none; it holds all problems.
        """
        if self.snapshot is None:
            raise PolicyError(self.problems)
        return self.snapshot


def compile_policy(texts: Sequence[Text], resolver: Resolver, *, missing_key: Severity = Severity.ERROR) -> Compilation:
    """
    Compile all documents of `texts` into one snapshot.

    `missing_key` says how bad it is that a key or a CA file can't be had: an error where
    requests are sent, a warning where documents are only checked.
    """
    read = read_documents(texts)
    problems = list(read.problems)
    references = References(resolver, missing_key)
    _refuse_twins(read.providers, problems)
    _refuse_twins(read.routes, problems)

    providers = {}
    for provider_document in _one_per_host(read.providers, problems):
        provider = compile_provider(provider_document, references, problems)
        providers[provider.host] = provider
    known = KnownHosts(providers, frozenset(normalise_host(host) for host in read.broken_hosts))
    routes = {}
    for route_document in _one_per_host(read.routes, problems):
        route = compile_route(route_document, known, problems)
        if route is not None:
            routes[route.host] = route
    _report_unused_rule_names(read.providers, read.routes, problems)

    ordered = tuple(sorted(set(problems)))
    if errors_in(ordered):
        return Compilation(None, ordered)
    aliases = {alias: route for route in routes.values() for alias in _cluster_names(route)}
    hosts: dict[str, Route | Provider] = {**aliases, **providers, **routes}
    return Compilation(Snapshot(_revision([*read.providers, *read.routes]), MappingProxyType(hosts)), ordered)


def _refuse_twins[D: (LLMProvider, LLMRoute)](group: _Group[D], problems: list[Problem]) -> None:
    first: dict[str, Located[D]] = {}
    for located in sorted(group, key=_position):
        twin = first.setdefault(located.document.metadata.qualified, located)
        if twin is not located:
            message = f"another document in {twin.source.text.name} has this name: rename or remove one"
            Spot(located.source, ("metadata", "name"), problems).error(message)


def _one_per_host[D: (LLMProvider, LLMRoute)](group: _Group[D], problems: list[Problem]) -> list[Located[D]]:
    by_host: dict[str, list[Located[D]]] = defaultdict(list)
    for located in sorted(group, key=_position):
        host = normalise_host(located.document.spec.host)
        if host:
            by_host[host].append(located)
        else:
            spot = Spot(located.source, ("spec", "host"), problems)
            spot.error(f"{located.document.spec.host!r} is no host: give it without scheme and path")
    for host, (first, *others) in by_host.items():
        for other in others:
            owner = f"{first.source.title} in {first.source.text.name}"
            Spot(other.source, ("spec", "host"), problems).error(f"host {host!r} is that of {owner}: keep one of them")
    return [first for first, *_ in by_host.values()]


def _position(located: Located[LLMProvider] | Located[LLMRoute]) -> tuple[str, int]:
    return located.source.text.name, located.source.index


def _report_unused_rule_names(
    providers: _Group[LLMProvider], routes: _Group[LLMRoute], problems: list[Problem]
) -> None:
    names = {rule.name for located in routes for rule in located.document.spec.rules}
    for located in providers:
        spot = Spot(located.source, ("spec", "configs", "routeSpecificConfigs"), problems)
        for name in located.document.spec.configs.route_specific_configs:
            if name not in names:
                spot.at(name).warn(f"no rule of any route is named {name!r}: this configuration is not used")


def _cluster_names(route: Route) -> list[str]:
    """Return the longer names that Kubernetes gives a service whose short name is the route's host."""
    if "." in route.host or ":" in route.host:
        return []
    namespace = route.name.partition("/")[0]
    return [f"{route.host}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local")]


def _revision(group: Iterable[Located[LLMProvider] | Located[LLMRoute]]) -> str:
    documents = (_without_keys(located.document.model_dump(mode="json", exclude={"status"})) for located in group)
    texts = sorted(json.dumps(document, sort_keys=True) for document in documents)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _without_keys(value: object) -> object:
    # A revision is shown everywhere, and even a hash must not depend on a literal key.
    if isinstance(value, dict):
        return {name: _without_keys(part) for name, part in value.items() if name != "api_key"}
    return [_without_keys(part) for part in value] if isinstance(value, list) else value

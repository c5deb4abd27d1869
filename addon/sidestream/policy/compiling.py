"""
From documents to a snapshot: all problems at once, and the same result in any order.

What is wrong in one document never hides what is wrong in another, and is not reported
again where something refers to it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sidestream.core.errors import cut
from sidestream.core.snapshot import Provider, Route, Snapshot
from sidestream.policy.backends import KnownProviders
from sidestream.policy.documents import LLMProvider, LLMRoute
from sidestream.policy.keys import Resolver
from sidestream.policy.places import Spot, Text
from sidestream.policy.problems import PolicyError, Problem, Severity, errors_in
from sidestream.policy.providers import References, bare_host, compile_provider, meant_host
from sidestream.policy.reading import Located, read_documents
from sidestream.policy.routes import applies, compile_route

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

    read.broken_hosts |= _check_hosts(read.providers, problems)
    _check_hosts(read.routes, problems)

    _refuse_second_of_a_host(read.providers, problems)
    compiled = [compile_provider(located, references, problems) for located in read.providers]
    providers = {provider.host: provider for provider in compiled if provider.host}
    known = KnownProviders(
        by_host=providers,
        by_name={provider.name: provider for provider in compiled},
        broken_hosts=frozenset(meant_host(host) for host in read.broken_hosts),
        broken_names=frozenset(problem.document.removeprefix("LLMProvider ") for problem in read.problems),
    )
    here = [located for located in read.routes if applies(located, problems)]
    _refuse_second_of_a_host(here, problems)
    routes = {route.host: route for route in (compile_route(located, known, problems) for located in here)}
    if not errors_in(read.problems):  # a document that could not be read may be the one that is missed
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


def _check_hosts(group: _Group[LLMProvider] | _Group[LLMRoute], problems: list[Problem]) -> set[str]:
    """Report what is no host, and return it."""
    bad = [located for located in group if not bare_host(located.document.spec.host)]
    for located in bad:
        spot = Spot(located.source, ("spec", "host"), problems)
        spot.error(f"{cut(located.document.spec.host)!r} is no host: give it without scheme, port and path")
    return {located.document.spec.host for located in bad}


def _refuse_second_of_a_host[D: (LLMProvider, LLMRoute)](group: _Group[D], problems: list[Problem]) -> None:
    first: dict[str, Located[D]] = {}
    for located in sorted(group, key=_position):
        host = bare_host(located.document.spec.host)
        owner = first.setdefault(host, located).source
        if host and owner is not located.source:
            message = f"host {host!r} is that of {owner.title} in {owner.text.name}: keep one of them"
            Spot(located.source, ("spec", "host"), problems).error(message)


def _position(located: Located[LLMProvider] | Located[LLMRoute]) -> tuple[str, str, int]:
    """Return what to sort by, so that of two documents the same one is at fault however they are spread over files."""
    return located.document.metadata.qualified, located.source.text.name, located.source.index


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
    # A revision is shown everywhere, and even a hash must not depend on a literal key: a dump has none.
    dumps = (located.document.model_dump(mode="json", exclude={"status"}, exclude_defaults=True) for located in group)
    texts = sorted(json.dumps(dump, sort_keys=True) for dump in dumps)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]

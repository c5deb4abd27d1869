"""From a `backendRef` of a rule to the provider that it names, by host or as an object in the cluster."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from sidestream.core.errors import cut
from sidestream.core.hosts import authority, normalise_host
from sidestream.core.snapshot import Endpoint, OpenAIConfig, Provider
from sidestream.policy.documents import API_GROUP, BackendObject, BackendRef
from sidestream.policy.places import Spot
from sidestream.policy.providers import bare_host, meant_host

_HTTP = 80


@dataclass(frozen=True, slots=True)
class KnownProviders:
    """
    What a route of `namespace` may refer to: providers by host, and by namespace/name.

    `broken_hosts`, `broken_names`: those of documents that have problems of their own.
    """

    by_host: Mapping[str, Provider]
    by_name: Mapping[str, Provider]
    broken_hosts: frozenset[str]
    broken_names: frozenset[str]
    namespace: str = "default"


def find_provider(ref: BackendRef, known: KnownProviders, spot: Spot) -> Provider | None:
    """Return what `ref` refers to, or report at `spot` why there is nothing."""
    if ref.backend_ref is not None:
        return _find_object(ref.backend_ref, known, spot.at("backendRef"))
    written = ref.provider_host
    assert written is not None, "the document has exactly one of the two"
    # Nearly always written as it is normalised.
    provider = known.by_host.get(written) or known.by_host.get(normalise_host(written))
    host = meant_host(written)
    if provider is None and host not in known.broken_hosts:  # those were reported where they stand
        close = [host] if host in known.by_host else difflib.get_close_matches(host, list(known.by_host), n=1)
        spot.at("providerHost").error(f"no LLMProvider has host {cut(written)!r}{_suggest(close)}")
    return provider


def _find_object(ref: BackendObject, known: KnownProviders, spot: Spot) -> Provider | None:
    namespace = ref.namespace or known.namespace
    match ref.group, ref.kind:
        case "", "Service":
            return _service(ref, namespace, spot)
        case group, "LLMProvider" if group == API_GROUP:
            name = f"{namespace}/{ref.name}"
            provider = known.by_name.get(name)
            if provider is None and name not in known.broken_names:
                close = difflib.get_close_matches(name, list(known.by_name), n=1)
                spot.at("name").error(f"there is no LLMProvider {cut(name)!r}{_suggest(close)}")
            return provider
        case _:
            kind = cut(f"{ref.kind} of group {ref.group!r}")
            spot.at("kind").error(f"{kind} is not known here: Service of group '', or LLMProvider of {API_GROUP!r}")
            return None


def _service(ref: BackendObject, namespace: str, spot: Spot) -> Provider | None:
    host = bare_host(f"{ref.name}.{namespace}.svc")
    if not host:
        spot.at("name").error(f"{cut(ref.name)!r} is no name of a Service")
        return None
    if ref.port is None:
        spot.at("port").error("is required for a Service")
        return None
    return Provider(
        name=f"{namespace}/{ref.name}:{ref.port}",  # that of no LLMProvider: no name has a colon
        host=host,
        endpoint=Endpoint(host, ref.port, authority(host, ref.port, default_port=_HTTP), tls=False),
        path="/v1/chat/completions",
        config=OpenAIConfig(),
    )


def _suggest(close: list[str]) -> str:
    return f" (did you mean {close[0]!r}?)" if close else ""

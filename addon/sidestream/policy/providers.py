"""From an `LLMProvider` to a provider of the snapshot, with its keys and CA files fetched."""

import re
from dataclasses import dataclass, replace
from types import MappingProxyType

from sidestream.core.errors import cut
from sidestream.core.hosts import authority, is_address, normalise_host
from sidestream.core.secret import Secret, without_credentials
from sidestream.core.snapshot import Endpoint, OpenAIConfig, OutlierDetection, Provider
from sidestream.policy import documents
from sidestream.policy.documents import LLMProvider
from sidestream.policy.keys import (
    FromEnvironment,
    FromFile,
    FromSecret,
    KeyReference,
    Resolver,
    Unavailable,
    make_secret,
    parse_api_key,
)
from sidestream.policy.places import Spot
from sidestream.policy.problems import Problem, Severity
from sidestream.policy.reading import Located

_NOT_PARAMETERS = {
    "model": "use the field `model`",
    "stream": "use the field `stream`",
    "messages": "they are the client's",
}
"""Body fields that `parameters` may not touch → what to do instead."""


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def bare_host(written: str) -> str:
    """Return the normalised host that `written` is, ``""`` if it is none or has more to it, like a port."""
    has_port = not written.endswith("]") if written.startswith("[") else written.count(":") == 1
    return "" if has_port else normalise_host(written)


def meant_host(written: str) -> str:
    """Return the normalised host that whoever wrote `written` had in mind, though it may be a whole address."""
    return normalise_host(_SCHEME.sub("", written, count=1).partition("/")[0])


@dataclass(frozen=True, slots=True)
class References:
    """Who fetches what documents refer to, and how bad it is when that fails."""

    resolver: Resolver
    missing: Severity

    def key(self, reference: KeyReference, spot: Spot) -> Secret | None:
        """Fetch a key, or report at `spot` why it can't be had. Where that is no error, an empty key stands for it."""
        try:
            return make_secret(self.resolver.key(reference))
        except Unavailable as e:
            spot.report(str(e), self.missing)
            return None if self.missing is Severity.ERROR else Secret("")

    def ca(self, written: str, spot: Spot) -> str | None:
        """Fetch the PEM text of a CA file, or report at `spot` why it can't be had."""
        try:
            return self.resolver.ca(spot.source.text.folder / written)
        except Unavailable as e:
            spot.report(str(e), self.missing)
            return None


def compile_provider(located: Located[LLMProvider], references: References, problems: list[Problem]) -> Provider:
    """Compile one provider; its problems are added to `problems`."""
    document, spec = located.document, located.document.spec
    spot = Spot(located.source, ("spec",), problems)
    configs = spot.at("configs")
    namespace = document.metadata.namespace
    at_default = configs.at("defaultConfig", "openAIConfig")
    default = _lay_over(OpenAIConfig(), spec.configs.default_config, namespace, references, at_default)
    rule_configs = {
        name: _lay_over(
            default, config, namespace, references, configs.at("routeSpecificConfigs", name, "openAIConfig")
        )
        for name, config in spec.configs.route_specific_configs.items()
    }
    if without_credentials(spec.path) != spec.path:
        spot.at("path").warn("holds a key, which every page of a request shows: use apiKey or apiKeyFrom")
    selector = spec.workload_selector
    return Provider(
        name=document.metadata.qualified,
        host=normalise_host(spec.host),
        endpoint=_endpoint(spec, references, spot),
        path=spec.path,
        config=default,
        rule_configs=MappingProxyType(rule_configs),
        selector=MappingProxyType(dict(selector.labels)) if selector else None,
        outlier_detection=_outlier_detection(spec.outlier_detection, spot.at("outlierDetection")),
    )


def _outlier_detection(written: documents.OutlierDetection | None, spot: Spot) -> OutlierDetection | None:
    if written is None:
        return None
    if written.max_ejection_time < written.base_ejection_time:
        spot.at("maxEjectionTime").error("is shorter than baseEjectionTime: raise one or lower the other")
    return OutlierDetection(
        consecutive_errors=written.consecutive_5xx_errors,
        consecutive_rate_limits=written.consecutive_429_errors,
        interval_seconds=written.interval,
        base_ejection_seconds=written.base_ejection_time,
        max_ejection_seconds=written.max_ejection_time,
    )


def _endpoint(spec: documents.LLMProviderSpec, references: References, spot: Spot) -> Endpoint:
    written, tls = spec.endpoint, spec.endpoint.tls
    spot = spot.at("endpoint")
    provider_host = normalise_host(spec.host)
    host = bare_host(written.host) if written.host else provider_host
    if written.host and not host:
        message = f"{cut(str(written.host))!r} is no host or address: give it without scheme and port"
        spot.at("host").error(message)
    encrypted = tls.mode == "SIMPLE"
    if not encrypted and (tls.ca_file or tls.sni):
        spot.at("tls").warn("mode DISABLE sends plain HTTP: caFile and sni have no effect")
    default_port = 443 if encrypted else 80
    port = written.port or default_port
    # A name says what the provider is called there, an address only where it is.
    if written.host and not is_address(host):
        name, called = host, authority(host, port, default_port=default_port)
    else:
        name, called = provider_host, authority(provider_host, default_port, default_port=default_port)
    if encrypted and tls.sni:
        name = bare_host(tls.sni)
        if not name:
            spot.at("tls", "sni").error(f"{cut(tls.sni)!r} is no host name: give it without scheme and port")
    ca_pem = references.ca(tls.ca_file, spot.at("tls", "caFile")) if encrypted and tls.ca_file else None
    return Endpoint(host, port, called, encrypted, name if encrypted else "", ca_pem)


def _lay_over(
    under: OpenAIConfig, config: documents.Config, namespace: str, references: References, spot: Spot
) -> OpenAIConfig:
    """Compile `config` as laid over `under`, field by field."""
    written, result = config.open_ai_config, under
    if written.model is not None:
        result = replace(result, model=written.model)
    if written.stream is not None:
        result = replace(result, stream=written.stream)
    if written.model_mapping is not None:
        result = replace(result, model_mapping=MappingProxyType(dict(written.model_mapping)))
        if result.model is not None:
            spot.at("modelMapping").warn(f"has no effect: the model is always {result.model!r}")
    if written.parameters is not None:
        for name, remedy in _NOT_PARAMETERS.items():
            if name in written.parameters:
                spot.at("parameters", name).error(f"can't be set as a parameter: {remedy}")
        result = replace(result, parameters=MappingProxyType(dict(written.parameters)))
    if (key := _key(written, namespace, references, spot)) is not None:
        result = replace(result, key=key)
    return result


def _key(written: documents.OpenAIConfig, namespace: str, references: References, spot: Spot) -> Secret | None:
    if written.api_key is not None and written.api_key_from is not None:
        spot.at("apiKeyFrom").error("apiKey is given as well: keep one of them")
    elif written.api_key_from is not None:
        spot = spot.at("apiKeyFrom")
        return references.key(_reference(written.api_key_from, namespace, spot), spot)
    elif written.api_key is not None:
        spot = spot.at("apiKey")
        try:
            parsed = parse_api_key(written.api_key)
        except Unavailable as e:
            spot.error(str(e))
        else:
            if isinstance(parsed, FromEnvironment):
                return references.key(parsed, spot)
            spot.warn("is a literal: whoever can read the policy can read it; use ${NAME} or apiKeyFrom")
            return parsed
    return None


def _reference(written: documents.ApiKeyFrom, namespace: str, spot: Spot) -> KeyReference:
    if written.file is not None:
        return FromFile(spot.source.text.folder / written.file)
    if written.secret_key_ref is not None:
        return FromSecret(namespace, written.secret_key_ref.name, written.secret_key_ref.key)
    assert written.env is not None, "the document has exactly one of the three"
    return FromEnvironment(written.env)

"""What the rules of the definitions say, an API server says as compiling does."""

from typing import Any

import pytest
import yaml

from sidestream.policy.documents import API_GROUP
from sidestream.policy.problems import Severity
from tests.policy.definitions import faults, schema_of
from tests.policy.written import compiled, config, provider, route

HOST = "api.alpha.example"


def refused(document: str) -> list[str]:
    """Return what an API server has against a document."""
    content: dict[str, Any] = yaml.safe_load(document)
    return faults(schema_of(content["kind"]), content)


def compiles(document: str) -> bool:
    texts = [document] if "kind: LLMProvider\n" in document else [provider(f"host: {HOST}"), document]
    return compiled(*texts, environment={"A": "sk-1"}, missing_key=Severity.WARNING).snapshot is not None


def with_rule(text: str) -> str:
    return route(f"host: chat\nrules: [{text}]")


def with_condition(text: str) -> str:
    return with_rule(f"{{matches: [{{headers: {{user-type: {text}}}}}], backendRefs: [providerHost: {HOST}]}}")


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (with_condition("{exact: a, prefix: a}"), "exactly one of exact, prefix, regex, present must be given"),
        (with_condition("{}"), "exactly one of exact, prefix, regex, present must be given"),
        (with_condition("{regex: a, present: true}"), "exactly one of exact, prefix, regex, present must be given"),
        (config("apiKeyFrom: {}"), "exactly one of secretKeyRef, file, env must be given"),
        (config("apiKeyFrom: {env: A, file: b}"), "exactly one of secretKeyRef, file, env must be given"),
        (config("{apiKey: $K, apiKeyFrom: {env: K}}"), "apiKey and apiKeyFrom exclude each other"),
        (provider("host: https://a.example"), "a host is given without scheme, port and path"),
        (provider("host: a.example/v1"), "a host is given without scheme, port and path"),
        (provider("host: a.example:443"), "a host is given without scheme, port and path"),
        (
            provider("host: a.example\noutlierDetection: {baseEjectionTime: 6m}"),
            "maxEjectionTime is shorter than baseEjectionTime",
        ),
        (
            provider("host: a.example\noutlierDetection: {baseEjectionTime: 1m30s, maxEjectionTime: 89s}"),
            "maxEjectionTime is shorter than baseEjectionTime",
        ),
        (
            with_rule(f"backendRefs: [{{providerHost: {HOST}, weight: 1}}, {{providerHost: {HOST}}}]"),
            "give every backend a weight, or none",
        ),
        (
            with_rule(f"backendRefs: [{{providerHost: {HOST}, weight: 0}}]"),
            "all weights are 0, so none could ever be taken",
        ),
        (
            with_rule(f"backendRefs: [{{providerHost: {HOST}, backendRef: {{name: a, port: 80}}}}]"),
            "exactly one of providerHost, backendRef must be given",
        ),
        (with_rule("backendRefs: [{weight: 1}]"), "exactly one of providerHost, backendRef must be given"),
        (with_rule("backendRefs: [backendRef: {name: a}]"), "a Service is given with its port"),
        (
            with_rule(", ".join(f"{{name: a, backendRefs: [providerHost: {HOST}]}}" for _ in range(2))),
            "two rules have the same name",
        ),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_what_a_rule_refuses_does_not_compile_either(document, fault):
    found = refused(document)

    assert [one.partition(": ")[2] for one in found] == [fault]
    assert not compiles(document)


@pytest.mark.parametrize(
    "document",
    [
        *(with_condition(text) for text in ("{exact: ''}", "{prefix: a}", "{regex: a}", "{present: false}")),
        config("apiKeyFrom: {env: A}"),
        config("apiKeyFrom: {secretKeyRef: {name: a, key: b}}"),
        config("apiKey: sk-1"),
        provider("host: '[2001:db8::1]'"),
        provider("host: 2001:db8::1"),
        provider("host: a.example\noutlierDetection: {maxEjectionTime: 1h30m, baseEjectionTime: 1m}"),
        with_rule("backendRefs: [backendRef: {kind: Service, name: a, port: 80}]"),
        with_rule(f"backendRefs: [backendRef: {{group: {API_GROUP}, kind: LLMProvider, name: alpha}}]"),
        with_rule(f"backendRefs: [{{providerHost: {HOST}, weight: 0}}, {{providerHost: {HOST}, weight: 1}}]"),
        with_rule(
            f"{{name: a, backendRefs: [providerHost: {HOST}]}}, {{backendRefs: [providerHost: {HOST}]}}, "
            f"{{name: b, backendRefs: [providerHost: {HOST}]}}, {{backendRefs: [providerHost: {HOST}]}}"
        ),
    ],
)
def test_what_no_rule_refuses_is_accepted(document):
    assert refused(document) == []
    assert compiles(document)


@pytest.mark.parametrize("duration", ["100ms", "1m30s", "1.5h", "0.5s"])
def test_a_duration_is_one_for_both(duration):
    document = with_rule(f"{{timeouts: {{connect: {duration}}}, backendRefs: [providerHost: {HOST}]}}")

    assert refused(document) == []
    assert compiles(document)


@pytest.mark.parametrize("duration", ["100", "1d", "-1s", "'1 s'", "s", "''"])
def test_no_duration_is_one_for_neither(duration):
    document = with_rule(f"{{timeouts: {{connect: {duration}}}, backendRefs: [providerHost: {HOST}]}}")

    assert refused(document) != []
    assert not compiles(document)

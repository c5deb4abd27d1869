"""
A policy as plain values, for people: which hosts, by which rules, to which providers.

Keys are shown as present or absent, never as they are; problems of documents are not here.
"""

from sidestream.core.secret import CREDENTIAL_HEADERS, REDACTED
from sidestream.core.snapshot import Backend, Condition, OpenAIConfig, Provider, Route, Rule, Snapshot


def shown(snapshot: Snapshot) -> dict[str, object]:
    """Return `snapshot` for JSON."""
    hosts = {
        host: _route(policy) if isinstance(policy, Route) else _provider(policy, policy.config)
        for host, policy in sorted(snapshot.hosts.items())
    }
    return {"revision": snapshot.revision, "hosts": hosts}


def _route(route: Route) -> dict[str, object]:
    return {"route": route.name, "rules": [_rule(rule) for rule in route.rules]}


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "matches": [[_condition(condition) for condition in match] for match in rule.matches],
        "backends": [_backend(backend) for backend in rule.backends],
    }


def _condition(condition: Condition) -> str:
    # A rule may ask for the key of a client.
    is_secret = condition.subject == "header" and condition.name in CREDENTIAL_HEADERS and condition.kind != "present"
    expected = REDACTED if is_secret else condition.expected
    return f"{condition.subject} {condition.name} {condition.kind} {expected}".replace("  ", " ")


def _backend(backend: Backend) -> dict[str, object]:
    return {"weight": backend.weight, "priority": backend.priority} | _provider(backend.provider, backend.config)


def _provider(provider: Provider, config: OpenAIConfig) -> dict[str, object]:
    endpoint = provider.endpoint
    return {
        "provider": provider.name,
        "host": provider.host,
        "endpoint": f"{'https' if endpoint.tls else 'http'}://{endpoint.host}:{endpoint.port}{provider.path}",
        "model": config.model,
        "model_mapping": dict(config.model_mapping),
        "stream": config.stream,
        "parameters": dict(config.parameters),
        "key": REDACTED if config.key is not None else None,
    }

"""
Closed sets for labels.

A client can write any model, host or path. A time series is never given back, so a label may
only have values that the policy, or this code, names; all others are `OTHER`.
"""

from collections.abc import Callable
from http import HTTPStatus

from sidestream.core.snapshot import OpenAIConfig, Provider, Snapshot

NONE = "none"
"""The value of a label that does not apply."""
OTHER = "other"
"""The value that stands for all that nobody named."""
MAX_RESPONSE_MODELS = 100
"""How many models that only providers name are told apart: dated names of the policy's."""

_STATUSES = frozenset(status.value for status in HTTPStatus)


class Models:
    """The models that labels may name: the policy's, and a few that providers say they answered with."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._of: Snapshot | None = None
        self._named: frozenset[str] = frozenset()
        self._answered: set[str] = set()

    def named(self, model: str | None) -> str:
        """Return `model` as a label, if the policy names it."""
        if model is None:
            return NONE
        snapshot = self._snapshot()
        if snapshot is not self._of:
            self._of, self._named = snapshot, models_of(snapshot)
        return model if model in self._named else OTHER

    def answered(self, model: str | None, sent: str | None) -> str:
        """Return `model`, which a provider answered with when it was `sent` another, as a label."""
        if model is None:
            return NONE
        named = self.named(model)
        if named != OTHER or self.named(sent) in (OTHER, NONE):
            return named  # a provider repeats what it was sent, and that may be anything
        if len(self._answered) < MAX_RESPONSE_MODELS:
            self._answered.add(model)
        return model if model in self._answered else OTHER


def providers_of(snapshot: Snapshot) -> dict[str, Provider]:
    """Return all providers that `snapshot` names, by name."""
    providers: list[Provider] = []
    for policy in snapshot.hosts.values():
        if isinstance(policy, Provider):
            providers.append(policy)
        else:
            providers += [backend.provider for rule in policy.rules for backend in rule.backends]
    return {provider.name: provider for provider in providers}


def models_of(snapshot: Snapshot) -> frozenset[str]:
    """Return all models that `snapshot` names."""
    configs: list[OpenAIConfig] = []
    for policy in snapshot.hosts.values():
        if isinstance(policy, Provider):
            configs += [policy.config, *policy.rule_configs.values()]
        else:
            configs += [backend.config for rule in policy.rules for backend in rule.backends]
    models = {config.model for config in configs if config.model}
    for config in configs:
        models.update(config.model_mapping.values())
        models.update(name for name in config.model_mapping if name != "*")
    return frozenset(models)


def status_of(status: int | None) -> str:
    """Return an HTTP status as a label."""
    if status is None:
        return NONE
    return str(status) if status in _STATUSES else OTHER


def error_of(error: str | None, status: int | None) -> str:
    """Return what went wrong as OpenTelemetry's `error.type`: a word, or the status; ``""``: nothing."""
    if error is not None:
        return error
    return status_of(status) if status is not None and status >= HTTPStatus.BAD_REQUEST else ""

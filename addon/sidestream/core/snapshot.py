"""
The policy as the data plane reads it: compiled, frozen, complete.

A snapshot is taken once per request and kept with it, so a reload never changes a request
in flight. Everything that documents leave to be looked up (which provider a backend names,
which config a rule gives it) is already looked up here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from sidestream.core.secret import Secret

type Labels = Mapping[str, str]
"""A workload's labels: name → value."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    Where a provider's bytes go.

    `authority` is the Host header. With `tls`, the certificate must be valid for
    `server_name` and come from `ca_pem` (PEM text), or from the system's CAs when that is ``None``.
    """

    host: str
    port: int
    authority: str
    tls: bool = True
    server_name: str = ""
    ca_pem: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """What is written into a request. `parameters`: body field → value; ``None`` removes the field."""

    model: str | None = None
    stream: bool | None = None
    key: Secret | None = None
    model_mapping: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """
    When a provider that fails is left alone, and for how long (Istio's words; times in seconds).

    `consecutive_rate_limits`: answers 429 in a row that eject; ``None``: 429 never does. The nth ejection lasts
    n times `base_ejection_seconds`, or as long as the provider's Retry-After says, at most `max_ejection_seconds`. Each
    `interval_seconds` without one takes one off n.
    """

    consecutive_errors: int = 5
    consecutive_rate_limits: int | None = None
    interval_seconds: float = 10.0
    base_ejection_seconds: float = 30.0
    max_ejection_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as compiled. `name`: namespace/name of its LLMProvider; `rule_configs`: rule name → config."""

    name: str
    host: str
    endpoint: Endpoint
    path: str
    config: OpenAIConfig
    rule_configs: Mapping[str, OpenAIConfig] = field(default_factory=dict)
    selector: Labels | None = None
    outlier_detection: OutlierDetection | None = None

    def config_for(self, rule_name: str | None) -> OpenAIConfig:
        """Return the config for requests that come by the rule `rule_name`."""
        return self.rule_configs.get(rule_name, self.config) if rule_name else self.config

    def selects(self, labels: Labels) -> bool:
        """Tell whether this provider is for the workload that has `labels`."""
        return self.selector is None or all(labels.get(name) == value for name, value in self.selector.items())


type Subject = Literal["header", "sourceLabel", "model"]
"""What a condition looks at."""


@dataclass(frozen=True, slots=True)
class Condition:
    """
    One condition of a match. `test` takes the value that the request has, ``None`` for absent.

    `subject` and `name` say which: a header (lower case) or label by name, or the body's model.
    """

    subject: Subject
    name: str
    kind: Literal["exact", "prefix", "regex", "present"]
    expected: str
    test: Callable[[str | None], bool] = field(compare=False, repr=False)


type Match = tuple[Condition, ...]
"""Conditions that must all hold."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One weighted target of a rule (a `backendRef`); `weight` counts shares, not percent."""

    provider: Provider
    config: OpenAIConfig
    weight: int = 1
    priority: int = 0


type FailureKind = Literal["connect-failure", "reset", "timeout", "rate-limited", "server-error", "stream-error"]
"""How an attempt can fail: what `retry.on` lists."""


@dataclass(frozen=True, slots=True)
class Retry:
    """
    When and how often a failed attempt is followed by another.

    `attempts`: how many more may follow the first. `on`: failures that are followed by one; empty: all.
    """

    attempts: int
    on: tuple[FailureKind, ...] = ()
    backoff_base_seconds: float = 0.1
    backoff_max_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """
    How long each part of an exchange may take, in seconds.

    `connect`: TCP and TLS of one attempt. `first_byte`: from there to the head of its answer, and the first event
    of a stream. `stream_idle`: between any two bytes after that. `request`: all attempts together.
    The defaults only end what will never end: a model may think for minutes before its first word.
    """

    connect_seconds: float = 5.0
    first_byte_seconds: float = 600.0
    stream_idle_seconds: float = 600.0
    request_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. It matches when one of `matches` does, or always when there are none."""

    name: str | None
    matches: tuple[Match, ...]
    backends: tuple[Backend, ...]
    retry: Retry | None = None
    timeouts: Timeouts = Timeouts()
    hash_on_header: str | None = None

    def first_tier(self) -> tuple[Backend, ...]:
        """Return the backends of the lowest priority number at which one has a weight."""
        # For a workload, a tier may have lost the only one that had.
        counting = [backend for backend in self.backends if backend.weight] or self.backends
        lowest = min((backend.priority for backend in counting), default=0)
        return tuple(backend for backend in self.backends if backend.priority == lowest)


@dataclass(frozen=True, slots=True)
class Route:
    """A route: the whole answer for its host. `name`: namespace/name of its LLMRoute."""

    name: str
    host: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A whole policy. `hosts`: normalised host → what governs it, a route before a provider.

    `revision` is the same for the same documents, whatever their order.
    """

    revision: str
    hosts: Mapping[str, Route | Provider]

    def governs(self, host: str) -> bool:
        """Tell whether a policy names the normalised `host`."""
        return host in self.hosts

    def for_workload(self, labels: Labels) -> "Snapshot":
        """
        Return what of this policy is for the workload that has `labels`.

        A backend whose provider does not select the workload does not count; a route none of
        whose backends count is not for this workload.
        """
        narrowed = {host: entry for host, policy in self.hosts.items() if (entry := _narrow(policy, labels))}
        return replace(self, hosts=MappingProxyType(narrowed))


EMPTY = Snapshot(revision="none", hosts=MappingProxyType({}))
"""The policy that names nothing."""


def _narrow(policy: Route | Provider, labels: Labels) -> Route | Provider | None:
    if isinstance(policy, Provider):
        return policy if policy.selects(labels) else None
    rules = tuple(
        replace(rule, backends=tuple(backend for backend in rule.backends if backend.provider.selects(labels)))
        for rule in policy.rules
    )
    return replace(policy, rules=rules) if any(rule.backends for rule in rules) else None

"""
The documents: `LLMProvider` and `LLMRoute`, field for field.

Names are those of Alibaba Cloud Service Mesh, so that its manifests work unchanged; unknown
fields are refused. Fields that are Sidestream's own say so. The CRDs are made from these
classes, so a field's description is its public documentation.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from sidestream.policy import cel

API_GROUP = "istio.alibabacloud.com"
API_VERSION = f"{API_GROUP}/v1beta1"

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: object) -> object:
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        message = "a duration is a number and a unit (ms, s, m, h), like 100ms or 1m30s"
        raise ValueError(message)
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if seconds <= 0:
        message = "a duration is longer than nothing"
        raise ValueError(message)
    return seconds


def _json(value: object) -> object:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, float) and not math.isfinite(part):
            message = f"holds {part}, which JSON cannot express"
            raise ValueError(message)
        if isinstance(part, dict):
            if not all(isinstance(name, str) for name in part):
                message = "holds a key that is no text: put it in quotes"
                raise ValueError(message)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return value


Duration = Annotated[
    float,
    BeforeValidator(_seconds, json_schema_input_type=str),
    Field(
        description="A duration: a number and a unit (ms, s, m, h).",
        json_schema_extra={"pattern": f"^{_DURATION.pattern}$", **cel.at_most(length=cel.MAX_DURATION_LENGTH)},
    ),
]
# Not pydantic's JsonValue: that puts the types it tried into the place of a problem.
Json = Annotated[Any, AfterValidator(_json)]
Port = Annotated[int, Field(ge=1, le=65535)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
Target = Annotated[str, Field(pattern=r"^/[!-~]*$")]
NonEmpty = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """What all parts of a document share: camelCase, exact types, no unknown fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class Metadata(Strict):
    """The metadata of a Kubernetes object, as far as it matters here."""

    model_config = ConfigDict(extra="ignore")

    name: NonEmpty
    namespace: NonEmpty = "default"

    @property
    def qualified(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"


class WorkloadSelector(Strict):
    """Which workloads a provider is for."""

    labels: dict[str, str] = Field(description="Labels that a workload must all have.")


class EndpointTls(Strict):
    """How an endpoint is spoken to."""

    mode: Literal["SIMPLE", "DISABLE"] = Field("SIMPLE", description="SIMPLE: verified TLS. DISABLE: plain HTTP.")
    ca_file: NonEmpty | None = Field(
        None, description="PEM file with the CAs to trust instead of the system's; relative to the document."
    )
    sni: NonEmpty | None = Field(None, description="Name to ask for and to verify; default: the endpoint's host name.")


class Endpoint(Strict):
    """Where the bytes for a provider go (a field of Sidestream)."""

    host: NonEmpty | None = Field(None, description="Host name or address; default: the provider's host.")
    port: Port | None = Field(None, description="Port; default: 443, or 80 without TLS.")
    tls: EndpointTls = EndpointTls()


class SecretKeyRef(Strict):
    """A key of a Kubernetes Secret in the document's namespace."""

    name: NonEmpty = Field(description="The Secret's name.")
    key: NonEmpty = Field(description="The key of it that holds the API key.")


class ApiKeyFrom(Strict):
    """Where an API key comes from: exactly one of the fields (a field of Sidestream)."""

    model_config = ConfigDict(json_schema_extra=cel.exactly_one("secretKeyRef", "file", "env"))

    secret_key_ref: SecretKeyRef | None = Field(None, description="A key of a Kubernetes Secret.")
    file: NonEmpty | None = Field(None, description="A file, read again when it changes; relative to the document.")
    env: NonEmpty | None = Field(None, description="An environment variable.")

    @model_validator(mode="after")
    def _one(self) -> "ApiKeyFrom":
        _exactly_one(secretKeyRef=self.secret_key_ref, file=self.file, env=self.env)
        return self


class OpenAIConfig(Strict):
    """What is written into requests to the provider."""

    model_config = ConfigDict(json_schema_extra=cel.ONE_KEY)

    model: NonEmpty | None = Field(None, description="Model to use, whatever the client asks for.")
    stream: bool | None = Field(None, description="Whether to stream, whatever the client asks for.")
    # A literal key must not show where a document is printed, dumped or hashed.
    api_key: NonEmpty | None = Field(
        None,
        repr=False,
        exclude=True,
        description="API key: ${NAME} takes it from the environment; a literal works but is not wise.",
    )
    api_key_from: ApiKeyFrom | None = Field(None, description="Where the API key comes from.")
    model_mapping: dict[str, NonEmpty] | None = Field(
        None, description="Client's model to provider's model; '*' stands for any other. Counts only without `model`."
    )
    parameters: dict[str, Json] | None = Field(None, description="Body fields to set or replace; null removes a field.")


class Config(Strict):
    """A configuration, in the format that it is for."""

    open_ai_config: OpenAIConfig = Field(OpenAIConfig(), alias="openAIConfig")


class Configs(Strict):
    """The default configuration, and those of single rules."""

    default_config: Config = Config()
    route_specific_configs: dict[str, Config] = Field(
        default_factory=dict,
        description="Rule name to configuration, laid over the default field by field.",
        json_schema_extra=cel.at_most(properties=512),
    )


class OutlierDetection(Strict):
    """When a provider that fails is left alone (Istio's words; Sidestream's own for providers)."""

    model_config = ConfigDict(json_schema_extra=cel.EJECTIONS)

    consecutive_5xx_errors: Annotated[int, Field(ge=1, le=1000)] = Field(
        5,
        alias="consecutive5xxErrors",
        description="Failures in a row that eject it: 5xx, timeouts, broken connections and streams.",
    )
    consecutive_429_errors: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, alias="consecutive429Errors", description="Answers 429 in a row that eject it; absent: they never do."
    )
    interval: Annotated[Duration, Field(description="Each one that passes without an ejection forgets one.")] = 10.0
    base_ejection_time: Annotated[
        Duration, Field(description="The nth ejection lasts n times this, or as long as Retry-After says.")
    ] = 30.0
    max_ejection_time: Annotated[Duration, Field(description="No ejection lasts longer.")] = 300.0


class LLMProviderSpec(Strict):
    """A provider of models, and how to use it."""

    host: NonEmpty = Field(
        description="The host that apps call; unique among providers.", json_schema_extra=cel.BARE_HOST
    )
    path: Target = Field("/v1/chat/completions", description="The provider's path of the chat operation.")
    workload_selector: WorkloadSelector | None = Field(None, description="Workloads it is for; absent: all.")
    endpoint: Endpoint = Endpoint()
    configs: Configs = Configs()
    outlier_detection: OutlierDetection | None = Field(
        None, description="When it is left alone because it fails; absent: never (Sidestream's own)."
    )


class StringMatch(Strict):
    """A condition on a text: exactly one of the fields."""

    model_config = ConfigDict(json_schema_extra=cel.exactly_one("exact", "prefix", "regex", "present"))

    exact: str | None = Field(None, description="The whole value, character by character.")
    prefix: NonEmpty | None = Field(None, description="The start of the value.")
    regex: NonEmpty | None = Field(None, description="An RE2 expression for the whole value.")
    present: bool | None = Field(None, description="true: there is a value; false: there is none (Sidestream's own).")

    @model_validator(mode="after")
    def _one(self) -> "StringMatch":
        _exactly_one(exact=self.exact, prefix=self.prefix, regex=self.regex, present=self.present)
        return self


class RouteMatch(Strict):
    """Conditions that must all hold."""

    headers: dict[HeaderName, StringMatch] = Field(
        default_factory=dict, description="Header name to condition.", json_schema_extra=cel.at_most(properties=16)
    )
    source_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that the calling workload must have."
    )
    model: StringMatch | None = Field(None, description="Condition on the body's model (Sidestream's own).")


class BackendObject(Strict):
    """An object in the cluster: an LLMProvider, or a Service that speaks OpenAI's API in plain HTTP."""

    model_config = ConfigDict(json_schema_extra=cel.SERVICE_PORT)

    group: str = Field("", description="API group of the kind; that of Service is empty.")
    kind: NonEmpty = Field("Service", description="Service or LLMProvider.", json_schema_extra=cel.at_most(length=63))
    name: NonEmpty = Field(description="Its name.")
    namespace: NonEmpty | None = Field(None, description="Its namespace; default: the route's.")
    port: Port | None = Field(None, description="The Service's port.")


class BackendRef(Strict):
    """One weighted target: exactly one of `providerHost` and `backendRef`."""

    model_config = ConfigDict(json_schema_extra=cel.exactly_one("providerHost", "backendRef"))

    provider_host: NonEmpty | None = Field(None, description="The host of an LLMProvider.")
    backend_ref: BackendObject | None = Field(None, description="An object in the cluster.")
    weight: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Share of the requests, relative to the sum; 0: none. All absent: equal shares."
    )
    priority: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Tier; a higher number is used only when every lower tier failed (Sidestream's own)."
    )

    @model_validator(mode="after")
    def _one(self) -> "BackendRef":
        _exactly_one(providerHost=self.provider_host, backendRef=self.backend_ref)
        return self


class Backoff(Strict):
    """The pause before a retry."""

    base: Annotated[
        Duration, Field(description="The longest first pause (a part of it is drawn); doubled for each one after.")
    ] = 0.1
    max: Annotated[Duration, Field(description="No pause is longer.")] = 2.0


RetryOn = Literal["connect-failure", "reset", "timeout", "rate-limited", "server-error", "stream-error"]


class Retry(Strict):
    """When a failed attempt is followed by another (Sidestream's own)."""

    attempts: Annotated[int, Field(ge=0, le=10)] = Field(description="How many more attempts may follow the first.")
    on: list[RetryOn] | None = Field(None, description="Failures that are retried; absent: all of them.")
    backoff: Backoff = Backoff()


class Timeouts(Strict):
    """How long the parts of an exchange may take (Sidestream's own)."""

    connect: Annotated[Duration, Field(description="Until an attempt has its connection, TLS included.")] = 5.0
    first_byte: Annotated[
        Duration, Field(description="From there to the answer's head, and to the first event of a stream.")
    ] = 600.0
    stream_idle: Annotated[Duration, Field(description="Between any two pieces of an answer after that.")] = 600.0
    request: Annotated[Duration, Field(description="All attempts of an exchange together.")] = 3600.0


class HashOn(Strict):
    """What keeps a client with its backend (Sidestream's own)."""

    header: HeaderName = Field(description="Requests with the same value of this header get the same backend.")


class Rule(Strict):
    """A rule: when it matches, one of its backends gets the request."""

    name: NonEmpty | None = Field(
        None,
        description="What providers' configurations and records call it.",
        json_schema_extra=cel.at_most(length=cel.MAX_HOST_LENGTH),
    )
    matches: list[RouteMatch] = Field(
        default_factory=list,
        description="Blocks of which one must hold; none: always.",
        json_schema_extra=cel.at_most(items=64),
    )
    backend_refs: Annotated[list[BackendRef], Field(min_length=1)] = Field(
        description="Of these, one gets the request: by priority, then by weight.", json_schema_extra=cel.WEIGHTS
    )
    retry: Retry | None = None
    timeouts: Timeouts | None = None
    hash_on: HashOn | None = None


class LLMRouteSpec(Strict):
    """Which requests for a host go to which providers."""

    host: NonEmpty = Field(
        description="A provider's host, or a virtual name that only this route gives meaning.",
        json_schema_extra=cel.BARE_HOST,
    )
    gateways: list[str] | None = Field(None, description="Where the route applies; only `mesh` does so here.")
    rules: Annotated[list[Rule], Field(min_length=1)] = Field(
        description="The first rule that matches wins.", json_schema_extra=cel.RULES
    )


class Document(Strict):
    """What both kinds share."""

    api_version: Literal["istio.alibabacloud.com/v1beta1"]
    metadata: Metadata
    status: dict[str, Any] | None = None


class LLMProvider(Document):
    """A provider of models: the host that apps call, and what is made of their requests."""

    kind: Literal["LLMProvider"]
    spec: LLMProviderSpec


class LLMRoute(Document):
    """Rules that send the requests for a host to providers."""

    kind: Literal["LLMRoute"]
    spec: LLMRouteSpec


KINDS: dict[str, type[LLMProvider | LLMRoute]] = {"LLMProvider": LLMProvider, "LLMRoute": LLMRoute}


def _exactly_one(**fields: object) -> None:
    given = [name for name, value in fields.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        message = f"exactly one of {', '.join(fields)} must be given, found {found}"
        raise ValueError(message)

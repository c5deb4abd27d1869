"""
The plan: the request as the chosen provider will get it.

Nothing here touches the request that came in; a plan says what the outgoing one is. The
key is part of it as a `Secret`, to be revealed only where the wire bytes are made.
"""

from dataclasses import dataclass, field

from sidestream.core.body import Body, write_object
from sidestream.core.errors import ClientError
from sidestream.core.operations import CHAT, OTHER, Operation, base_of, operation_of
from sidestream.core.routing import Forward, Reject, RequestView
from sidestream.core.secret import CREDENTIAL_HEADERS, Secret
from sidestream.core.snapshot import Endpoint, OpenAIConfig
from sidestream.core.tracing import TRACEPARENT, TRACESTATE, SpanContext

ASKED = ("max_tokens", "max_completion_tokens", "temperature", "top_p")
"""Fields of a chat body that a trace tells: how much of an answer was asked for, and how free it was to be."""

_CREDENTIALS_AND_STATE = CREDENTIAL_HEADERS | {TRACESTATE}


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One request to one provider.

    `target`: path and query. `set_headers`: name → value, replacing; `remove_headers`: lower-case
    names. `body`: ``None`` leaves the client's bytes as they are (they are not ours to read). `key` becomes the header
    ``Authorization: Bearer …``; without it no credential is sent.
    """

    endpoint: Endpoint
    target: str
    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: frozenset[str] = frozenset()
    body: bytes | None = field(default=None, repr=False)
    key: Secret | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What will be done for a forwarded request, and what the record says of it.

    `adds_usage`: a stream is asked to end with an event that tells its usage, which the client did not ask for.
    `asked`: numbers of the body that say how to answer. `span`: the attempt's, which the provider is told.
    """

    operation: Operation
    attempt: Attempt
    request_model: str | None
    sent_model: str | None
    stream: bool
    adds_usage: bool = False
    asked: tuple[tuple[str, float], ...] = ()
    span: SpanContext | None = None


def plan(forward: Forward, request: RequestView, span: SpanContext | None = None) -> Plan | Reject:
    """
    Plan `request` as `forward` decided, or reject a chat call whose body is none.

    `span`: of the attempt. The provider is told it, and not the client's.
    """
    backend = forward.backend
    provider, config = backend.provider, backend.config
    operation = operation_of(request.method, request.target, base_of(provider.path))
    endpoint, model = provider.endpoint, request.model
    told, removed = _told(span)
    always = (("host", endpoint.authority), *told)
    if operation is OTHER:
        attempt = Attempt(endpoint, request.target, always, removed)
        return Plan(operation, attempt, model, model, stream=False, span=span)
    always = (*always, ("accept-encoding", "identity"))
    if operation is not CHAT:
        attempt = Attempt(endpoint, _target(provider.path, operation), always, removed, key=config.key)
        return Plan(operation, attempt, model, model, stream=_is_true(request.body, "stream"), span=span)

    if request.body is None or "messages" not in request.body:
        return _refuse(forward, "the body of a chat call is a JSON object with `messages`")
    body = chat_body(request.body, config)
    adds_usage = _ask_for_usage(body, config)
    try:
        raw = write_object(body)  # always: of a field that stands twice, a provider could read the other one
    except ValueError:
        return _refuse(forward, "the body holds a number that JSON cannot express")
    attempt = Attempt(
        endpoint,
        provider.path,
        (*always, ("content-type", "application/json")),
        removed,
        raw,
        config.key,
    )
    sent_model = body.get("model")
    sent_model = sent_model if isinstance(sent_model, str) else None
    return Plan(operation, attempt, model, sent_model, _is_true(body, "stream"), adds_usage, _asked(body), span)


def _told(span: SpanContext | None) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    """Return the headers that tell of `span`, and those to take out."""
    if span is None:
        return (), CREDENTIAL_HEADERS
    if span.state:
        return ((TRACEPARENT, span.traceparent), (TRACESTATE, span.state)), CREDENTIAL_HEADERS
    return ((TRACEPARENT, span.traceparent),), _CREDENTIALS_AND_STATE


def chat_body(body: Body, config: OpenAIConfig) -> Body:
    """
    Return the chat `body` as `config` wants it.

    A model or stream that the policy names wins over the client's: a route's tier would mean
    nothing if a client could pick around it. So `model_mapping` counts only without a `model`.
    """
    changed = dict(body)
    if config.model is not None:
        changed["model"] = config.model
    elif (mapped := _mapped(body.get("model"), config)) is not None:
        changed["model"] = mapped
    if config.stream is not None:
        changed["stream"] = config.stream
    for name, value in config.parameters.items():
        if value is None:
            changed.pop(name, None)
        else:
            changed[name] = value
    if config.stream is False:
        changed.pop("stream_options", None)  # providers refuse it without a stream
    return changed


def _ask_for_usage(body: Body, config: OpenAIConfig) -> bool:
    """Let a stream tell its usage, unless a policy's `parameters` forbid it; tell whether nobody had asked for it."""
    options = body.get("stream_options")
    if not _is_true(body, "stream") or "stream_options" in config.parameters:
        return False
    if options is not None and (not isinstance(options, dict) or options.get("include_usage") is True):
        return False
    body["stream_options"] = {**(options or {}), "include_usage": True}
    return True


def _mapped(model: object, config: OpenAIConfig) -> str | None:
    if isinstance(model, str) and model in config.model_mapping:
        return config.model_mapping[model]
    return config.model_mapping.get("*")


def _target(path: str, operation: Operation) -> str:
    """Return where `operation` lives beside the chat `path`, with the query of both."""
    below, _, own_query = operation.path.partition("?")
    queries = [query for query in (path.partition("?")[2], own_query) if query]
    return base_of(path) + below + ("?" + "&".join(queries) if queries else "")


def _asked(body: Body) -> tuple[tuple[str, float], ...]:
    """Return what the body asks for in numbers; those that are out of any use are left out."""
    named = ((name, body.get(name)) for name in ASKED)
    return tuple(
        (name, value)
        for name, value in named
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31
    )


def _is_true(body: Body | None, name: str) -> bool:
    return body is not None and body.get(name) is True


def _refuse(forward: Forward, message: str) -> Reject:
    return Reject(ClientError(400, "invalid_chat_body", message, "messages"), forward.route, forward.rule)

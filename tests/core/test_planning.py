import copy
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestream.core.planning import Attempt, Plan, chat_body, plan
from sidestream.core.routing import Forward, Reject
from sidestream.core.secret import CREDENTIAL_HEADERS, Secret
from sidestream.core.snapshot import Endpoint
from tests.core.builders import (
    CREDENTIALS,
    DASHSCOPE,
    KEY,
    MESSAGES,
    backends,
    chat_bodies,
    configs,
    json_objects,
    make_backend,
    make_config,
    make_provider,
    make_request,
    make_route,
    make_rule,
    planned,
    requests,
)

CHAT_PATH = "/compatible-mode/v1/chat/completions"


def sent(body, **config):
    """Return the chat body that is sent for the client's `body` under a config of `config`."""
    return json.loads(planned(make_request(body={"messages": MESSAGES} | body), **config).attempt.body)


def without_messages(body):
    return {name: value for name, value in body.items() if name != "messages"}


ASKED = {"stream_options": {"include_usage": True}}
"""What a stream is asked for, so that its usage is known."""


# --- model, stream, mapping, parameters -----------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "body", "expected"),
    [
        ({}, {}, {}),
        ({}, {"model": "gpt-4o", "stream": True}, {"model": "gpt-4o", "stream": True} | ASKED),
        ({"model": "qwen-max"}, {}, {"model": "qwen-max"}),
        ({"model": "qwen-max"}, {"model": "gpt-4o"}, {"model": "qwen-max"}),
        ({"model": "qwen-max"}, {"model": ["gpt-4o"]}, {"model": "qwen-max"}),
        ({"stream": True}, {}, {"stream": True} | ASKED),
        ({"stream": True}, {"stream": False}, {"stream": True} | ASKED),
        ({"stream": False}, {"stream": True}, {"stream": False}),
        ({"stream": False}, {}, {"stream": False}),
        ({"stream": False}, {"stream": "yes"}, {"stream": False}),
        ({"stream": False}, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": False}),
        ({"stream": False, "parameters": {"stream_options": {}}}, {}, {"stream": False}),
        (
            {"stream": True},
            {"stream_options": {"a": 1}},
            {"stream": True, "stream_options": {"a": 1, "include_usage": True}},
        ),
        ({}, {"stream": False, "stream_options": {"a": 1}}, {"stream": False, "stream_options": {"a": 1}}),
    ],
)
def test_the_policy_wins_where_it_names_a_value(config, body, expected):
    assert without_messages(sent(body, **config)) == expected


@pytest.mark.parametrize(
    ("mapping", "config", "body", "model"),
    [
        ({"gpt-4o": "qwen-max"}, {}, {"model": "gpt-4o"}, "qwen-max"),
        ({"gpt-4o": "qwen-max"}, {}, {"model": "gpt-4o-mini"}, "gpt-4o-mini"),
        ({"gpt-4o": "qwen-max", "*": "qwen-turbo"}, {}, {"model": "gpt-4o"}, "qwen-max"),
        ({"gpt-4o": "qwen-max", "*": "qwen-turbo"}, {}, {"model": "other"}, "qwen-turbo"),
        ({"*": "qwen-turbo"}, {}, {}, "qwen-turbo"),
        ({"*": "qwen-turbo"}, {}, {"model": 4}, "qwen-turbo"),
        ({"*": "qwen-turbo"}, {}, {"model": ["gpt-4o"]}, "qwen-turbo"),
        ({"*": "qwen-turbo"}, {}, {"model": "*"}, "qwen-turbo"),
        ({"gpt-4o": "qwen-max"}, {}, {}, None),
        ({"gpt-4o": "qwen-max"}, {"model": "qwen-long"}, {"model": "gpt-4o"}, "qwen-long"),
        ({"a": "b", "b": "c"}, {}, {"model": "a"}, "b"),
    ],
)
def test_a_model_is_mapped_where_the_policy_names_none(mapping, config, body, model):
    assert sent(body, model_mapping=mapping, **config).get("model") == model


@pytest.mark.parametrize(
    ("parameters", "body", "expected"),
    [
        ({"temperature": 0.2}, {}, {"temperature": 0.2}),
        ({"temperature": 0.2}, {"temperature": 1}, {"temperature": 0.2}),
        ({"temperature": None}, {"temperature": 1}, {}),
        ({"temperature": None}, {}, {}),
        ({"temperature": 0}, {"temperature": 1}, {"temperature": 0}),
        ({"seed": False}, {"seed": 1}, {"seed": False}),
        ({"extra": {"a": [1, None]}}, {"extra": {"b": 2}}, {"extra": {"a": [1, None]}}),
    ],
)
def test_parameters_are_set_replaced_or_removed(parameters, body, expected):
    assert without_messages(sent(body, parameters=parameters)) == expected


def test_what_nobody_names_stays_in_its_order():
    body = {"tools": [{"type": "function"}], "messages": MESSAGES, "model": "gpt-4o", "n": 2, "x-unknown": None}

    raw = planned(make_request(body=body), model="qwen-max").attempt.body

    assert raw == json.dumps(body | {"model": "qwen-max"}, ensure_ascii=False, separators=(",", ":")).encode()


# --- usage of a stream ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "body", "options", "is_added"),
    [
        ({}, {"stream": True}, {"include_usage": True}, True),
        ({}, {"stream": True, "stream_options": None}, {"include_usage": True}, True),
        ({}, {"stream": True, "stream_options": {}}, {"include_usage": True}, True),
        ({}, {"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}, True),
        ({}, {"stream": True, "stream_options": {"include_usage": 1}}, {"include_usage": True}, True),
        ({}, {"stream": True, "stream_options": {"x": 1}}, {"x": 1, "include_usage": True}, True),
        ({}, {"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, False),
        ({}, {"stream": True, "stream_options": "all"}, "all", False),
        ({}, {"stream": True, "stream_options": []}, [], False),
        ({}, {}, None, False),
        ({}, {"stream": False}, None, False),
        ({}, {"stream": "true"}, None, False),
        ({"stream": True}, {}, {"include_usage": True}, True),
        ({"stream": False}, {"stream": True}, None, False),
        ({"parameters": {"stream_options": None}}, {"stream": True}, None, False),
        ({"parameters": {"stream_options": {}}}, {"stream": True}, {}, False),
        ({"parameters": {"stream_options": {"include_usage": True}}}, {"stream": True}, {"include_usage": True}, False),
        (
            {"parameters": {"stream_options": {"include_usage": False}}},
            {"stream": True, "stream_options": {"include_usage": True}},
            {"include_usage": False},
            False,
        ),
    ],
)
def test_a_stream_is_asked_for_its_usage_unless_somebody_has_said_so(config, body, options, is_added):
    made = planned(make_request(body={"messages": MESSAGES} | body), **config)

    assert json.loads(made.attempt.body).get("stream_options") == options
    assert made.adds_usage is is_added


def test_asking_for_usage_leaves_the_clients_own_options_alone():
    options = {"x": 1}

    planned(make_request(body={"messages": MESSAGES, "stream": True, "stream_options": options}))

    assert options == {"x": 1}


@pytest.mark.parametrize("target", ["/v1/embeddings", "/v1/completions", "/v1/responses", "/health"])
def test_only_a_chat_is_asked_for_its_usage(target):
    made = planned(make_request(target=target, body={"stream": True, "input": "hi"}))

    assert (made.adds_usage, made.attempt.body) == (False, None)


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize(
    "target", ["/", "/v1/chat/completions", "/v1/embeddings", "/models/x", "/health", "/models/.."]
)
def test_a_clients_credentials_are_always_removed(target, key):
    attempt = planned(make_request(target=target, headers=CREDENTIALS), key=key).attempt

    assert attempt.remove_headers >= {"authorization", "api-key", "x-api-key", "proxy-authorization"}
    assert not attempt.remove_headers & {name for name, _ in attempt.set_headers}


@pytest.mark.parametrize(
    ("method", "target", "with_key"),
    [
        ("POST", "/", True),
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/embeddings", True),
        ("GET", "/v1/models", True),
        ("GET", "/", False),
        ("GET", "/v1/chat/completions", False),
        ("POST", "/v1/files", False),
        ("GET", "/v1/models/../admin", False),
        ("GET", "/v1/models/%2e%2e/admin", False),
        ("POST", "/health", False),
    ],
)
def test_only_openai_operations_get_the_key(method, target, with_key):
    attempt = planned(make_request(method=method, target=target)).attempt

    assert attempt.key == (Secret(KEY) if with_key else None)


@pytest.mark.parametrize("target", ["/", "/v1/embeddings", "/health"])
def test_without_a_key_no_credential_is_sent(target):
    assert planned(make_request(target=target, headers=CREDENTIALS), key=None).attempt.key is None


# --- where it goes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "path", "expected"),
    [
        ("POST", "/", CHAT_PATH, CHAT_PATH),
        ("POST", "", CHAT_PATH, CHAT_PATH),
        ("POST", "/chat/completions", CHAT_PATH, CHAT_PATH),
        ("POST", "/v1/chat/completions", CHAT_PATH, CHAT_PATH),
        ("POST", "/v1/chat/completions?x=1", CHAT_PATH, CHAT_PATH),
        ("POST", CHAT_PATH, "/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/", "/a/chat/completions?api-version=1", "/a/chat/completions?api-version=1"),
        ("POST", "/v1/embeddings", CHAT_PATH, "/compatible-mode/v1/embeddings"),
        ("POST", "/embeddings", CHAT_PATH, "/compatible-mode/v1/embeddings"),
        ("POST", "/compatible-mode/v1/embeddings", CHAT_PATH, "/compatible-mode/v1/embeddings"),
        ("GET", "/v1/models/x?a=1", CHAT_PATH, "/compatible-mode/v1/models/x?a=1"),
        ("GET", "/models", "/v1/chat/completions", "/v1/models"),
        ("GET", "/v1/models", "/chat/completions", "/models"),
        ("GET", "/models?a=1", "/v1/chat/completions?api-version=1", "/v1/models?api-version=1&a=1"),
        ("GET", "/models", "/v1/chat/completions?api-version=1", "/v1/models?api-version=1"),
        ("GET", "/models?", "/v1/chat/completions", "/v1/models"),
        ("POST", "/v1/audio/speech", CHAT_PATH, "/compatible-mode/v1/audio/speech"),
        ("DELETE", "/v1/models/ft:x", CHAT_PATH, "/compatible-mode/v1/models/ft:x"),
        ("GET", "/v1/chat/completions?limit=1", CHAT_PATH, "/v1/chat/completions?limit=1"),
        ("GET", "/", CHAT_PATH, "/"),
        ("POST", "/api/v1/services/x?y=1", CHAT_PATH, "/api/v1/services/x?y=1"),
        ("GET", "/v1/models/../admin?x", CHAT_PATH, "/v1/models/../admin?x"),
    ],
)
def test_the_clients_path_becomes_the_providers(method, target, path, expected):
    provider = make_provider(path=path, config=make_config())

    assert planned(make_request(method=method, target=target), provider).attempt.target == expected


@pytest.mark.parametrize("target", ["/", "/v1/embeddings", "/health"])
def test_every_request_goes_to_the_providers_endpoint_under_its_name(target):
    endpoint = Endpoint("127.0.0.1", 8443, "dashscope.aliyuncs.com:8443", server_name=DASHSCOPE)

    attempt = planned(make_request(target=target), make_provider(endpoint=endpoint)).attempt

    assert attempt.endpoint is endpoint
    assert dict(attempt.set_headers)["host"] == "dashscope.aliyuncs.com:8443"


@pytest.mark.parametrize(
    ("target", "operation", "headers"),
    [
        ("/", "chat", {"host": DASHSCOPE, "accept-encoding": "identity", "content-type": "application/json"}),
        ("/v1/embeddings", "embeddings", {"host": DASHSCOPE, "accept-encoding": "identity"}),
        ("/health", "other", {"host": DASHSCOPE}),
    ],
)
def test_an_operation_sets_only_the_headers_it_needs(target, operation, headers):
    made = planned(make_request(target=target))

    assert made.operation.name == operation
    assert dict(made.attempt.set_headers) == headers


@pytest.mark.parametrize(
    ("target", "name"), [("/v1/embeddings", "embeddings"), ("/responses", "responses"), ("/x", "other")]
)
def test_other_operations_keep_their_body_and_model(target, name):
    body = {"model": "text-embedding-3", "input": "x", "stream": True}

    made = planned(make_request(target=target, body=body), model="qwen-max", stream=False, parameters={"input": "y"})

    assert made.attempt.body is None
    assert (made.operation.name, made.request_model, made.sent_model) == (name, "text-embedding-3", "text-embedding-3")


@pytest.mark.parametrize("body", [None, {}, {"input": "x"}])
def test_other_operations_need_no_body(body):
    assert isinstance(planned(make_request(target="/v1/audio/speech", body=body)), Plan)


# --- the body of a chat call ----------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"model": "gpt-4o"}, {"Messages": []}, {"prompt": "hello"}])
def test_a_chat_call_without_messages_is_a_400(body):
    refused = planned(make_request(body=body))

    assert (refused.error.status, refused.error.code, refused.error.param) == (400, "invalid_chat_body", "messages")


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_json_cannot_express_is_a_400(number):
    refused = planned(make_request(body={"messages": [], "temperature": number}))

    assert (refused.error.status, refused.error.code) == (400, "invalid_chat_body")


def test_a_refusal_says_where_the_policy_led_and_nothing_of_the_body():
    rule = make_rule()
    route = make_route(rule)

    refused = plan(Forward(rule.backends[0], route, rule), make_request(body={"prompt": "a private word"}))

    assert (refused.route, refused.rule) == (route, rule)
    assert b"private" not in refused.error.body()


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_any_content_type_is_sent_as_json(content_type):
    attempt = planned(make_request(headers={"content-type": content_type})).attempt

    assert dict(attempt.set_headers)["content-type"] == "application/json"


@pytest.mark.parametrize("messages", [[], None, "hello", {"role": "user"}, [{"content": [{"type": "image_url"}]}]])
def test_what_messages_are_is_the_providers_business(messages):
    assert sent({"messages": messages})["messages"] == messages


# --- what the record says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "body", "expected"),
    [
        ({"model": "qwen-max"}, {"model": "gpt-4o"}, ("gpt-4o", "qwen-max", False)),
        ({}, {"model": "gpt-4o", "stream": True}, ("gpt-4o", "gpt-4o", True)),
        ({"stream": False}, {"model": "gpt-4o", "stream": True}, ("gpt-4o", "gpt-4o", False)),
        ({"stream": True}, {}, (None, None, True)),
        ({}, {"model": 4, "stream": "true"}, (None, None, False)),
        ({"model_mapping": {"*": "qwen-max"}}, {"stream": 1}, (None, "qwen-max", False)),
    ],
)
def test_a_plan_tells_both_models_and_whether_it_streams(config, body, expected):
    made = planned(make_request(body={"messages": MESSAGES} | body), **config)

    assert (made.request_model, made.sent_model, made.stream) == expected


@pytest.mark.parametrize(("target", "stream"), [("/v1/responses", True), ("/v1/completions", True), ("/health", False)])
def test_other_operations_stream_when_the_client_asks(target, stream):
    assert planned(make_request(target=target, body={"stream": True}), stream=False).stream is stream


# --- any ------------------------------------------------------------------------------------------


@given(backends, chat_bodies)
def test_for_any_chat_the_policy_wins_and_the_messages_stay(backend, body):
    attempt = plan(Forward(backend), make_request(body=body, headers=CREDENTIALS)).attempt
    written, config = json.loads(attempt.body), backend.config

    assert written["messages"] == body["messages"]
    assert config.model in (None, written.get("model"))
    assert config.stream in (None, written.get("stream"))
    assert attempt.remove_headers == CREDENTIAL_HEADERS
    assert (attempt.target, attempt.key) == (backend.provider.path, config.key)


@given(configs, chat_bodies)
def test_for_any_chat_only_what_the_policy_names_changes(config, body):
    changed = chat_body(body, config)

    named = {"model", "stream", "stream_options", *config.parameters}
    assert {name: value for name, value in changed.items() if name not in named} == {
        name: value for name, value in body.items() if name not in named
    }
    assert all(changed.get(name) == value for name, value in config.parameters.items() if name != "stream_options")


@given(configs.map(lambda config: replace(config, model_mapping={})), chat_bodies)
def test_what_was_rewritten_once_stays(config, body):
    once = chat_body(body, config)

    assert chat_body(once, config) == once


@given(backends, requests)
def test_planning_is_a_pure_function(backend, request):
    before = repr((backend, request)), copy.deepcopy((dict(request.headers), request.body))

    first = plan(Forward(backend), request)
    second = plan(Forward(backend), request)

    assert first == second
    assert (repr((backend, request)), (dict(request.headers), request.body)) == before


@given(backends, requests)
def test_any_request_is_planned_or_refused(backend, request):
    made = plan(Forward(backend), request)

    assert isinstance(made, Plan | Reject)
    assert getattr(made, "attempt", None) is None or made.attempt.remove_headers == CREDENTIAL_HEADERS


@given(backends, requests)
def test_a_key_goes_only_under_the_providers_base(backend, request):
    attempt = getattr(plan(Forward(backend), request), "attempt", Attempt(backend.provider.endpoint, ""))
    base = backend.provider.path.partition("?")[0].removesuffix("/chat/completions").removesuffix("/chat")

    assert attempt.key is None or attempt.target.startswith(base + "/")
    assert attempt.endpoint is backend.provider.endpoint


@given(json_objects.filter(lambda body: "messages" not in body))
def test_any_object_without_messages_is_refused(body):
    assert isinstance(plan(Forward(make_backend()), make_request(body=body)), Reject)


@given(st.text(max_size=30))
def test_any_target_is_planned(target):
    assert isinstance(planned(make_request(target=target)), Plan)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, ()),
        ({"max_tokens": 30, "temperature": 0.5}, (("max_tokens", 30), ("temperature", 0.5))),
        ({"max_tokens": None, "temperature": "hot", "top_p": True}, ()),
        ({"max_completion_tokens": 10**40, "top_p": 1e300}, ()),
    ],
)
def test_a_plan_tells_what_was_asked_for_in_numbers(fields, asked):
    assert planned(make_request(body={"messages": [], **fields})).asked == asked

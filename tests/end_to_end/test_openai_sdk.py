"""The OpenAI SDK through a real proxy: every call, sync and async, however the proxy is reached."""

from dataclasses import dataclass, field, replace

import pytest

from tests.sdk_calls import CLIENT_KEY, ERROR_STATUSES, call
from tests.world import DASHSCOPE_KEY, MOONSHOT_KEY, Proxy, free_port, sidestream_run, wait_for

MODELS = {"dashscope": "qwen1.5-72b-chat", "moonshot": "moonshot-v1-8k"}
KEYS = {"dashscope": DASHSCOPE_KEY, "moonshot": MOONSHOT_KEY}
BASES = {"dashscope": "/compatible-mode/v1", "moonshot": "/v1"}

WAYS = ["regular", "reverse-provider", "reverse-route", "https", "https-h2"]


@dataclass(frozen=True)
class Way:
    """How an application gets to the policy: by a proxy it was told of, or a server that stands for the host."""

    proxy: Proxy
    base_url: str
    environment: dict[str, str] = field(default_factory=dict)
    client: dict[str, object] = field(default_factory=dict)


@pytest.fixture(scope="module")
def ways(shared_world):
    policies = shared_world.policies("policies-of-sdk")
    moonshot = next(policies.glob("*moonshot*"))
    moonshot.write_text(moonshot.read_text().replace("stream: false", "stream: null"))  # the client's counts
    ports = {"dashscope.aliyuncs.com": free_port(), "demo-llm-server": free_port()}
    modes = [f"--mode=reverse:http://{host}@127.0.0.1:{port}" for host, port in ports.items()]
    with sidestream_run(shared_world, "--intercept-tls", *modes, policies=policies) as regular:
        provider, route = (replace(regular, port=port) for port in ports.values())
        https = {"HTTPS_PROXY": regular.url}
        host = "dashscope.aliyuncs.com/v1"
        trust = {"ca_file": shared_world.folder / "confdir/mitmproxy-ca-cert.pem"}
        yield {
            "regular": Way(regular, f"http://{host}", {"HTTP_PROXY": regular.url}),
            "reverse-provider": Way(provider, f"{provider.url}/v1"),
            "reverse-route": Way(route, f"{route.url}/v1"),
            "https": Way(regular, f"https://{host}", https, trust),
            "https-h2": Way(regular, f"https://{host}", https, trust | {"http2": True}),
        }


@pytest.fixture(params=WAYS)
def way(request, ways, monkeypatch):
    way = ways[request.param]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in way.environment.items():
        monkeypatch.setenv(name, value)
    return way


@pytest.fixture(params=["sync", "async"])
def make(request, world, way):
    """Make a call, and return its facts and the records it left."""

    def made(name, until=lambda: True):
        with way.proxy.recording() as records:
            facts = call(name, way.base_url, asynchronous=request.param == "async", **way.client)
            wait_for(until)
        return facts, records

    return made


def received(world):
    """Return what the providers got, each by its name."""
    standins = {"dashscope": world.dashscope, "moonshot": world.moonshot}
    return [(name, request) for name, standin in standins.items() for request in standin.requests]


def assert_only_the_providers_key_came(name, request):
    assert request.header("authorization") == f"Bearer {KEYS[name]}"
    assert CLIENT_KEY not in str(request.headers)


def test_chat(world, make):
    facts, [record] = make("chat")

    [(name, request)] = received(world)
    assert facts["content"] == f"hello from {name}: model={MODELS[name]}"
    assert facts["model"] == request.json["model"] == record["sent_model"] == record["response_model"] == MODELS[name]
    assert request.path == BASES[name] + "/chat/completions"
    assert record["completion_tokens"] == facts["completion_tokens"]
    assert record["error"] is None
    assert_only_the_providers_key_came(name, request)


def test_a_stream_with_tool_calls_and_usage(world, make):
    for standin in (world.dashscope, world.moonshot):
        standin.behave("events=12")

    facts, [record] = make("stream")

    [(name, request)] = received(world)
    assert facts["function"] == "get_weather"
    assert facts["arguments"]["text"] == f"hello from {name}: model={MODELS[name]}"
    assert facts["chunks"] == 2 + 12 + 1 + 1  # role and function, pieces, finish, usage
    assert facts["completion_tokens"] == record["completion_tokens"] > 0
    assert record["stream"] is True
    assert record["error"] is None
    assert request.json["stream_options"] == {"include_usage": True}
    assert_only_the_providers_key_came(name, request)


def test_embeddings(world, make):
    facts, [record] = make("embeddings")

    [(name, request)] = received(world)
    assert facts["vectors"] == [8, 8]
    assert request.path == BASES[name] + "/embeddings"
    assert request.json["model"] == "gpt-4o"  # models of a policy are for chat
    assert (record["operation"], record["prompt_tokens"]) == ("embeddings", facts["prompt_tokens"])
    assert_only_the_providers_key_came(name, request)


def test_models(world, make):
    facts, [record] = make("models")

    [(name, request)] = received(world)
    assert facts["ids"] == [f"{name}-large", f"{name}-small"]
    assert request.path == BASES[name] + "/models"
    assert record["operation"] == "models"
    assert_only_the_providers_key_came(name, request)


def test_an_error_of_the_provider_is_the_exception_that_the_sdk_always_raises(make):
    facts, records = make("errors")

    assert {status: error["exception"] for status, error in facts.items()} == {
        "401": "AuthenticationError",
        "429": "RateLimitError",
        "500": "InternalServerError",
    }
    assert facts["429"]["retry_after"] == "7"
    assert facts["429"]["code"] == "rate_limit_exceeded"
    assert "was asked to answer 500." in facts["500"]["message"]
    assert [record["status"] for record in records] == list(ERROR_STATUSES)


def test_a_client_that_hangs_up_in_mid_stream_frees_the_provider_and_leaves_one_record(world, way, make):
    def provider_saw_it():
        return world.dashscope.aborted + world.moonshot.aborted == 1

    facts, [record] = make("leave", until=provider_saw_it)

    assert facts["chunks"] == 3
    assert (record["error"], record["status"], record["stream"]) == ("client_disconnected", 200, True)
    assert way.proxy.is_alive

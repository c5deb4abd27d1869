"""The OpenAI SDK in a pod whose app knows of no proxy."""

import json
import sys

import pytest

from tests.namespaces import ROOT
from tests.sdk_calls import CLIENT_KEY, ERROR_STATUSES
from tests.world import DASHSCOPE_KEY, wait_for

CALLS = ["chat", "stream", "embeddings", "errors", "leave"]
MODEL = "qwen1.5-72b-chat"
BASE = "/compatible-mode/v1"


@pytest.fixture(scope="module", params=["sync", "async"])
def made(request, shared_outside, shared_pod):
    """Make every call, and return what the app got, what the provider got, and what was recorded."""
    shared_outside.dashscope.clear()
    known = len(shared_pod.proxy.records)
    command = [
        sys.executable,
        str(ROOT / "tests/sdk_calls.py"),
        *CALLS,
        "--base-url",
        "http://dashscope.aliyuncs.com/v1",
    ]
    printed = shared_pod.run(*command, *(["--async"] if request.param == "async" else [])).stdout
    received = shared_outside.dashscope.requests
    wait_for(lambda: len(shared_pod.proxy.records) >= known + len(received))
    facts = dict(zip(CALLS, map(json.loads, printed.splitlines()), strict=True))
    return facts, received, shared_pod.proxy.records[known:]


def test_chat(made):
    facts, received, records = made

    assert facts["chat"]["content"] == f"hello from dashscope: model={MODEL}"
    assert (received[0].path, received[0].json["model"]) == (f"{BASE}/chat/completions", MODEL)
    assert records[0]["completion_tokens"] == facts["chat"]["completion_tokens"] > 0


def test_a_stream_with_tool_calls_and_usage(made):
    facts, received, records = made

    assert facts["stream"]["function"] == "get_weather"
    assert facts["stream"]["arguments"]["text"] == f"hello from dashscope: model={MODEL}"
    assert received[1].json["stream_options"] == {"include_usage": True}
    assert records[1]["completion_tokens"] == facts["stream"]["completion_tokens"] > 0
    assert records[1]["stream"] is True


def test_embeddings(made):
    facts, received, records = made

    assert facts["embeddings"]["vectors"] == [8, 8]
    assert (received[2].path, received[2].json["model"]) == (f"{BASE}/embeddings", "gpt-4o")
    assert records[2]["operation"] == "embeddings"


def test_an_error_of_the_provider_is_the_exception_that_the_sdk_always_raises(made):
    facts, _, records = made

    assert [error["exception"] for error in facts["errors"].values()] == [
        "AuthenticationError",
        "RateLimitError",
        "InternalServerError",
    ]
    assert facts["errors"]["429"]["retry_after"] == "7"
    assert [record["status"] for record in records[3:6]] == list(ERROR_STATUSES)


def test_an_app_that_hangs_up_in_mid_stream_leaves_a_record_and_no_connection(pod, made):
    facts, _, records = made

    assert facts["leave"]["chunks"] == 3
    assert (records[-1]["error"], records[-1]["status"]) == ("client_disconnected", 200)
    wait_for(lambda: not pod.has_connections(443))


def test_the_apps_own_key_gets_no_further_than_the_proxy(made):
    _, received, _ = made

    assert {request.header("authorization") for request in received} == {f"Bearer {DASHSCOPE_KEY}"}
    assert CLIENT_KEY not in str(received)

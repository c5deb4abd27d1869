"""The published scenarios as they are published: the real redirection, policies and commands."""

import math
from collections import Counter
from pathlib import Path

import pytest

from tests.transparent import pods
from tests.world import DASHSCOPE_KEY, MOONSHOT_KEY, PUBLISHED, wait_for

CHAT = """\
{
    "messages": [
        {"role": "user", "content": "Please introduce yourself"}
    ]
}
"""
"""The body of the published commands, which name no key, path, model or TLS."""

CALLS = 200
IMPROBABLE = 1e-6
"""How seldom a test of shares may fail although they are right."""


@pytest.fixture(scope="module")
def shared_pod(shared_outside):
    """A pod whose policy is changed here."""
    with pods.pod(shared_outside) as pod:
        yield pod


def call(host: str, *headers: str) -> list[str]:
    """Return the published command."""
    sent = ("Content-Type: application/json", *headers)
    return [f"http://{host}", *(part for header in sent for part in ("--header", header)), "--data", CHAT]


def models(provider: pods.Provider) -> list[str]:
    return [received.json["model"] for received in provider.requests]


def replace_policy(pod: pods.Pod, old: str, new: Path) -> None:
    """Replace a document of a running proxy's policy, and wait until it is in force."""
    known = pod.proxy.said.count("policy loaded")
    beside = pod.policies.parent / new.name
    beside.write_bytes(new.read_bytes())
    # At no moment are there both, or none.
    beside.replace(pod.policies / old).rename(pod.policies / new.name)
    wait_for(lambda: pod.proxy.said.count("policy loaded") > known)


def wait_for_records(pod: pods.Pod, count: int) -> list[dict]:
    return wait_for(lambda: len(pod.proxy.records) >= count and pod.proxy.records)


def likely_counts(calls: int, share: float, improbable: float) -> range:
    """Return the counts that a fair draw gives, save for `improbable` of all cases, half at each end."""
    chances = [math.comb(calls, count) * share**count * (1 - share) ** (calls - count) for count in range(calls + 1)]
    low = next(count for count in range(calls + 1) if sum(chances[: count + 1]) > improbable / 2)
    high = next(count for count in range(calls, -1, -1) if sum(chances[count:]) > improbable / 2)
    return range(low, high + 1)


def test_the_proxy_is_nobody_and_may_do_nothing(pod):
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pod.proxy.process.pid}/status").read_text().splitlines()
    )

    assert status["Uid"].split() == [str(pods.PROXY_UID)] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {0}


def test_a_call_without_key_model_path_and_tls_gets_the_operators_model(outside, pod):
    answer = pod.curl(*call("dashscope.aliyuncs.com")).stdout

    [received] = outside.dashscope.requests
    assert "hello from dashscope: model=qwen1.5-72b-chat" in answer
    assert received.path == "/compatible-mode/v1/chat/completions"
    assert received.header("host") == received.server_name == "dashscope.aliyuncs.com"
    assert received.header("authorization") == f"Bearer {DASHSCOPE_KEY}"
    assert received.json["model"] == "qwen1.5-72b-chat"
    assert received.json["messages"] == [{"role": "user", "content": "Please introduce yourself"}]


def test_a_tier_for_subscribers_is_added_while_the_proxy_runs(outside, pod):
    pod.curl(*call("dashscope.aliyuncs.com", "user-type: subscriber"))
    replace_policy(pod, "01-llmprovider-dashscope.yaml", PUBLISHED / "03-llmprovider-dashscope-tiers.yaml")
    pod.curl(*call("dashscope.aliyuncs.com", "user-type: subscriber"))
    pod.curl(*call("dashscope.aliyuncs.com", "user-type: guest"))
    pod.curl(*call("dashscope.aliyuncs.com"))

    assert models(outside.dashscope) == ["qwen1.5-72b-chat", "qwen-turbo", "qwen1.5-72b-chat", "qwen1.5-72b-chat"]
    assert {received.header("authorization") for received in outside.dashscope.requests} == {f"Bearer {DASHSCOPE_KEY}"}


def test_a_virtual_host_is_shared_out_between_two_providers(outside, pod):
    known = len(pod.recorded()) + 1  # and the one that shows that there are no more
    command = ["curl", "-sS", "-m", "20", "--fail", *call("demo-llm-server")]
    pod.run("sh", "-euc", 'seq "$0" | xargs -P 4 -I NUMBER "$@"', str(CALLS), *command, timeout=100)

    recorded = wait_for_records(pod, known + CALLS)[known:]
    dashscope, moonshot = outside.dashscope.requests, outside.moonshot.requests
    got = {
        (received.path, received.header("host"), received.header("authorization"), received.json["model"])
        for received in (*dashscope, *moonshot)
    }
    assert len(dashscope) + len(moonshot) == CALLS
    assert len(dashscope) in likely_counts(CALLS, 0.5, IMPROBABLE)
    assert got == {
        (
            "/compatible-mode/v1/chat/completions",
            "dashscope.aliyuncs.com",
            f"Bearer {DASHSCOPE_KEY}",
            "qwen1.5-72b-chat",
        ),
        ("/v1/chat/completions", "api.moonshot.cn", f"Bearer {MOONSHOT_KEY}", "moonshot-v1-8k"),
    }
    assert Counter(record["provider"] for record in recorded) == {
        "default/dashscope-qwen": len(dashscope),
        "default/moonshot": len(moonshot),
    }


def test_the_second_provider_may_be_called_by_its_own_name(outside, pod):
    answer = pod.curl(*call("api.moonshot.cn")).stdout

    assert "hello from moonshot: model=moonshot-v1-8k" in answer
    assert [received.json["stream"] for received in outside.moonshot.requests] == [False]


def test_no_key_is_said_or_recorded(outside, pod):
    pod.curl(*call("dashscope.aliyuncs.com"))
    pod.curl(*call("demo-llm-server"))

    assert [record["host"] for record in pod.recorded()[-2:]] == ["dashscope.aliyuncs.com", "demo-llm-server"]
    seen = pod.proxy.said + pod.proxy.log.read_text()
    assert "sk-marker" not in seen

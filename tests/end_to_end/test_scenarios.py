"""The published scenarios through a regular proxy. tests/transparent has them with real redirection."""

import subprocess

from tests.world import DASHSCOPE_KEY


def curl(proxy, *arguments: str) -> str:
    command = ["curl", "-sS", "-m", "20", "-x", proxy.url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_call_without_key_model_path_and_tls_gets_the_operators_model(world, proxy):
    answer = curl(proxy, "http://dashscope.aliyuncs.com", "-d", '{"messages": [{"role": "user", "content": "hi"}]}')

    (received,) = world.dashscope.requests
    assert "hello from dashscope: model=qwen1.5-72b-chat" in answer
    assert received.path == "/compatible-mode/v1/chat/completions"
    assert received.header("authorization") == f"Bearer {DASHSCOPE_KEY}"
    assert received.json["model"] == "qwen1.5-72b-chat"


def test_a_subscriber_gets_the_model_of_the_vip_route(world, proxy):
    curl(proxy, "http://dashscope.aliyuncs.com", "-H", "user-type: subscriber", "-d", '{"messages": []}')

    assert [received.json["model"] for received in world.dashscope.requests] == ["qwen-turbo"]

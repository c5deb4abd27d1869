"""A proxy that was killed while its rules stand: nothing that is redirected gets out, and all works when it is back."""

import contextlib
import select

import pytest

from tests.transparent import pods

HTTP, HTTPS, OTHER = 80, 443, 5432
BODY = '{"messages": []}'
CONNECTION_REFUSED = 7
"""curl's exit status."""


@pytest.fixture(scope="module")
def shared_pod(shared_outside):
    with pods.pod(shared_outside, "--intercept-tls", "on", run=("--intercept-tls",)) as pod:
        yield pod


@pytest.fixture(scope="module")
def killed(shared_outside, shared_pod):
    """The pod without its proxy, and who listens outside where apps believe providers to be."""
    with contextlib.ExitStack() as stack:
        places = [(HTTP, pods.DASHSCOPE), (HTTP, pods.ORIGIN), (HTTPS, pods.ORIGIN), (HTTP, pods.ORIGIN_IPV6)]
        listeners = [stack.enter_context(shared_outside.listen(*place)) for place in places]
        shared_pod.kill_proxy()
        yield shared_pod, listeners
    if shared_pod.proxy.process.poll() is not None:
        shared_pod.start_proxy()


@pytest.mark.parametrize(
    "url",
    [
        "http://dashscope.aliyuncs.com/v1/chat/completions",
        "https://dashscope.aliyuncs.com/v1/chat/completions",
        "http://demo-llm-server",
        "http://other.example",
        "https://other.example",
        f"http://[{pods.ORIGIN_IPV6}]",
    ],
)
def test_every_redirected_port_is_refused_whoever_is_meant(outside, killed, url):
    pod, listeners = killed

    refused = pod.curl(url, "-d", BODY, check=False)

    assert refused.returncode == CONNECTION_REFUSED
    assert select.select(listeners, [], [], 0)[0] == []  # not even a SYN of it has arrived
    assert outside.dashscope.requests == []


def test_what_is_not_redirected_goes_on(outside, killed):
    pod, _ = killed

    with outside.listen(OTHER) as listener, pod.connect(pods.ORIGIN, OTHER) as client:
        server, _ = listener.accept()
        with server:
            server.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_all_works_when_it_runs_again(outside, killed):
    pod, _ = killed
    trusted = pod.ca_file.read_bytes()

    pod.start_proxy()

    for scheme in ("http", "https"):
        said = pod.curl(f"{scheme}://dashscope.aliyuncs.com/", "-d", BODY, "--cacert", str(pod.ca_file))
        assert '"chat.completion"' in said.stdout
    assert len(outside.dashscope.requests) == 2
    assert pod.ca_file.read_bytes() == trusted


def test_rules_written_again_meanwhile_are_the_same_rules(outside, pod):
    rules = pod.namespace.run("iptables-save").stdout.count("SIDESTREAM")

    pod.namespace.run("sh", str(pods.REDIRECT), "--intercept-tls", "on")

    assert pod.namespace.run("iptables-save").stdout.count("SIDESTREAM") == rules
    assert '"chat.completion"' in pod.curl("http://demo-llm-server", "-d", BODY).stdout

"""HTTPS clients through CONNECT: governed where TLS is intercepted and a policy names the host, else untouched."""

import asyncio
import ssl
import subprocess
import threading
from dataclasses import dataclass, field

import h2.events
import httpx2
import pytest

from tests.scripted import EVENT_STREAM, LAST_CHUNK, TIMEOUT_SECONDS, chunk, scripted
from tests.wire import H2, tunnel
from tests.world import DASHSCOPE_KEY, provider_document, sidestream_run

STREAMS = 20
MESSAGES = '{"messages": []}'


@dataclass
class Meeting:
    """A provider that answers nobody until `STREAMS` have come."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(STREAMS))

    def __call__(self, line, request):
        self.barrier.wait(TIMEOUT_SECONDS)
        line.send(EVENT_STREAM + chunk(b"data: {}\n\n") + chunk(b"data: [DONE]\n\n") + LAST_CHUNK)


@pytest.fixture(scope="module")
def intercepting(shared_world):
    policies = shared_world.policies("policies-of-https")
    with scripted(Meeting(), shared_world.authority.issue("meeting.test")) as meeting:
        (policies / "meeting.yaml").write_text(provider_document("meeting.test", meeting.port))
        with sidestream_run(shared_world, "--intercept-tls", policies=policies) as proxy:
            yield proxy


def curl(proxy, ca_file, url, *arguments, check=True):
    command = ["curl", "-sS", "-m", "20", "-x", proxy.url, "--cacert", str(ca_file), *arguments, url]
    return subprocess.run(command, capture_output=True, text=True, check=check)


@pytest.mark.parametrize(("flag", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl_over_both_versions_of_http(world, intercepting, proxy_ca, flag, version):
    with intercepting.recording() as records:
        done = curl(
            intercepting, proxy_ca, "https://dashscope.aliyuncs.com/", flag, "-d", MESSAGES, "-w", "\n%{http_version}"
        )

    [received] = world.dashscope.requests
    assert "hello from dashscope" in done.stdout
    assert done.stdout.endswith(f"\n{version}")
    assert received.header("authorization") == f"Bearer {DASHSCOPE_KEY}"
    assert received.header("content-length") == str(len(received.body))
    assert [record["status"] for record in records] == [200]


@pytest.mark.parametrize("http2", [False, True])
def test_many_streams_run_at_once(intercepting, proxy_ca, http2):
    trust = ssl.create_default_context(cafile=proxy_ca)
    how = {"proxy": intercepting.url, "verify": trust, "timeout": 30, "http2": http2, "http1": not http2}

    async def read_all():
        async with httpx2.AsyncClient(**how) as client:
            # One by itself first, which is refused: until a client knows that a server speaks HTTP/2,
            # it opens a connection for each request.
            await client.post("https://meeting.test/", content="{}")
            calls = [client.post("https://meeting.test/", content=MESSAGES) for _ in range(STREAMS)]
            return await asyncio.gather(*calls)

    with intercepting.recording() as records:
        answers = asyncio.run(read_all())

    [_, *streams] = records
    assert [answer.content for answer in answers] == [b"data: {}\n\ndata: [DONE]\n\n"] * STREAMS
    assert [(record["status"], record["error"]) for record in streams] == [(200, None)] * STREAMS
    if http2:
        assert len({record["client"] for record in streams}) == 1


def test_a_stream_that_is_reset_frees_the_provider_and_nothing_else(world, intercepting, proxy_ca):
    head = [(":method", "POST"), (":scheme", "https"), (":authority", "dashscope.aliyuncs.com"), (":path", "/")]
    body = b'{"messages": [], "stream": true}'

    with intercepting.recording() as records, tunnel(intercepting, proxy_ca, "dashscope.aliyuncs.com") as client:
        connection = H2(client)
        connection.send(1, [*head, ("x-standin", "stall=1")], body)
        connection.send(3, [*head, ("x-standin", "first-byte=0.1")], body)
        connection.read_until(h2.events.DataReceived, stream=1)
        connection.reset(1)
        world.dashscope.wait_for(lambda standin: standin.aborted == 1)
        events = connection.read_until(h2.events.StreamEnded, stream=3)

    said = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert b"[DONE]" in said
    assert sorted(str(record["error"]) for record in records) == ["None", "client_disconnected"]


def test_a_host_that_no_policy_names_is_not_decrypted(world, intercepting):
    url = f"https://127.0.0.1:{world.dashscope.port}/v1/models"

    with intercepting.recording() as records:
        done = curl(intercepting, world.ca_file, url, "-w", "%{ssl_verify_result}", check=False)

    assert "no alternative certificate subject name matches" in done.stderr  # the provider's own certificate
    assert records == []


def test_without_interception_a_policy_host_is_not_decrypted_either(world, proxy):
    port = world.dashscope.port
    arguments = ["--connect-to", f"dashscope.aliyuncs.com:443:127.0.0.1:{port}", "-d", '{"model": "m", "messages": []}']

    with proxy.recording() as records:
        done = curl(
            proxy,
            world.ca_file,
            "https://dashscope.aliyuncs.com/v1/chat/completions",
            *arguments,
            "-H",
            f"authorization: Bearer {DASHSCOPE_KEY}",
        )

    assert "model=m" in done.stdout
    assert records == []


def test_the_host_header_counts_and_not_the_name_of_the_tunnel(world, intercepting, proxy_ca):
    with intercepting.recording() as records:
        done = curl(
            intercepting,
            proxy_ca,
            "https://dashscope.aliyuncs.com/",
            "--http1.1",
            "-H",
            "host: api.moonshot.cn",
            "-d",
            MESSAGES,
        )

    assert "hello from moonshot" in done.stdout
    assert [record["host"] for record in records] == ["api.moonshot.cn"]

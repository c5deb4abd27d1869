"""Providers that fail, through a real proxy: an error in OpenAI's shape, no key where it may not go, no false end."""

import subprocess

import h2.events
import pytest

from tests.end_to_end.bench import CHAT, KEY, OK, request
from tests.scripted import scripted
from tests.wire import H2, Answer, send, tunnel

HEAD = {":method": "POST", ":scheme": "https", ":authority": "gone.test", ":path": "/"}
UNREACHABLE = ["gone.test", "wrong-name.test", "unknown-ca.test", "no-tls.test"]
FAILING = ["closes.test", "babbles.test", "two-lengths.test", "bad-chunks.test"]


@pytest.mark.parametrize(
    ("host", "code"),
    [*((host, "provider_unreachable") for host in UNREACHABLE), *((host, "provider_failed") for host in FAILING[:3])],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_provider_that_fails_is_an_error_in_openais_shape(bench, proxy_ca, host, code, version):
    flags = ["--http1.1" if version == 1 else "--http2", "--cacert", str(proxy_ca), "-w", "\n%{http_code}"]
    command = ["curl", "-sS", "-m", "20", "-x", bench.proxy.url, *flags, "-d", CHAT, f"https://{host}/"]

    with bench.proxy.recording() as records:
        body, _, status = subprocess.run(command, capture_output=True, check=True).stdout.rpartition(b"\n")

    error = Answer(int(status), body=body).error
    assert (status, error["type"], error["code"]) == (b"502", "sidestream_error", code)
    assert KEY not in error["message"]
    assert [(record["status"], record["error"]) for record in records] == [(502, code)]


def test_a_provider_that_fails_in_its_body_does_not_end_it_cleanly(bench):
    with bench.proxy.recording() as records:
        got = send(bench.proxy.port, request(host="bad-chunks.test"))

    assert not got.endswith(b"0\r\n\r\n")
    assert [(record["status"], record["error"]) for record in records] == [(200, "provider_failed")]


def test_a_provider_that_comes_back_is_found_again_on_the_same_connection(bench, shared_world, proxy_ca):
    certificate = shared_world.authority.issue("gone.test")

    with tunnel(bench.proxy, proxy_ca, "gone.test") as client:
        connection = H2(client)
        connection.send(1, HEAD.items(), CHAT)
        before = connection.read_until(h2.events.StreamEnded, stream=1)
        with scripted(lambda line, _: line.send(OK), certificate, port=bench.gone):
            connection.send(3, HEAD.items(), CHAT)
            after = connection.read_until(h2.events.StreamEnded, stream=3)

    assert [status_of(events) for events in (before, after)] == [b"502", b"200"]


def status_of(events):
    [head] = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    return dict(head.headers)[b":status"]

"""A policy that changes under traffic: nothing breaks, nothing mixes, and what is broken changes nothing."""

import json
import queue
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.scripted import EVENT_STREAM, LAST_CHUNK, TIMEOUT_SECONDS, Scripted, chunk, scripted
from tests.wire import parse, read_to_the_end, send
from tests.world import Proxy, sidestream_run, wait_for

STREAMS = 50
HOST = "changing.test"
KEY = "sk-marker-first-0a11"
NEXT_KEY = "sk-marker-second-0b22"
CHAT = b'{"messages": []}'

DOCUMENT = """\
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMProvider
metadata: {{name: changing}}
spec:
  host: changing.test
  endpoint: {{host: 127.0.0.1, port: {port}}}
  configs:
    defaultConfig:
      openAIConfig:
        model: {model}
        apiKeyFrom: {{file: {key_file}}}
"""


@dataclass
class Stage:
    """The proxy, its policy, and a provider that ends its streams when told."""

    proxy: Proxy
    provider: Scripted
    file: Path
    key_file: Path
    go_on: threading.Event

    def write(self, model: str, broken: tuple[str, str] = ("", "")) -> None:
        """Write the policy, with something in it replaced."""
        text = DOCUMENT.format(port=self.provider.port, model=model, key_file=self.key_file)
        rewrite(self.file, text.replace(*broken) if broken[0] else text)

    def ask(self) -> tuple[str, str]:
        """Make a request; return the model and the key that the provider got."""
        self.provider.requests.clear()
        [answer] = parse(send(self.proxy.port, request()))
        assert answer.status == 200
        return sent(self.provider.requests[-1])

    def wait_until(self, model: str | None = None, key: str | None = None) -> None:
        """Wait until new requests are sent with this model and key."""
        wait_for(lambda: all(wanted in (None, got) for wanted, got in zip((model, key), self.ask(), strict=True)))


def rewrite(file, text):
    """Write a file that changed; one that did not would only be read again."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def request(body=CHAT):
    return b"\r\n".join(
        [
            b"POST http://changing.test/ HTTP/1.1",
            b"host: changing.test",
            b"connection: close",
            b"content-length: %d" % len(body),
            b"",
            body,
        ]
    )


def sent(received):
    """Return the model and the key of a request as the provider got it."""
    head, _, body = received.partition(b"\r\n\r\n")
    return json.loads(body)["model"], re.search(rb"Bearer (\S+)", head)[1].decode()


@pytest.fixture(scope="module")
def stage(shared_world):
    folder = shared_world.folder / "policies-of-reload"
    folder.mkdir()
    key_file = shared_world.folder / "key-of-reload"
    key_file.write_text(KEY + "\n")
    go_on = threading.Event()

    def talk(line, received):
        line.send(EVENT_STREAM + chunk(b"data: {}\n\n"))
        assert go_on.wait(TIMEOUT_SECONDS)
        line.send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    with scripted(talk, shared_world.authority.issue("changing.test")) as provider:
        stage = Stage(None, provider, folder / "provider.yaml", key_file, go_on)
        stage.write("model-0")
        with sidestream_run(shared_world, policies=folder) as stage.proxy:
            yield stage


@pytest.fixture(autouse=True)
def as_at_first(stage):
    """Begin with a policy that names `model-0` and the first key."""
    stage.go_on.set()
    rewrite(stage.key_file, KEY + "\n")
    stage.write("model-0")
    stage.wait_until("model-0", KEY)
    stage.provider.requests.clear()


def test_streams_outlive_a_change_and_keep_what_they_began_with(stage):
    begun = queue.Queue()

    def read(client):
        with client.stream("POST", "http://changing.test/", content=CHAT) as answer:
            parts = answer.iter_raw()
            got = next(parts)
            begun.put(True)
            return got + b"".join(parts)

    limits = httpx2.Limits(max_connections=STREAMS)
    stage.go_on.clear()
    with (
        stage.proxy.recording(HOST) as records,
        httpx2.Client(proxy=stage.proxy.url, timeout=TIMEOUT_SECONDS, limits=limits) as client,
        ThreadPoolExecutor(STREAMS) as pool,
    ):
        reading = [pool.submit(read, client) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            begun.get(timeout=TIMEOUT_SECONDS)
        said = len(stage.proxy.said)
        stage.write("model-1")
        wait_for(lambda: "policy loaded" in stage.proxy.said[said:])
        under_way = list(stage.provider.requests)
        stage.go_on.set()
        stage.wait_until("model-1")
        streams = [future.result(TIMEOUT_SECONDS) for future in reading]

    assert streams == [b"data: {}\n\ndata: [DONE]\n\n"] * STREAMS
    assert [sent(received)[0] for received in under_way] == ["model-0"] * STREAMS
    assert [record["sent_model"] for record in records].count("model-0") >= STREAMS
    assert {record["error"] for record in records} == {None}


def test_a_request_is_judged_by_the_policy_in_force_when_it_began(stage):
    with socket.create_connection(("127.0.0.1", stage.proxy.port), timeout=TIMEOUT_SECONDS) as client:
        client.sendall(request()[:-1])
        stage.write("model-1")
        stage.wait_until("model-1")
        stage.provider.requests.clear()
        client.sendall(request()[-1:])
        [answer] = parse(read_to_the_end(client))

    assert answer.status == 200
    assert [sent(received)[0] for received in stage.provider.requests] == ["model-0"]


BROKEN = {
    "no YAML": (("  configs:", "  configs: ["), r"provider\.yaml:\d+"),
    "an unknown field": (
        ("  endpoint:", "  endpiont:"),
        r"provider\.yaml:6: error: LLMProvider default/changing spec\.endpiont",
    ),
    "a value that makes no sense": (("port: ", "port: -"), r"provider\.yaml:6: error: .*spec\.endpoint\.port"),
    "a key that is not there": (("key-of", "no-key-of"), r"provider\.yaml:11: error: .*apiKeyFrom"),
}


@pytest.mark.parametrize(("broken", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_changes_nothing_and_says_where(stage, broken, said):
    before = len(stage.proxy.said)

    stage.write("model-1", broken)

    wait_for(lambda: "the last good one stays in force" in stage.proxy.said[before:])
    assert re.search(said, stage.proxy.said[before:])
    assert stage.ask() == ("model-0", KEY)

    stage.write("model-2")

    stage.wait_until("model-2", KEY)


def test_a_route_that_names_nobody_changes_nothing(stage):
    route = stage.file.with_name("route.yaml")
    spec = {"host": "virtual.test", "rules": [{"backendRefs": [{"providerHost": "changing.tset"}]}]}
    kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMRoute", "metadata": {"name": "virtual"}}
    before = len(stage.proxy.said)

    route.write_text(json.dumps(kind | {"spec": spec}))

    wait_for(lambda: "did you mean 'changing.test'?" in stage.proxy.said[before:])
    assert "spec.rules[0].backendRefs[0].providerHost" in stage.proxy.said[before:]
    assert stage.ask() == ("model-0", KEY)
    route.unlink()


def test_a_key_that_is_rotated_in_its_file_is_used(stage):
    stage.key_file.write_text(NEXT_KEY + "\n")

    stage.wait_until("model-0", NEXT_KEY)


def test_a_key_that_is_swapped_as_a_volume_does_it_is_used(stage):
    another = stage.key_file.with_name("another-key")
    another.write_text(NEXT_KEY)

    another.replace(stage.key_file)

    stage.wait_until("model-0", NEXT_KEY)


@pytest.mark.parametrize("content", ["", " \n", "two words\n"], ids=["empty", "blank", "unfit"])
def test_a_key_file_that_holds_no_key_changes_nothing(stage, content):
    before = len(stage.proxy.said)

    stage.key_file.write_text(content)

    wait_for(lambda: "the last good one stays in force" in stage.proxy.said[before:])
    assert "apiKeyFrom" in stage.proxy.said[before:]
    assert stage.ask() == ("model-0", KEY)

"""
A world to test in: stand-in providers with real TLS, a CA of its own, and real proxies.

`World` holds two providers that speak for `dashscope.aliyuncs.com` and `api.moonshot.cn`, and
a folder of the published policies with an `endpoint` that leads to them. `Proxy` is a real
process; its records and what it said are there to be read.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sidestream.demo.certificates import Authority
from sidestream.demo.standin import StandIn, running

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "policies"
BIN = Path(sys.executable).parent

DASHSCOPE_KEY = "sk-marker-dashscope-4f1c9a"
MOONSHOT_KEY = "sk-marker-moonshot-77b2e0"
WAIT_SECONDS = 30.0
"""How long to wait for what comes at once, unless the machine has much else to do."""

ENVIRONMENT = {"DASHSCOPE_API_KEY": DASHSCOPE_KEY, "MOONSHOT_API_KEY": MOONSHOT_KEY}

AT_ONCE = {"SIDESTREAM_GRACE": "0"}
"""How a proxy ends whose end is not what is tested."""


@dataclass
class World:
    folder: Path
    authority: Authority
    dashscope: StandIn
    moonshot: StandIn

    @property
    def ca_file(self) -> Path:
        return self.authority.ca_file

    def policies(self, name: str = "policies") -> Path:
        """Make a folder of the published policies whose providers are the stand-ins."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in PUBLISHED.glob("*.yaml"):
            provider = {"dashscope": self.dashscope, "moonshot": self.moonshot}
            text = path.read_text()
            for word, standin in provider.items():
                if "kind: LLMProvider" in text and word in text:
                    text = text.replace("spec:\n", f"spec:\n  endpoint: {{host: 127.0.0.1, port: {standin.port}}}\n", 1)
            (folder / path.name).write_text(text)
        return folder

    def clear(self) -> None:
        """Forget what the providers got and how they were told to behave."""
        for standin in (self.dashscope, self.moonshot):
            standin.clear()
            standin.behave()


def provider_document(host: str, port: int, *, key: str = "sk-marker-other-9e31", model: str = "m", **endpoint) -> str:
    """Write an LLMProvider for `host` that is at `port` on loopback; `endpoint`: more of its fields."""
    spec = {
        "host": host,
        "endpoint": {"host": "127.0.0.1", "port": port, **endpoint},
        "configs": {"defaultConfig": {"openAIConfig": {"apiKey": key, "model": model}}},
    }
    kind = {"apiVersion": "istio.alibabacloud.com/v1beta1", "kind": "LLMProvider"}
    return json.dumps(kind | {"metadata": {"name": host.replace(".", "-")}, "spec": spec})


@contextlib.contextmanager
def make_world(folder: Path) -> Iterator[World]:
    authority = Authority.create(folder / "ca")
    certificate = authority.issue("dashscope.aliyuncs.com", "api.moonshot.cn")
    with (
        running(certificate, name="dashscope", api_keys=[DASHSCOPE_KEY]) as dashscope,
        running(certificate, name="moonshot", api_keys=[MOONSHOT_KEY]) as moonshot,
    ):
        yield World(folder, authority, dashscope, moonshot)


@dataclass
class Proxy:
    process: subprocess.Popen
    port: int
    log: Path
    output: Path = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def records(self) -> list[dict]:
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def is_alive(self) -> bool:
        """Whether it runs, and still takes connections."""
        return self.process.poll() is None and listens(self.port)

    @property
    def said(self) -> str:
        """Everything that it wrote to standard output and standard error."""
        return self.output.read_text(errors="replace")

    @contextlib.contextmanager
    def recording(self, host: str = "dashscope.aliyuncs.com") -> Iterator[list[dict]]:
        """Collect the records of all that happens in the block. `host`: one that the policy names."""
        before, seen = self._fence(host), []
        yield seen
        after = self._fence(host)
        seen += self.records[before:after][:-1]

    def _fence(self, host: str) -> int:
        """Make a request that is refused; return how many records there are up to its own."""
        known = len(self.records)  # a port is used again before long: an older record may have the same one
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            head = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n"
            client.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            while client.recv(65536):
                pass
            return self.wait_for_number(client.getsockname()[1], known)

    def wait_for_number(self, port: int, known: int) -> int:
        """Return how many records there are up to that of the client at `port`, which is none of the first `known`."""

        def number() -> int | None:
            found = enumerate(self.records[known:], known + 1)
            return next((number for number, record in found if record["client"].endswith(f":{port}")), None)

        return wait_for(number)

    def wait_for_record(
        self, predicate: Callable[[dict], bool] = lambda _: True, timeout: float = WAIT_SECONDS
    ) -> dict:
        return wait_for(lambda: next((record for record in self.records if predicate(record)), None), timeout)

    def wait_for_said(self, text: str, timeout: float = WAIT_SECONDS) -> None:
        wait_for(lambda: text in self.said, timeout)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def wait_for[T](look: Callable[[], T | None], timeout: float = WAIT_SECONDS) -> T:
    """Look until there is something true, and return it."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {look}")
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(
    command: list[str], folder: Path, port: int, *, environment: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[Proxy]:
    """Start a proxy and wait until it listens; stop it at the end."""
    log = log or folder / f"records-{port}.jsonl"
    output = folder / f"output-{port}.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **ENVIRONMENT, **AT_ONCE, **(environment or {})},
            cwd=ROOT,
        )
    proxy = Proxy(process, port, log, output)
    try:
        wait_for(lambda: process.poll() is not None or listens(port), 60)
        if process.poll() is not None:
            raise RuntimeError(f"the proxy did not start: {proxy.said}")
        yield proxy
    finally:
        proxy.stop()


def sidestream_run(
    world: World, *flags: str, mode: str = "regular", policies: Path | None = None, port: int | None = None, **how
):
    """Start `sidestream run`. `mode`: without an address. `port`: where it listens, if that matters."""
    port = port or free_port()
    folder = policies or world.policies()
    command = [str(BIN / "sidestream"), "run", "--policies", str(folder), "--mode", mode]
    command += ["--listen", f"127.0.0.1:{port}", "--upstream-ca", str(world.ca_file)]
    command += ["--confdir", str(world.folder / "confdir"), "--log", str(world.folder / f"records-{port}.jsonl")]
    return started([*command, *flags], world.folder, port, **how)


def mitmproxy_script(world: World, *flags: str, tool: str = "mitmdump", policies: Path | None = None, **how):
    """Start stock `mitmdump -s` or `mitmweb -s` with the addon."""
    port = free_port()
    log = world.folder / f"records-{port}.jsonl"
    command = [str(BIN / tool), "-s", str(ROOT / "addon/sidestream/script.py")]
    command += ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
    options = {
        "confdir": world.folder / "confdir",
        "sidestream_policies": policies or world.policies(),
        "sidestream_log": log,
        "sidestream_upstream_ca": world.ca_file,
    }
    for name, value in options.items():
        command += ["--set", f"{name}={value}"]
    return started([*command, *flags], world.folder, port, **how)


def listens(port: int) -> bool:
    """Tell whether somebody takes connections on loopback at `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

"""
Where the demo plays: stand-in providers, the proxy as a process of its own, and an app.

`loopback` needs nothing but Python: the app is told of the proxy. `transparent` needs root on
Linux: two network namespaces, rules of the real iptables, and plain curl that knows of nothing.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sidestream.demo.certificates import Authority
from sidestream.demo.namespaces import Namespace, connected
from sidestream.demo.received import Received, read_journal
from sidestream.demo.standin import StandIn, running

PROXY_UID = 1337
START_SECONDS = 60.0

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class StageError(ValueError):
    """The demo can't play here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Stage:
    """
    What a scenario needs.

    `call` sends a request body to a host, as an app would, and returns the answer's bytes.
    `received` gives provider host → what it got so far. `records` is the proxy's log.
    """

    call: Callable[[str, Mapping[str, str], bytes], bytes]
    received: Callable[[], dict[str, list[Received]]]
    records: Path
    keys: Mapping[str, str]


@contextlib.contextmanager
def loopback(policies: Path, folder: Path) -> Iterator[Stage]:
    """Play on loopback, as a developer's laptop would: the app uses the proxy by its address."""
    documents = read_documents(policies)
    keys = made_up_keys(documents)
    authority = Authority.create(folder / "ca")
    with contextlib.ExitStack() as stack:
        providers: dict[str, StandIn] = {}
        for spec in provider_specs(documents):
            certificate = authority.issue(spec["host"])
            standin = stack.enter_context(running(certificate, name=spec["host"]))
            spec["endpoint"] = {"host": standin.host, "port": standin.port}
            providers[spec["host"]] = standin
        copy = folder / "policies.yaml"
        copy.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        port = _free_port()
        command = [*_run(copy, authority, folder), "--listen", f"127.0.0.1:{port}"]
        stack.enter_context(process(command, folder, keys, ready=lambda: _listens(port)))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{port}"}))

        def call(host: str, headers: Mapping[str, str], body: bytes) -> bytes:
            request = urllib.request.Request(f"http://{host}", body, dict(headers))
            try:
                with opener.open(request, timeout=START_SECONDS) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as e:
                return e.read()

        def received() -> dict[str, list[Received]]:
            return {host: list(standin.requests) for host, standin in providers.items()}

        yield Stage(call, received, folder / "records.jsonl", keys)


@contextlib.contextmanager
def transparent(policies: Path, folder: Path, redirect: Path) -> Iterator[Stage]:
    """
    Play in network namespaces: a pod whose egress `redirect` sends into the proxy, and the world.

    Raises:
        StageError: this is not Linux, not root, or a program is missing.
    """
    check_transparent(redirect)
    documents = read_documents(policies)
    keys = made_up_keys(documents)
    authority = Authority.create(folder / "ca")
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        pod, world = stack.enter_context(connected())
        hosts = {}
        for spec in provider_specs(documents):
            address = world.add_address()
            certificate, journal = authority.issue(spec["host"]), folder / f"{spec['host']}.jsonl"
            command = [sys.executable, "-m", "sidestream.demo.standin", "--listen", f"{address}:443"]
            command += ["--cert", str(certificate.cert_file), "--key", str(certificate.key_file)]
            command += ["--name", spec["host"], "--journal", str(journal)]
            stack.enter_context(process(world.command(command), folder, {}, ready=_accepts_in(pod, address, 443)))
            hosts[spec["host"]] = address
        # A virtual host leads nowhere: only the policy gives it meaning.
        virtual = {host for host in route_hosts(documents) if host not in hosts}
        pod.write_hosts({**hosts, **dict.fromkeys(virtual, world.add_address())})
        confdir = folder / "confdir"
        confdir.mkdir()
        records = folder / "records.jsonl"
        records.touch()
        for path in (confdir, records):
            os.chown(path, PROXY_UID, PROXY_UID)
        run = [*_as_user(PROXY_UID), *_run(policies, authority, folder), "--mode", "transparent"]
        run += ["--confdir", str(confdir)]
        stack.enter_context(process(pod.command(run), folder, keys, ready=_accepts_in(pod, "127.0.0.1", 15001)))
        subprocess.run(pod.command(["sh", str(redirect)]), check=True, stdout=subprocess.DEVNULL)

        def call(host: str, headers: Mapping[str, str], body: bytes) -> bytes:
            flags = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
            command = [*_as_user(65534), "curl", "-sS", "-m", "20", f"http://{host}", *flags, "-d", body.decode()]
            return subprocess.run(pod.command(command), check=True, capture_output=True).stdout

        def received() -> dict[str, list[Received]]:
            return {host: read_journal(folder / f"{host}.jsonl") for host in hosts}

        yield Stage(call, received, records, keys)


def check_transparent(redirect: Path) -> None:
    """Say all that is missing to play in network namespaces."""
    missing = []
    if not sys.platform.startswith("linux"):
        missing.append("Linux")
    elif os.geteuid() != 0:
        missing.append("root (try sudo)")
    missing += [
        f"the program {program} (Debian package {package})"
        for program, package in {
            "ip": "iproute2",
            "iptables": "iptables",
            "curl": "curl",
            "setpriv": "util-linux",
        }.items()
        if shutil.which(program) is None
    ]
    if not redirect.exists():
        missing.append(f"{redirect} (run it from a checkout)")
    if missing:
        raise StageError(f"the transparent demo needs {', '.join(missing)}")


def read_documents(policies: Path) -> list[dict[str, Any]]:
    """Return the policy documents of a folder."""
    paths = sorted([*policies.rglob("*.yaml"), *policies.rglob("*.yml")])
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    found = [document for document in documents if document and document.get("kind") in ("LLMProvider", "LLMRoute")]
    if not found:
        raise StageError(f"{policies} holds no LLMProvider or LLMRoute: give the folder of policies with --policies")
    return found


def provider_specs(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specs of the providers."""
    return [document["spec"] for document in documents if document["kind"] == "LLMProvider"]


def route_hosts(documents: list[dict[str, Any]]) -> list[str]:
    """Return the hosts of the routes."""
    return [document["spec"]["host"] for document in documents if document["kind"] == "LLMRoute"]


def made_up_keys(documents: list[dict[str, Any]]) -> dict[str, str]:
    """Return environment variable → a key that opens only the stand-ins. Real ones are not used."""
    names = _VARIABLE.findall(yaml.safe_dump(documents))
    return {name: f"made-up-{name.lower().replace('_', '-')}" for name in names}


@contextlib.contextmanager
def process(
    command: list[str], folder: Path, environment: Mapping[str, str], *, ready: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends; it begins when `ready` says so."""
    said = folder / "said.txt"
    with said.open("ab") as output:
        child = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise StageError(f"{command[0]} did not start:\n{said.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        child.wait(START_SECONDS)


def _run(policies: Path, authority: Authority, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "sidestream.cli.main", "run", "--policies", str(policies)]
    return [*command, "--upstream-ca", str(authority.ca_file), "--log", str(folder / "records.jsonl")]


def _as_user(uid: int) -> list[str]:
    # Reading past permissions is all it keeps: Python may be installed where only root can look.
    capability = "-all,+dac_read_search"
    identity = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [*identity, f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}"]


def _accepts_in(namespace: Namespace, address: str, port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with namespace.entered():
            return _listens(port, address)

    return ready


def _listens(port: int, address: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

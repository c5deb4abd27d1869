"""
Where the bench takes place: three network namespaces in a row, and pods beside the last.

    client ── proxy ── provider ── pod, pod, …

The client's packets to the provider go through the proxy's namespace, so that a direct call takes the same
cables. A pod is joined to the provider alone; its proxy, if it has one, runs inside, as a sidecar does.
Names are unique, and everything is removed at the end. Linux and root only.

Source: ip-netns(8), veth(4).
"""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PROGRAMS = ("ip", "iptables", "taskset", "setpriv", "wrk")

PROXY = "10.97.1.1"
PROVIDER = "10.97.2.2"
REDIRECTED = "203.0.113.2"
"""Nobody is at the addresses that begin so. What the client sends there is redirected in the proxy's namespace."""
ELSEWHERE = "203.0.113.10"
"""The provider's machine under an address that no policy is about: where pods' pass-through traffic goes."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace of the bench's own."""

    name: str

    def command(self, command: list[str]) -> list[str]:
        """Return `command` as it runs inside. Its process id is that of what this starts."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> None:
        """Run a command inside to its end; it must succeed."""
        done = subprocess.run(self.command([*command]), env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")

    def ip(self, *commands: str) -> None:
        """Configure the network inside."""
        batch = "\n".join(commands)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=batch, env=environment(), text=True, check=True)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let the sockets that this thread makes be inside."""
        with Path("/proc/thread-self/ns/net").open() as here, Path("/run/netns", self.name).open() as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(here.fileno(), os.CLONE_NEWNET)


class Scene:
    """The namespaces. `folder` is for files; other users may read there."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._pods = 0
        self.folder = folder
        self.client, self.proxy, self.provider = self._namespace(), self._namespace(), self._namespace()
        for one, other, net in ((self.client, self.proxy, "10.97.1"), (self.proxy, self.provider, "10.97.2")):
            # The proxy is .1 of both.
            mine, theirs = (2, 1) if one is self.client else (1, 2)
            _join(one, other, f"v{net[-1]}", f"{net}.{mine}", f"{net}.{theirs}")
        self.client.ip(f"route add default via {PROXY}")
        self.provider.ip("route add default via 10.97.2.1", f"address add {ELSEWHERE} dev lo")
        self.proxy.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def pod(self) -> Namespace:
        """Make another pod."""
        self._pods += 1
        made, net = self._namespace(), f"10.98.{self._pods}"
        _join(made, self.provider, f"p{self._pods}", f"{net}.2", f"{net}.1")
        made.ip(f"route add default via {net}.1")
        return made

    def _namespace(self) -> Namespace:
        made = Namespace(f"sidestream-bench-{uuid.uuid4().hex[:8]}")
        subprocess.run(["ip", "netns", "add", made.name], env=environment(), check=True)
        self._stack.callback(_remove, made)
        made.ip("link set lo up")
        # Tens of thousands of short connections; the ports of those that ended are not to run out.
        made.run("sh", "-c", "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")
        made.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse")
        return made


def missing() -> str:
    """Say what keeps the bench from running here, if anything does."""
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if len(os.sched_getaffinity(0)) < 2:
        return "the proxy and the load need a core each, and here is one"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    return f"not here: {', '.join(absent)} (Debian: apt-get install iproute2 iptables util-linux wrk)" if absent else ""


def environment(**variables: str) -> dict[str, str]:
    """Return what programs see: nothing of Sidestream's, of Python's and of proxies' but `variables`."""
    unwanted = ("SIDESTREAM_", "PYTHON", "LITELLM_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PATH": PATH, **variables}


def _join(one: Namespace, other: Namespace, device: str, address: str, other_address: str) -> None:
    one.ip(
        f"link add {device} type veth peer name {device} netns {other.name}",
        f"address add {address}/24 dev {device}",
        f"link set {device} up",
    )
    other.ip(f"address add {other_address}/24 dev {device}", f"link set {device} up")


def _remove(namespace: Namespace) -> None:
    subprocess.run(["ip", "netns", "delete", namespace.name], env=environment(), check=False)

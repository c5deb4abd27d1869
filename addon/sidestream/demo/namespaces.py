"""
Network namespaces: a pod and the world beside it, joined by a cable.

Names are unique to the process, and everything is removed at the end. Linux and root only.

Source: ip-netns(8); RFC 5737 and RFC 3849 for the addresses.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

_numbers = itertools.count()


class Namespace:
    """One network namespace. Addresses given to it are reachable from its neighbour."""

    def __init__(self, name: str, device: str, address: str) -> None:
        self.name = name
        self.device = device
        self.address = address
        self._hosts = itertools.count(100)

    def command(self, command: list[str]) -> list[str]:
        """Return `command` as it runs inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def ip(self, *arguments: str) -> None:
        """Configure the network inside."""
        subprocess.run(["ip", "-n", self.name, *arguments], check=True)

    def add_address(self) -> str:
        """Give it another address and return that."""
        address = f"{self.address.rpartition('.')[0]}.{next(self._hosts)}"
        self.ip("address", "add", f"{address}/32", "dev", self.device)
        return address

    def write_hosts(self, hosts: Mapping[str, str]) -> None:
        """Let host → address hold inside; `ip netns exec` shows it as /etc/hosts."""
        folder = Path("/etc/netns") / self.name
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread's sockets be made inside."""
        with Path("/proc/thread-self/ns/net").open() as here, Path("/run/netns", self.name).open() as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(here.fileno(), os.CLONE_NEWNET)


@contextlib.contextmanager
def connected() -> Iterator[tuple[Namespace, Namespace]]:
    """Make a pod and the world, joined by a cable; the pod's default route leads to the world."""
    suffix = f"{os.getpid()}-{next(_numbers)}"
    pod = Namespace(f"sidestream-pod-{suffix}", "eth0", "192.0.2.2")
    world = Namespace(f"sidestream-net-{suffix}", "eth0", "192.0.2.1")
    with contextlib.ExitStack() as stack:
        for namespace in (pod, world):
            subprocess.run(["ip", "netns", "add", namespace.name], check=True)
            stack.callback(_remove, namespace)
        cable = ["type", "veth", "peer", "name", world.device, "netns", world.name]
        pod.ip("link", "add", pod.device, *cable)
        for namespace in (pod, world):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("address", "add", f"{namespace.address}/24", "dev", namespace.device)
            namespace.ip("link", "set", namespace.device, "up")
        pod.ip("route", "add", "default", "via", world.address)
        yield pod, world


def _remove(namespace: Namespace) -> None:
    subprocess.run(["ip", "netns", "delete", namespace.name], check=False)
    shutil.rmtree(Path("/etc/netns") / namespace.name, ignore_errors=True)

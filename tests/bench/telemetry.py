"""
`make bench-telemetry`: measure what telling costs: Sidestream that tells something beside one that is silent.

The two run at the same time, on the same core, under the same load, and what counts is the ratio of what a call takes
of each: from one second to the next, a machine that is shared is faster or slower by more than telling takes.
It exits 1 when a median is not under the target. Needs Linux and root.
"""

import argparse
import contextlib
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.bench.load import Load
from tests.bench.products import Product, sidestream
from tests.bench.scene import missing
from tests.bench.stage import Actor, set_up

CONNECTIONS = 32
"""How many connections call each of the two: enough that none waits for work."""
WARM_UP_SECONDS = 2
TARGET_PERCENT = 10

COSTS = ("--set", "sidestream_cost=true", "--set", "sidestream_asm_names=true")
SPANS = ("--otel",)

SILENT = sidestream(1, "silent", "neither records nor admin endpoint", ("--admin", "off", "--set", "sidestream_log="))
TELLING = (
    sidestream(2, "default", "records and metrics, as by default"),
    sidestream(3, "costs", "with costs and ASM's names, too", COSTS),
    sidestream(4, "spans", "with a span for each call and attempt, too", SPANS),
    sidestream(5, "all", "with all of it", (*COSTS, *SPANS)),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-telemetry", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="how often each is measured; default: 10")
    parser.add_argument("--seconds", type=int, default=4, metavar="N", help="how long each time; default: 4")
    options = parser.parse_args()
    if problem := missing():
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        stage = set_up(stack, gap=0.02)
        silent, *telling = _started(stage.play(stack, [SILENT, *TELLING]), stage.missing)
        load = Load(stage.folder)
        _call(load, [silent, *telling], WARM_UP_SECONDS)
        seen = {actor.product: [] for actor in telling}
        for number in range(options.rounds):
            print(f"bench: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for actor in telling:
                seen[actor.product].append(_call(load, [actor, silent], options.seconds))
    shares = {product: _more(pairs) for product, pairs in seen.items()}
    print(_table(seen, shares))
    return 0 if all(statistics.median(each) < TARGET_PERCENT for each in shares.values()) else 1


def _started(actors: list[Actor], missing: dict[str, str]) -> list[Actor]:
    if missing:
        raise SystemExit("\n".join(f"bench: {name}: {reason}" for name, reason in missing.items()))
    return actors


def _call(load: Load, actors: Sequence[Actor], seconds: int) -> list[float]:
    """Call all of `actors` at the same time; return the processor time of a call of each, in milliseconds."""
    with contextlib.ExitStack() as running, ThreadPoolExecutor(len(actors)) as pool:
        for actor in actors:
            running.enter_context(actor.running())
        with contextlib.ExitStack() as measured:
            watches = [measured.enter_context(actor.watch()) for actor in actors]
            calls = list(pool.map(lambda actor: load.chat(actor.where, actor.target, CONNECTIONS, seconds), actors))
    return [1000 * watch.cpu / made.good for watch, made in zip(watches, calls, strict=True)]


def _more(pairs: list[list[float]]) -> list[float]:
    """Return by how many percent the telling one took more, from the least to the most."""
    return sorted(100 * (telling / silent - 1) for telling, silent in pairs)


def _table(seen: dict[Product, list[list[float]]], shares: dict[Product, list[float]]) -> str:
    lines = [f"{'CPU ms/call, medians':44}{'telling':>9}{'silent':>9}{'more':>8}{'from':>8}{'to':>8}"]
    for product, pairs in seen.items():
        telling, silent = (statistics.median(each) for each in zip(*pairs, strict=True))
        share, least, most = statistics.median(shares[product]), shares[product][0], shares[product][-1]
        verdict = "" if share < TARGET_PERCENT else f"  not under {TARGET_PERCENT} %"
        numbers = f"{telling:9.3f}{silent:9.3f}{share:7.1f}%{least:7.1f}%{most:7.1f}%"
        lines.append(f"{product.title:44}{numbers}{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

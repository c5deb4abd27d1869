"""
The soak: steady load with faults on a real proxy, for as long as you like.

    python -m tests.soak --minutes 30 --rate 60

Exits 0 when nothing was lost, doubled or mixed up and the proxy is in the end as it was in the
beginning; otherwise 1, with the first offending calls in full. See README.md beside this file.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import statistics
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, replace
from pathlib import Path

from tests.soak import asking, recording
from tests.soak.drawing import draw
from tests.soak.load import Load
from tests.soak.measuring import Sample, growth_kb, look, starved
from tests.soak.recording import Acted
from tests.soak.staging import Stage, staged
from tests.soak.watching import Watcher, flags, watching
from tests.world import free_port

SAMPLE_SECONDS = 2.0
SETTLE_SECONDS = 90.0
"""How long the proxy may take to let go of everything after the load has ended."""
WARM_UP_SECONDS, WARM_UP_SHARE = 90.0, 0.25
"""
The time that does not count for memory, at least and as a share of the whole.

Until then caches fill and the heap finds its size.
"""
MAX_GROWTH_KB = 32 * 1024
MAX_GROWTH_KB_PER_CALL = 0.5
"""
Memory is flat if it grows by no more than either after the warm-up, in all and per call.

The heap goes up and down with the bodies that are under way: in runs of 5 minutes by up to 28 MB, either way.
"""
CENSUS_SECONDS = 4.0
"""How long the proxy may take to collect garbage and to count its objects."""
LAST_CALLS = 40
"""How many healthy calls are made after the storm; all must be answered."""
SHOWN = 5
"""How many offences are shown in full; the report has more."""


class Soak:
    """One run on a stage."""

    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self.stage, self.options = stage, options
        self.load = Load(stage.proxy.port, seed=options.seed, most=options.most, keys=stage.keys)
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.census: dict = {}
        self.said = ""
        self.watcher: Watcher | None = None
        self.began = time.monotonic()

    def sample(self) -> Sample:
        lines = self.stage.inside.read_text().splitlines(keepends=True) if self.stage.inside.exists() else []
        whole = [line for line in lines[-2:] if line.endswith("\n")]
        told = json.loads(whole[-1]) if whole else {"tasks": 0, "lag": 0.0}
        return Sample(
            at=round(time.monotonic() - self.began, 2),
            tasks=told["tasks"],
            lag=told["lag"],
            providers_open=self._providers_open(),
            finished=len(self.load.done),
            under_way=self.load.under_way,
            **look(self.stage.proxy.process.pid, self.stage.ports),
        )

    def _providers_open(self):
        count = 0
        for name in self.stage.providers:
            with (self.stage.folder / f"{name}.jsonl").open("rb") as journal:
                journal.seek(0, 2)
                journal.seek(max(0, journal.tell() - 200_000))
                lines = [line for line in journal.read().splitlines(keepends=True) if line.endswith(b"}\n")]
            count += next((json.loads(line)["open"] for line in reversed(lines) if b'"open"' in line), 0)
        return count

    async def run(self) -> Acted:
        await asyncio.sleep(3)  # until the proxy has told of its tasks, and importing is over
        self.samples.append(self.sample())
        acted = await self._probe()
        self.stage.be_moody()
        sampling = asyncio.create_task(self._keep_sampling())
        async with self._watched():
            deadline = time.monotonic() + self.options.minutes * 60
            await self.load.run(self.options.rate, lambda: time.monotonic() > deadline or self._has_ended())
        self.stage.be_well()
        await asyncio.sleep(1)
        asks = [asking.healthy(f"soak-last-{n}", (asking.ROUTED, asking.DIRECT)[n % 2]) for n in range(LAST_CALLS)]
        verdicts = [await self.load.make(ask) for ask in asks]
        if not all(verdict.kind == "complete" for verdict in verdicts):
            self.failures.append(f"after the load, healthy calls fail: {Counter(v.kind for v in verdicts)}")
        await self.load.leave()
        await self._settle()
        sampling.cancel()
        return acted

    @contextlib.asynccontextmanager
    async def _watched(self):
        """With `--web`, have a browser look all the while."""
        if self.options.web is None:
            yield
            return
        async with watching(self.stage.folder, self.options.web) as self.watcher:
            yield
        most, allowed = max(self.watcher.kept, default=0), self.options.flows * 1.05 + self.options.most
        if not self.watcher.opened or most > allowed:
            self.failures.append(f"{self.watcher.opened} pages were opened, and {most} flows kept")

    def _has_ended(self):
        return self.stage.proxy.process.poll() is not None

    async def _probe(self):
        """See what the product acts on: the checks are as strict as that allows."""
        dead = asking.healthy("soak-probe-fallback", asking.DEAD_FIRST)
        stalled = replace(asking.healthy("soak-probe-timeouts"), settings="stall=0")
        fallback, timeouts = await asyncio.gather(self.load.make(dead), self.load.make(stalled))
        return Acted(fallback=fallback.kind == "complete", timeouts=timeouts.kind != "gave up")

    async def _keep_sampling(self):
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self.samples.append(sample := self.sample())
            if len(self.samples) % 15 == 0:
                say(
                    f"  {sample.at:6.0f} s  {sample.finished:7d} calls  {sample.rss_kb / 1024:6.1f} MB  "
                    f"{sample.fds:4d} fds  {sample.tasks:4d} tasks  {len(self.load.evidence)} offences"
                )

    async def _settle(self):
        """Wait until the proxy is as it was; say what it did not let go of."""
        first, deadline = self.samples[0], time.monotonic() + self.options.settle
        while (left := _left_over(first, self.sample())) and time.monotonic() < deadline:  # noqa: ASYNC110 it does not tell
            await asyncio.sleep(1)
        self.failures += [f"{self.options.settle:.0f} s after the load: {what}" for what in left]
        self.samples.append(self.sample())
        census = self.stage.inside.with_name(self.stage.inside.name + ".census")
        # What is collected now reports resets that nobody asked about; that is the census' doing.
        self.said = self.stage.proxy.said
        census.touch()
        await asyncio.sleep(CENSUS_SECONDS)
        self.census = json.loads(census.read_text() or "{}")
        if left:
            self.failures.append(
                f"after a garbage collection: {_left_over(first, self.sample()) or 'all is let go of'}"
            )


def _left_over(first, now):
    left = [
        f"{name} {getattr(now, name)}, at the start {getattr(first, name)}"
        for name in ("fds", "tasks", "threads", "providers_open")
        if getattr(now, name) > getattr(first, name)
    ]
    sockets = {kind: count for kind, count in now.sockets.items() if count > first.sockets.get(kind, 0)}
    return [*left, f"sockets {sockets}"] if sockets else left


def check(soak: Soak, acted: Acted) -> dict:
    """Compare what clients, providers, records and the log say; return what is worth reporting."""
    load, stage, failures = soak.load, soak.stage, soak.failures
    status = stage.proxy.stop()
    if status:
        failures.append(f"the proxy ended with status {status}")
    journal, records = stage.journal(), stage.proxy.records
    attempts = defaultdict(list)
    for line in journal:
        if "tag" in line:
            attempts[line["tag"]].append(line)
    starved_at = [(soak.began + since, soak.began + to) for since, to in starved(soak.samples)]
    restarts = [line["at"] for line in journal if "restart" in line]
    _gather(
        load,
        records,
        attempts,
        [
            *recording.check_records(load.done, records),
            *recording.check_words(records),
            *recording.check_reasons(load.done, attempts, acted, restarts=restarts, starved=starved_at),
        ],
    )
    if load.evidence:
        failures.append(f"{len(load.evidence)} calls went wrong")
    said, written = stage.proxy.said, stage.proxy.log.read_text()
    failures += [f"a key is in the {name}" for name, text in (("log", said), ("records", written)) if _has(text, stage)]
    broken = [line for line in soak.said.splitlines() if recording.is_log_of_failure(line)]
    if broken:
        failures.append(f"the log tells of {len(broken)} failures, the first: {broken[0][:300]}")
    grown, over = growth_kb(soak.samples[1:-1], max(WARM_UP_SECONDS, soak.options.minutes * 60 * WARM_UP_SHARE))
    if grown > max(MAX_GROWTH_KB, MAX_GROWTH_KB_PER_CALL * over):
        failures.append(f"memory grew by {grown:.0f} KB over {over} calls")
    complete = [call for call in load.done if call.verdict.kind == "complete"]
    ill = [call for call in complete if any(recording.is_faulty(line["mood"]) for line in attempts.get(call.tag, ()))]
    return {
        "acted_on": asdict(acted),
        "calls": len(load.done),
        "verdicts": Counter(call.verdict.kind for call in load.done),
        "counts": load.counts,
        "records": len(records),
        "errors_in_records": Counter(str(record["error"]) for record in records),
        "requests_at_providers": Counter(line["provider"] for line in journal if "tag" in line),
        "complete_though_a_provider_was_ill": len(ill),
        "restarts_of_providers": len(restarts),
        "memory_growth_kb": {"kb": grown, "over_calls": over},
        "cpu_ms_per_call": round(1000 * _over(soak, "cpu_seconds") / max(1, _over(soak, "finished")), 2),
        "seconds_of_complete_answers": _percentiles([call.ended - call.began for call in complete]),
        "seconds_the_loop_was_late": _percentiles([sample.lag for sample in soak.samples]),
        "seconds_without_cpu": round(_over(soak, "waited_seconds"), 1),
        "seconds_starved": round(sum(to - since for since, to in starved_at), 1),
        "offences": Counter(evidence["complaint"][:60] for evidence in load.evidence.values()),
        "pages": asdict(soak.watcher) | {"kept": _percentiles(soak.watcher.kept)} if soak.watcher else None,
        "log_lines_of_failure": broken[:50],
    }


def _gather(load, records, attempts, found):
    """Put all that is known of the calls that went wrong into `load.evidence`."""
    calls = {call.tag: call for call in load.done}
    of_tag = {record["request_model"]: record for record in records}
    for tag, complaint in found:
        call = calls.get(tag)
        if call is not None and call.number:
            load.offend(load.drawn(call.number), None, complaint)
        evidence = load.evidence.setdefault(tag, {"complaint": complaint})
        evidence["seen"] = asdict(call) if call else [asdict(c) for c in load.done if c.address == tag]
    for tag, evidence in load.evidence.items():
        nameless = [record for record in records if record["client"] == tag]
        evidence["record"], evidence["attempts"] = of_tag.get(tag, nameless), attempts.get(tag, [])


def _over(soak, name):
    return getattr(soak.samples[-1], name) - getattr(soak.samples[0], name)


def _percentiles(values):
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [0.0] * 99
    return {f"p{n}": round(cuts[n - 1], 3) for n in (50, 95, 99)} | {"most": round(max(values, default=0.0), 3)}


def _has(text, stage):
    return any(key in text for key in stage.keys)


def summarise(soak: Soak, facts: dict) -> str:
    """Write the table that stands at the end."""
    first, last = soak.samples[0], soak.samples[-1]
    lines = [f"{name:32} {_flat(value)}" for name, value in facts.items() if name != "log_lines_of_failure"]
    lines += ["", f"{'':32} {'start':>8} {'median':>8} {'most':>8} {'end':>8}"]
    for name in ("rss_kb", "fds", "threads", "tasks", "providers_open", "under_way"):
        values = [getattr(sample, name) for sample in soak.samples]
        ends = getattr(first, name), statistics.median(values), max(values), getattr(last, name)
        lines.append(f"{name:32} " + " ".join(f"{value:8.0f}" for value in ends))
    lines += [
        "sockets at the start".ljust(33) + _flat(first.sockets),
        "sockets at the end".ljust(33) + _flat(last.sockets),
    ]
    return "\n".join(lines)


def _flat(value):
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=60.0, help="calls per second, in all")
    parser.add_argument("--most", type=int, default=64, help="calls under way; one that finds no place waits")
    parser.add_argument("--seed", type=int, default=None, help="the same seed draws the same calls")
    parser.add_argument("--web", action="store_true", help="with mitmweb open in a browser (Chromium)")
    parser.add_argument("--flows", type=int, default=1000, help="how many flows mitmweb keeps")
    parser.add_argument("--settle", type=float, default=SETTLE_SECONDS, metavar="SECONDS", help="to let go of all")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), metavar="DIR", help="made anew")
    options = parser.parse_args()
    options.seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    shutil.rmtree(options.out, ignore_errors=True)
    folder = options.out.absolute() / "stage"
    folder.mkdir(parents=True)
    say(f"soak: {options.minutes:g} minutes at {options.rate:g} calls per second, seed {options.seed}")
    options.web = free_port() if options.web else None
    with staged(folder, options.seed, flags(options.web, options.flows) if options.web else ()) as stage:
        soak = Soak(stage, options)
        acted = asyncio.run(soak.run())
        facts = check(soak, acted)
    report = facts | {
        "options": {name: str(value) for name, value in vars(options).items()},
        "failures": soak.failures,
        "census": soak.census,
        "evidence": dict(list(soak.load.evidence.items())[:300]),
        "samples": [sample.as_dict() for sample in soak.samples],
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    title = f"{facts['calls']} calls in {options.minutes:g} minutes, seed {options.seed}"
    (options.out / "soak.svg").write_text(draw(soak.samples, title))
    for tag, evidence in list(soak.load.evidence.items())[:SHOWN]:
        say(f"\n{tag}: {json.dumps(evidence, indent=1, ensure_ascii=False)}")
    say("\n" + summarise(soak, facts) + f"\n\nreport: {options.out}/report.json, chart: {options.out}/soak.svg")
    for failure in soak.failures:
        say(f"FAILED: {failure}")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())

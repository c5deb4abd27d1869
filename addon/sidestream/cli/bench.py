"""
What policies cost: `python -m sidestream.cli.bench`.

Makes a policy of many providers and rules, and prints how long it takes to read, to compile and
to decide by, beside a small one: deciding must not grow with the number of hosts.
"""

import argparse
import collections
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidestream.core.planning import plan
from sidestream.core.routing import Forward, RequestView, decide
from sidestream.core.snapshot import Snapshot
from sidestream.policy.compiling import compile_policy
from sidestream.policy.places import Text
from sidestream.policy.reading import read_documents
from sidestream.policy.syntax import parse
from sidestream.sources.folder import FilesAndEnvironment

RULES_PER_ROUTE = 10
SMALL = 10
"""How many providers the small policy has."""

PROVIDER = """\
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMProvider
metadata: {{name: provider-{n}}}
spec:
  host: provider-{n}.example
  path: /compatible-mode/v1/chat/completions
  configs:
    defaultConfig:
      openAIConfig: {{model: model-{n}, apiKey: "${{KEY}}"}}
    routeSpecificConfigs:
      rule-1: {{openAIConfig: {{model: model-{n}-turbo}}}}
---
"""
ROUTE_HEAD = """\
apiVersion: istio.alibabacloud.com/v1beta1
kind: LLMRoute
metadata: {{name: route-{n}}}
spec:
  host: route-{n}.example
  rules:
"""
RULE = """\
  - name: rule-{rule}
    matches:
    - headers:
        user-type: {{exact: tier-{rule}}}
        x-team: {{prefix: team-}}
    - headers: {{x-agent: {{regex: "agent-[0-9]+-{rule}"}}}}
      model: {{prefix: gpt-}}
    backendRefs:
    - {{providerHost: provider-{n}.example, weight: 80}}
    - {{providerHost: provider-{other}.example, weight: 20}}
"""
LAST_RULE = """\
  - name: rule-{rule}
    backendRefs:
    - {{providerHost: provider-{n}.example}}
---
"""


@dataclass(frozen=True, slots=True)
class Deciding:
    """How long decisions and plans took, in microseconds."""

    decide_median: float
    decide_p99: float
    plan_median: float


def policy_text(providers: int) -> bytes:
    """Return a policy of so many providers, as many routes, and `RULES_PER_ROUTE` rules in each."""
    parts = []
    for n in range(providers):
        parts += [PROVIDER.format(n=n), ROUTE_HEAD.format(n=n)]
        other = (n + 1) % providers
        parts += [RULE.format(n=n, rule=rule, other=other) for rule in range(RULES_PER_ROUTE - 1)]
        parts.append(LAST_RULE.format(n=n, rule=RULES_PER_ROUTE - 1))
    return "".join(parts).encode()


def measure_deciding(snapshot: Snapshot, providers: int, calls: int) -> Deciding:
    """Decide `calls` requests over all hosts; a tenth reach each rule, so half the rules are tried on average."""
    deciding, planning = [], []
    for call in range(calls):
        headers = {"user-type": f"tier-{call % RULES_PER_ROUTE}", "x-team": "team-a", "user-agent": "openai"}
        body: dict[str, object] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
        request = RequestView("POST", f"route-{call % providers}.example", "/v1/chat/completions", headers, body)
        began = time.perf_counter()
        decision = decide(request, snapshot, draw=call / calls)
        deciding.append(time.perf_counter() - began)
        assert isinstance(decision, Forward), "the last rule of every route matches"
        began = time.perf_counter()
        plan(decision, request)
        planning.append(time.perf_counter() - began)
    return Deciding(
        statistics.median(deciding) * 1e6, sorted(deciding)[int(calls * 0.99)] * 1e6, statistics.median(planning) * 1e6
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measure what policies cost.")
    parser.add_argument("--providers", type=int, default=1000, help="each with a route of its own; default: 1000")
    parser.add_argument("--calls", type=int, default=20_000, help="requests to decide; default: 20000")
    parser.add_argument("--rounds", type=int, default=5, help="of reading and compiling; the best counts")
    options = parser.parse_args()

    text = Text("bench.yaml", Path(), policy_text(options.providers))
    small = Text("small.yaml", Path(), policy_text(SMALL))
    resolver = FilesAndEnvironment({"KEY": "sk-made-up"})
    parsing = _seconds(lambda: collections.deque(parse(text.content.decode()), maxlen=0), options.rounds)
    reading = _seconds(lambda: read_documents([text]), options.rounds)
    whole = _seconds(lambda: compile_policy([text], resolver).require(), options.rounds)
    tracemalloc.start()
    snapshot = compile_policy([text], resolver).require()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    small_snapshot = compile_policy([small], resolver).require()

    rules = options.providers * RULES_PER_ROUTE
    size = len(text.content) // 1024
    print(f"{options.providers} providers, {options.providers} routes, {rules} rules, {size} KiB of YAML")
    print(f"  read YAML       {parsing:8.2f} s")
    print(f"  check fields    {reading - parsing:8.2f} s")
    print(f"  compile         {whole - reading:8.2f} s")
    print(f"  all of it       {whole:8.2f} s")
    print(f"  memory          {kept / 2**20:8.1f} MiB, of the snapshot")
    for name, measured, providers in (("small", small_snapshot, SMALL), ("large", snapshot, options.providers)):
        figures = measure_deciding(measured, providers, options.calls)
        print(f"{name}: {providers} hosts with {RULES_PER_ROUTE} rules each")
        print(f"  decide          {figures.decide_median:8.1f} µs median, {figures.decide_p99:.1f} µs p99")
        print(f"  plan            {figures.plan_median:8.1f} µs median")


def _seconds(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)  # whatever else the machine does only adds


if __name__ == "__main__":
    main()

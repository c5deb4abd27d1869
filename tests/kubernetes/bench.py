"""
Measures the control plane: 1,000 providers and 1,000 routes in 50 namespaces, and one change in it.

    make bench-control

The API server is the stand-in of the tests, in the same process and on the same interpreter lock, so times are upper
bounds. Calls are counted there, as they arrive.
"""

import argparse
import contextlib
import itertools
import logging
import statistics
import sys
import time
from collections import Counter

from sidestream.control.bundling import Entry, bundle
from sidestream.sources.kubernetes.objects import document_of
from tests.control.cluster import keyed, resource_of, secret, to
from tests.kubernetes.apiserver import ApiServer, running
from tests.kubernetes.clusters import controlling, pod

NAMESPACES = 50
PER_NAMESPACE = 20
CHANGES = 15
PODS = (0, 10, 100, 1000)

CHANGED = "team-7"
"""The namespace in which something is changed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--changes", type=int, default=CHANGES)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    documents = list(written())
    print(f"{len(documents)} documents in {NAMESPACES} namespaces, a key each; Python {sys.version.split()[0]}\n")
    say("compiling all of it, without any API", seconds=compiling(documents))
    with running() as server:
        for document in documents:
            server.apply(document)
            if document["kind"] == "LLMProvider":
                name = document["metadata"]["name"]
                server.apply(secret(name, namespace=document["metadata"]["namespace"], alpha=f"sk-{name}"))
        server.calls.clear()
        with controlling(server):
            took = until(lambda: is_done(server), every=0.1)
            say("from nothing to every bundle and status", seconds=took, server=server)
        server.calls.clear()
        started = time.monotonic()
        with controlling(server, leads=False):
            say("a restart, until it knows all", seconds=time.monotonic() - started, server=server)
        for pods in PODS:
            one_change(server, pods, options.changes if pods < 1000 else min(3, options.changes))


def written():
    """All documents: in each namespace 20 providers, each with a key of its own, and 20 routes."""
    for space, number in itertools.product(range(NAMESPACES), range(PER_NAMESPACE)):
        names = {"name": f"p{number}", "namespace": f"team-{space}"}
        host = f"api{number}.team-{space}.example"
        yield keyed(host, f"model: m, apiKeyFrom: {{secretKeyRef: {{name: p{number}, key: alpha}}}}", **names)
        yield to(f"chat{number}", host, f"api{(number + 1) % PER_NAMESPACE}.team-{space}.example", **names)


def compiling(documents: list[dict]) -> float:
    """Bundle every namespace once."""
    spaces: dict[str, list[Entry]] = {}
    for document in documents:
        spaces.setdefault(document["metadata"]["namespace"], []).append(
            Entry(document_of(resource_of(document), document))
        )
    secrets = {f"p{number}": {"alpha": "sk"} for number in range(PER_NAMESPACE)}
    started = time.monotonic()
    for entries in spaces.values():
        made = bundle(entries, secrets)
        assert len(made.bundles[0].files) == 3 * PER_NAMESPACE
    return time.monotonic() - started


def one_change(server: ApiServer, pods: int, changes: int) -> None:
    """Change the model of one provider, again and again, where `pods` pods mount the bundle."""
    for number in range(pods):
        if server.get("Pod", f"pod-{number}", CHANGED) is None:
            server.apply(pod(f"pod-{number}", namespace=CHANGED))
    took, nudged, calls = [], [], Counter()
    with controlling(server):
        changed(server, pods, f"m-{pods}")  # the first one waits until all namespaces were looked at
        for change in range(changes):
            bundle_seconds, pods_seconds = changed(server, pods, f"m-{pods}-{change}")
            took.append(bundle_seconds)
            nudged.append(pods_seconds)
            calls += counted(server)
    each = ", ".join(f"{number / changes:g} {call}" for call, number in sorted(calls.items()))
    last = f"; to the last pod {statistics.median(nudged):.2f} s" if pods else ""
    print(
        f"one change, {pods} pods: to the new bundle {1000 * statistics.median(took):.0f} ms "
        f"(at most {1000 * max(took):.0f} ms of {changes}){last}\n    calls: {each}"
    )


def changed(server: ApiServer, pods: int, model: str) -> tuple[float, float]:
    """Give a provider another model. Return how long that takes to the bundle, and to the last of its pods."""
    body = f"model: {model}, apiKeyFrom: {{secretKeyRef: {{name: p3, key: alpha}}}}"
    server.calls.clear()
    server.apply(keyed(f"api3.{CHANGED}.example", body, name="p3", namespace=CHANGED))
    bundle_seconds = until(lambda: model.encode() in server.files(namespace=CHANGED)["llmprovider.p3.yaml"])
    pods_seconds = bundle_seconds + until(lambda: server.count("patch", "pods") == pods, every=0.02)
    until(lambda: server.count("patch", "llmproviders/status") and server.count("list", "pods"))
    return bundle_seconds, pods_seconds


def is_done(server: ApiServer) -> bool:
    return (
        server.count("patch", "llmproviders/status") == NAMESPACES * PER_NAMESPACE
        and server.count("patch", "llmroutes/status") == NAMESPACES * PER_NAMESPACE
    )


def until(condition, *, every: float = 0.002) -> float:
    """Look for `condition` so many seconds apart, and return how long it took to come."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + 300, "it did not come to that"
        time.sleep(every)
    return time.monotonic() - started


def counted(server: ApiServer) -> Counter:
    return Counter({call: number for call, number in server.counted().items() if not call.startswith("watch")})


def say(what: str, *, seconds: float, server: ApiServer | None = None) -> None:
    print(f"{what}: {seconds:.2f} s")
    if server is not None:
        print("    calls: " + ", ".join(f"{number} {call}" for call, number in sorted(counted(server).items())))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()

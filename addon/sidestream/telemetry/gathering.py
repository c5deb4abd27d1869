"""
One admin endpoint for several workers: what each of theirs says, put together.

A worker's endpoint is a socket file. Counters of a worker that has ended stay in the sum as they
were when somebody last looked: a sum that went down would look like a restart of all.
"""

import http.client
import itertools
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sidestream.telemetry.admin import JSON_TYPE, UNIX, Page, Pages
from sidestream.telemetry.metrics import CONTENT_TYPE
from sidestream.telemetry.recent import MAX_RECORDS

PATIENCE_SECONDS = 5.0
"""How long a worker is waited for."""

ALIKE = frozenset({"sidestream_policy_info", "sidestream_policy_problems"})
"""Metrics that all workers have alike, so that they are not added up."""

type Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""A sample: its family, its name, its labels."""


class Gathering:
    """The pages of `number` workers together, whose sockets are in `folder`."""

    def __init__(self, number: int, folder: Path) -> None:
        self._number = number
        self._folder = folder
        self._addresses: dict[int, str] = {}
        self._begun = itertools.count()
        self._families: dict[str, Metric] = {}
        self._last: dict[str, dict[Key, float]] = {}
        self._ended: dict[Key, float] = {}
        self._lock = threading.Lock()

    def began(self, index: int) -> str:
        """Take note that worker `index` starts; return the address for its endpoint: another each time."""
        self._addresses[index] = address = f"{UNIX}{self._folder / f'{next(self._begun)}.sock'}"
        return address

    def ended(self, index: int) -> None:
        """Take note that worker `index` is no more."""
        self._addresses.pop(index, None)

    def pages(self) -> Pages:
        """Return what `AdminEndpoint` serves."""
        return {
            "/metrics": lambda: Page(self._metrics(), CONTENT_TYPE),
            "/healthz/live": lambda: Page(b"alive\n"),
            "/healthz/ready": self._ready,
            "/policy": lambda: next(iter(self._all("/policy")), Page(b"no worker answers\n", status=503)),
            "/exchanges": self._exchanges,
        }

    def _all(self, path: str) -> list[Page]:
        found = (_ask(address, path) for address in list(self._addresses.values()))
        return [page for page in found if page is not None]

    def _ready(self) -> Page:
        pages = self._all("/healthz/ready")
        ready = sum(page.status == http.client.OK for page in pages)
        return Page.of_readiness(None if ready == self._number else f"{ready} of {self._number} workers are")

    def _exchanges(self) -> Page:
        told = [json.loads(page.body) for page in self._all("/exchanges") if page.content_type == JSON_TYPE]
        live = sorted((each for one in told for each in one["live"]), key=_time)
        recent = sorted((each for one in told for each in one["recent"]), key=_time, reverse=True)
        return Page.of_json({"live": live, "recent": recent[:MAX_RECORDS]})

    def _metrics(self) -> bytes:
        with self._lock:  # several may ask at a time, each in a thread
            return self._gathered()

    def _gathered(self) -> bytes:
        live = dict(self._addresses)
        for address in live.values():
            page = _ask(address, "/metrics")
            if page is not None:
                self._last[address] = self._samples(page.body.decode())
        for address in self._last.keys() - set(live.values()):
            self._keep(self._last.pop(address))
        sums = _Sums(self._families)
        for samples in (self._ended, *self._last.values()):
            sums.add(samples)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(sums)
        return generate_latest(registry)

    def _keep(self, samples: Mapping[Key, float]) -> None:
        """Add what a worker that has ended had counted to what others had: of each alone, nothing is kept."""
        for key, value in samples.items():
            if self._families[key[0]].type != "gauge":
                self._ended[key] = self._ended.get(key, 0.0) + value

    def _samples(self, text: str) -> dict[Key, float]:
        """Return the samples of an exposition, and take note of their families."""
        samples: dict[Key, float] = {}
        for family in text_string_to_metric_families(text):
            self._families.setdefault(family.name, family)
            for sample in family.samples:
                samples[family.name, sample.name, tuple(sample.labels.items())] = sample.value
        return samples


class _Sums(Collector):
    """The sums of samples of `families`."""

    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families
        self._values: dict[str, dict[Key, float]] = {name: {} for name in families}

    def add(self, samples: Mapping[Key, float]) -> None:
        for key, value in samples.items():
            family = self._families[key[0]]
            values = self._values[family.name]
            known = values.get(key, 0.0)
            values[key] = max(known, value) if family.name in ALIKE else known + value

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            summed = Metric(family.name, family.documentation, family.type)
            for (_, sample, labels), value in self._values[name].items():
                summed.add_sample(sample, dict(labels), value)
            yield summed


def _ask(address: str, path: str) -> Page | None:
    """Return a worker's page; ``None``: it does not answer."""
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_SECONDS)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_SECONDS)
        connection.sock.connect(address.removeprefix(UNIX))
        connection.request("GET", path)
        answer = connection.getresponse()
        return Page(answer.read(), answer.headers.get("content-type", ""), answer.status)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _time(entry: Mapping[str, Any]) -> str:
    return str(entry["time"])

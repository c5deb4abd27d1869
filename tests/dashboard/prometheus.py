"""A real Prometheus, in a pod: it scrapes the proxy there, and is asked."""

import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.dashboard.panels import SCRAPE_SECONDS
from tests.namespaces import Namespace, environment
from tests.world import wait_for

ADDRESS = "127.0.0.1:9090"
RATE_INTERVAL = f"{4 * SCRAPE_SECONDS}s"
"""What Grafana makes of `$__rate_interval` when steps are as short as this."""

_CONFIG = """\
global: {scrape_interval: %ds}
scrape_configs:
- job_name: sidestream
  static_configs: [{targets: ["127.0.0.1:15020"]}]
"""


class Prometheus:
    """Asks the Prometheus of a `namespace`."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def range(self, expression: str, start: float, end: float) -> dict:
        """Return the answer to a query over the time from `start` to `end`."""
        query = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{SCRAPE_SECONDS}"}
        return json.loads(self._get(f"/api/v1/query_range?{urllib.parse.urlencode(query)}"))

    def is_scraping(self) -> bool:
        """Tell whether it has seen the proxy."""
        try:
            up = json.loads(self._get("/api/v1/query?query=up"))
        except OSError:
            return False
        return any(one["value"][1] == "1" for one in up["data"]["result"])

    def _get(self, path: str) -> bytes:
        with self._namespace.entered(), self._open(f"http://{ADDRESS}{path}", timeout=20) as answer:
            return answer.read()


@contextlib.contextmanager
def scraping(namespace: Namespace, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus in `namespace`, until the block ends; it begins with the first scrape."""
    config = folder / "prometheus.yaml"
    config.write_text(_CONFIG % SCRAPE_SECONDS)
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address={ADDRESS}", "--log.level=warn"]
    said = folder / "prometheus.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(namespace.command(*command), stdout=output, stderr=output, env=environment())
    try:
        asked = Prometheus(namespace)
        wait_for(lambda: process.poll() is not None or asked.is_scraping(), 60)
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus did not start: {said.read_text()}")
        yield asked
    finally:
        process.terminate()
        process.wait(20)


def missing() -> str | None:
    """Say what is missing to run it."""
    return None if shutil.which("prometheus") else "there is no Prometheus here (Debian: prometheus)"

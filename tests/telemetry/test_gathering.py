"""What several workers say, put together."""

from pathlib import Path

import pytest

from sidestream.telemetry import gathering
from sidestream.telemetry.admin import Page
from sidestream.telemetry.gathering import Gathering

TOLD = b"""\
# HELP sidestream_retries_total Attempts that followed a failed one.
# TYPE sidestream_retries_total counter
sidestream_retries_total 2.0
# HELP sidestream_live_exchanges Exchanges under way.
# TYPE sidestream_live_exchanges gauge
sidestream_live_exchanges 1.0
"""


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.setattr(gathering, "_ask", lambda *_: Page(TOLD))
    return Gathering(1, Path("sockets"))


def metrics(workers):
    return workers.pages()["/metrics"]().body.decode()


def test_what_workers_that_ended_had_counted_stays_and_what_they_were_does_not(workers):
    for _ in range(5):
        workers.began(0)
        metrics(workers)
        workers.ended(0)
    workers.began(0)

    told = metrics(workers)

    assert "sidestream_retries_total 12.0" in told
    assert "sidestream_live_exchanges 1.0" in told


def test_nothing_is_kept_of_each_worker_that_ended(workers):
    for _ in range(5):
        workers.began(0)
        metrics(workers)
        workers.ended(0)

    metrics(workers)

    assert len(workers._last) == 0

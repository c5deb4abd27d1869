"""
The thread that makes spans of records, and sends them and the metrics.

The traffic never waits for it: records wait in a queue that is bounded, and the oldest go when it is full. A collector
that is away is named once, until it is back.
"""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from prometheus_client import Metric as Family

from sidestream.core.exchange import Record
from sidestream.telemetry.otel.messages import Redact, content_of
from sidestream.telemetry.otel.metrics import MetricsWriter
from sidestream.telemetry.otel.sending import Outcome, send
from sidestream.telemetry.otel.settings import Export, Target
from sidestream.telemetry.otel.spans import Attributes, add_spans

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 3.0
"""How long the end of the process waits for what is still to be sent."""

type Waiting = tuple[Record, Attributes]
"""A record without its bodies, and what is told of them."""


class Exporter:
    """
    A sink that sends the spans of records, and from time to time the metrics that `collect` gives.

    `resource`, `scope`: who sends. `redact`: what bodies go through, where records have them.
    """

    def __init__(
        self,
        export: Export,
        resource: Resource,
        scope: InstrumentationScope,
        *,
        collect: Callable[[], Iterable[Family]],
        redact: Redact,
    ) -> None:
        self._export = export
        self._resource = resource
        self._scope = scope
        self._redact = redact
        self._metrics = MetricsWriter(collect, time.time_ns, is_delta=export.is_delta)
        agent = f"{scope.name}/{scope.version}"
        self._spans_to = _Collector(export.traces, agent) if export.traces is not None else None
        self._metrics_to = _Collector(export.metrics, agent) if export.metrics is not None else None
        self._waiting: deque[Waiting] = deque()
        self._lock = threading.Lock()
        self._wakes = threading.Event()
        self._last_moment: float | None = None
        self._thread = threading.Thread(target=self._run, name="otel", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, record: Record) -> None:
        """Take `record`, whose spans are sent soon."""
        if self._spans_to is None or record.trace.own is None or not record.trace.own.is_sampled:
            return
        content = content_of(record.content, self._redact) if record.content is not None else ()
        with self._lock:
            self._waiting.append((replace(record, content=None) if content else record, content))
            self._drop_oldest()
            are_many = len(self._waiting) >= self._export.max_batch
        if are_many and self._spans_to.is_there and not self._wakes.is_set():
            self._wakes.set()

    def end(self) -> None:
        """Let what waits be sent, unless that takes too long."""
        if self._last_moment is None:
            self._last_moment = time.monotonic() + LAST_WORDS_SECONDS
        self._wakes.set()

    def close(self) -> None:
        """Send what waits, unless that takes too long."""
        self.end()
        self._thread.join(LAST_WORDS_SECONDS)

    def _run(self) -> None:
        metrics_at = time.monotonic() + self._export.metrics_seconds
        while self._last_moment is None:
            self._wakes.wait(max(0.0, min(self._export.delay_seconds, metrics_at - time.monotonic())))
            self._wakes.clear()
            self._try(self._send_spans)
            if time.monotonic() >= metrics_at:
                self._try(self._send_metrics)
                metrics_at = time.monotonic() + self._export.metrics_seconds
        self._try(self._send_spans)
        self._try(self._send_metrics)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            logger.exception("telemetry could not be sent")

    def _send_spans(self) -> None:
        while self._spans_to is not None and (batch := self._take()):
            outcome = self._spans_to.send(self._spans_of(batch), until=self._last_moment)
            if outcome.problem is None:
                continue
            if not outcome.may_retry:
                self._spans_to.lost += len(batch)
                continue
            with self._lock:
                self._waiting.extendleft(reversed(batch))
                self._drop_oldest()
            return

    def _take(self) -> list[Waiting]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._export.max_batch))]

    def _drop_oldest(self) -> None:
        while self._spans_to is not None and len(self._waiting) > self._export.max_waiting:
            self._waiting.popleft()
            self._spans_to.lost += 1

    def _spans_of(self, batch: list[Waiting]) -> bytes:
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add(resource=self._resource).scope_spans.add(scope=self._scope).spans
        for record, content in batch:
            known = len(spans)
            try:
                add_spans(record, content, spans.add)
            except Exception:
                del spans[known:]
                logger.exception("a record could not be made a span")
        written: bytes = request.SerializeToString()
        return written

    def _send_metrics(self) -> None:
        if self._metrics_to is None:
            return
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add(resource=self._resource)
        resource.scope_metrics.add(scope=self._scope, metrics=self._metrics.write())
        if self._metrics_to.send(request.SerializeToString(), until=self._last_moment).problem is None:
            self._metrics.told()


class _Collector:
    """One of the two that are sent to. `lost`: exchanges whose spans did not find their way since it was there last."""

    def __init__(self, target: Target, agent: str) -> None:
        self.lost = 0
        self.is_there = True
        self._target = target
        self._agent = agent

    def send(self, content: bytes, *, until: float | None) -> Outcome:
        """Send `content`, and say so when the collector goes or comes. `until`: on the monotonic clock."""
        seconds = self._target.timeout_seconds
        if until is not None:
            seconds = min(seconds, until - time.monotonic())
        if seconds <= 0:
            return Outcome("there is no time left", may_retry=True)
        outcome = send(self._target, content, agent=self._agent, seconds=seconds)
        if outcome.problem is not None and self.is_there:
            fields = {"collector": str(self._target), "problem": outcome.problem}
            logger.warning("telemetry can't be sent; it will be tried again and again", extra=fields)
        if outcome.problem is None and not self.is_there:
            logger.info("telemetry is sent again", extra={"collector": str(self._target), "lost_spans": self.lost})
            self.lost = 0
        self.is_there = outcome.problem is None
        return outcome

"""A collector of OpenTelemetry's: an HTTP server that reads what is sent to it with OpenTelemetry's own messages."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MESSAGES = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


@dataclass
class Collector:
    """`status`: what it answers. `bodies`: all that came, as it came."""

    port: int
    status: int = 200
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metric_requests: list[ExportMetricsServiceRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for request in self.traces for one in request.resource_spans for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def resources(self) -> list[dict[str, object]]:
        """Who sent, for every request."""
        found = [one.resource for request in self.traces for one in request.resource_spans]
        found += [one.resource for request in self.metric_requests for one in request.resource_metrics]
        return [attributes_of(resource) for resource in found]

    def metrics(self) -> dict[str, Metric]:
        """Return the newest metrics by name."""
        if not self.metric_requests:
            return {}
        [resource] = self.metric_requests[-1].resource_metrics
        return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        status = self.status  # as it is when a test sees that it was asked
        self.asked += 1
        if status != 200:
            return status
        content = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        message = MESSAGES[path].FromString(content)
        self.bodies.append(content)
        self.headers.append(headers)
        (self.traces if path == "/v1/traces" else self.metric_requests).append(message)
        return 200


def attributes_of(holder) -> dict[str, object]:
    """Return attributes as plain values."""
    return {pair.key: _plain(pair.value) for pair in holder.attributes}


def _plain(value) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(collector.take(self.path, headers, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        collector = Collector(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()

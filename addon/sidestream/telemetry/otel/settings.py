"""
What the `OTEL_*` variables say.

Source: OpenTelemetry specification, "SDK environment variables" and "OTLP exporter configuration". Times are
milliseconds there, and seconds here.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import certifi
from opentelemetry.util.re import parse_env_headers

from sidestream.telemetry.otel import OtelError

type Kind = Literal["traces", "metrics"]

DEFAULT_ENDPOINT = "http://localhost:4318"
PROTOCOL = "http/protobuf"


@dataclass(frozen=True, slots=True)
class Target:
    """Where one kind of telemetry goes. `path` is sent as it is; `tls` is ``None`` for plain HTTP."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str] = field(repr=False)
    is_compressed: bool
    timeout_seconds: float

    def __str__(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{self.port}{self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Export:
    """
    What is exported, and how.

    `traces`, `metrics`: where to; ``None``: not at all. `max_waiting`, `max_batch`: numbers of exchanges whose spans
    wait, and are sent at once. `is_delta`: whether sums tell what came since the last time.
    """

    traces: Target | None
    metrics: Target | None
    max_waiting: int
    max_batch: int
    delay_seconds: float
    metrics_seconds: float
    is_delta: bool


def read(environment: Mapping[str, str]) -> Export:
    """
    Return what `environment` says.

    Raises:
        OtelError: something of it makes no sense, or is not to be had here; the message says what.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        traces = metrics = None
    else:
        traces, metrics = _target(environment, "traces"), _target(environment, "metrics")
    preference = environment.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    waiting = _number(environment, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    return Export(
        traces=traces,
        metrics=metrics,
        max_waiting=waiting,
        max_batch=min(waiting, _number(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        delay_seconds=_number(environment, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        metrics_seconds=_number(environment, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000,
        is_delta=preference in ("delta", "lowmemory"),
    )


def _target(environment: Mapping[str, str], kind: Kind) -> Target | None:
    exporter = environment.get(f"OTEL_{kind.upper()}_EXPORTER", "").strip() or "otlp"
    if exporter == "none":
        return None
    if exporter != "otlp":
        raise OtelError(f"OTEL_{kind.upper()}_EXPORTER: {exporter!r} is not to be had here: otlp and none are")

    def of(name: str, default: str = "") -> str:
        own, common = f"OTEL_EXPORTER_OTLP_{kind.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
        return environment.get(own, "").strip() or environment.get(common, "").strip() or default

    protocol = of("PROTOCOL", PROTOCOL)
    if protocol != PROTOCOL:
        raise OtelError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not spoken here: {PROTOCOL} is, at port 4318")
    compression = of("COMPRESSION", "none")
    if compression not in ("none", "gzip"):
        raise OtelError(f"OTEL_EXPORTER_OTLP_COMPRESSION: {compression!r} is not known here: none and gzip are")
    own_endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{kind.upper()}_ENDPOINT", "").strip()
    timeout = of("TIMEOUT", "10000")
    url = own_endpoint or f"{of('ENDPOINT', DEFAULT_ENDPOINT).rstrip('/')}/v1/{kind}"
    try:
        parts = urlsplit(url)
        is_good, port = parts.scheme in ("http", "https") and bool(parts.hostname), parts.port
    except ValueError:
        is_good = False
    if not is_good or parts.hostname is None:
        raise OtelError("OTEL_EXPORTER_OTLP_ENDPOINT is no address: write http://HOST:4318")
    if parts.username is not None:
        raise OtelError("OTEL_EXPORTER_OTLP_ENDPOINT holds a name: credentials belong to OTEL_EXPORTER_OTLP_HEADERS")
    is_tls = parts.scheme == "https"
    return Target(
        host=parts.hostname,
        port=port or (443 if is_tls else 80),
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        tls=_tls(of("CERTIFICATE"), of("CLIENT_CERTIFICATE"), of("CLIENT_KEY")) if is_tls else None,
        headers=dict(parse_env_headers(of("HEADERS"), liberal=True)),
        is_compressed=compression == "gzip",
        timeout_seconds=_positive(f"OTEL_EXPORTER_OTLP_TIMEOUT: {timeout!r}", timeout) / 1000,
    )


def _tls(ca_file: str, certificate: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if not ca_file:
            context.load_verify_locations(certifi.where())  # an image may have no CAs of its own
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ValueError) as e:
        raise OtelError(f"OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE or …_CLIENT_KEY: {e}") from e
    return context


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    return _positive(f"{name}: {text!r}", text) if text else default


def _positive(what: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise OtelError(f"{what} is no number above 0")
    return int(text)

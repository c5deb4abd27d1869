"""Connects the adapters, which do not know each other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidestream.cli.admin import ProcessAdmin
from sidestream.cli.sourcing import policy_of
from sidestream.cli.trusting import Trust
from sidestream.core.exchange import Record
from sidestream.core.snapshot import Snapshot
from sidestream.mitm.addon import Sidestream
from sidestream.mitm.runtime import OFF, Inside, Runtime, Settings, Sink, Watcher
from sidestream.sources.watching import PolicyWatch
from sidestream.telemetry.accesslog import AccessLog, Sampled, output_to
from sidestream.telemetry.background import InBackground
from sidestream.telemetry.cost import Pricing
from sidestream.telemetry.formats import JsonLine, text_line
from sidestream.telemetry.metrics import Metrics
from sidestream.telemetry.otel import check_installed
from sidestream.telemetry.recent import Recent
from sidestream.telemetry.redacting import Redactor
from sidestream.upstream.calling import PooledUpstream

if TYPE_CHECKING:
    from sidestream.telemetry.otel.telemetry import Telemetry


def make_addon() -> Sidestream:
    """Return the addon, to be connected when its options are known."""
    return Sidestream(connect)


def connect(settings: Settings) -> Runtime:
    """
    Connect the addon to its policies, a log of records, the admin endpoint, and OpenTelemetry.

    Raises:
        PolicyError: the policy does not compile.
        CostError: costs are wanted, and there are no prices.
        OtelError: OpenTelemetry is wanted, and is not installed, or told what makes no sense.
        OSError: a log can't be opened.
        ValueError: what is to be taken out of it is no pattern.
    """
    source, close_source = policy_of(settings.policies, settings.labels)
    upstream = PooledUpstream(settings.upstream_ca_pem)
    logs = [
        AccessLog(output_to(target, max_bytes=settings.log_max_bytes, keep=settings.log_keep), _format(settings))
        for target in filter(None, (part.strip() for part in settings.log.split(",")))
    ]
    sinks: list[Sink] = [Sampled(settings.log_sample, log) if settings.log_sample < 1 else log for log in logs]
    watchers: list[Watcher] = []

    def lost() -> int:
        return writer.lost + sum(log.lost for log in logs)

    if settings.trust_dir:
        watchers.append(Trust(Path(settings.trust_dir), Path(settings.confdir).expanduser(), settings.upstream_ca_pem))
    pricing = Pricing() if settings.cost else None
    metrics = Metrics(_Policy(source), lost, asm_names=settings.asm_names)
    if settings.admin != OFF:
        recent = Recent()
        sinks.append(recent)
        watchers.append(ProcessAdmin(settings.admin, source, metrics, recent))
    telemetry = _telemetry(settings, metrics) if settings.otel else None
    if telemetry is not None:
        sinks.append(telemetry.sink)
        watchers.append(_MetricsWatcher(metrics))
    if settings.admin != OFF or telemetry is not None:
        sinks.append(metrics)
    each = _Each(sinks, logs, pricing)
    writer = InBackground(each, each.flush)  # last: what ends first at the end of the process was made last

    def close() -> None:
        close_source()
        upstream.close()
        writer.close()
        if telemetry is not None:
            telemetry.sink.end()

    return Runtime(
        source, (writer,), upstream, close, watchers, telemetry.begin_span if telemetry is not None else None
    )


def _telemetry(settings: Settings, metrics: Metrics) -> "Telemetry":
    check_installed()
    from sidestream.telemetry.otel.telemetry import Telemetry  # noqa: PLC0415 an extra

    return Telemetry(collect=metrics.collect, redact=Redactor(settings.log_redact))


def _format(settings: Settings) -> Callable[[Record], str]:
    if settings.log_format == "text":
        return text_line
    return JsonLine(asm_names=settings.asm_names, redact=Redactor(settings.log_redact))


class _Each:
    """A sink that hands records to several, with what they cost; `logs` are among them."""

    def __init__(self, sinks: Sequence[Sink], logs: Sequence[AccessLog], pricing: Pricing | None) -> None:
        self._sinks = sinks
        self._logs = logs
        self._pricing = pricing

    def __call__(self, record: Record) -> None:
        record = self._pricing(record) if self._pricing is not None else record
        for sink in self._sinks:
            sink(record)

    def flush(self) -> None:
        """Let everybody see what was written."""
        for log in self._logs:
            log.flush()


class _MetricsWatcher:
    """Lets metrics be read while the addon runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def open(self, inside: Inside) -> None:
        """Read from `inside` from now on."""
        self._metrics.watch(inside)

    def close(self) -> None:
        """Go on: the last words are still to be said."""


class _Policy:
    """The policy as metrics read it."""

    def __init__(self, source: PolicyWatch[Any]) -> None:
        self._source = source

    @property
    def snapshot(self) -> Snapshot:
        return self._source.snapshot

    @property
    def failures(self) -> int:
        return self._source.status.failures

    @property
    def problem_count(self) -> int:
        return len(self._source.status.problems)

"""Connects the adapters, which do not know each other."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sidestream.cli.admin import ProcessAdmin
from sidestream.cli.trusting import Trust
from sidestream.core.exchange import Record
from sidestream.core.snapshot import Snapshot
from sidestream.mitm.addon import Sidestream
from sidestream.mitm.runtime import OFF, Runtime, Settings, Sink, Watcher
from sidestream.sources.folder import Folder
from sidestream.sources.watching import PolicyWatch
from sidestream.telemetry.accesslog import AccessLog, Sampled, output_to
from sidestream.telemetry.background import InBackground
from sidestream.telemetry.cost import Pricing
from sidestream.telemetry.formats import JsonLine, text_line
from sidestream.telemetry.metrics import Metrics
from sidestream.telemetry.recent import Recent
from sidestream.telemetry.redacting import Redactor
from sidestream.upstream.calling import PooledUpstream


def make_addon() -> Sidestream:
    """Return the addon, to be connected when its options are known."""
    return Sidestream(connect)


def connect(settings: Settings) -> Runtime:
    """
    Connect the addon to a folder of policies, a log of records, and the admin endpoint.

    Raises:
        PolicyError: the policy does not compile.
        CostError: costs are wanted, and there are no prices.
        OSError: a log can't be opened.
        ValueError: what is to be taken out of it is no pattern.
    """
    source = PolicyWatch(Folder(Path(settings.policies), os.environ), settings.labels)
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
    if settings.admin != OFF:
        metrics, recent = (
            Metrics(_Policy(source), lost, asm_names=settings.asm_names),
            Recent(),
        )
        sinks += [metrics, recent]
        watchers.append(ProcessAdmin(settings.admin, source, metrics, recent))
    writer = InBackground(_Each(sinks, Pricing() if settings.cost else None))

    def close() -> None:
        upstream.close()
        writer.close()

    return Runtime(source, (writer,), upstream, close, watchers)


def _format(settings: Settings) -> Callable[[Record], str]:
    if settings.log_format == "text":
        return text_line
    return JsonLine(asm_names=settings.asm_names, redact=Redactor(settings.log_redact))


class _Each:
    """A sink that hands records to several, with what they cost."""

    def __init__(self, sinks: Sequence[Sink], pricing: Pricing | None) -> None:
        self._sinks = sinks
        self._pricing = pricing

    def __call__(self, record: Record) -> None:
        record = self._pricing(record) if self._pricing is not None else record
        for sink in self._sinks:
            sink(record)


class _Policy:
    """The policy as metrics read it."""

    def __init__(self, source: PolicyWatch) -> None:
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

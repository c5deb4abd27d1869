"""
The metrics of `telemetry.metrics`, as OTLP has them.

Both outputs tell the same numbers, which are counted once. Sums begin when the process did, or, for those who want it
(`OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta`), when they were last sent.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    AGGREGATION_TEMPORALITY_DELTA,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from sidestream.telemetry.names import NONE
from sidestream.telemetry.otel.conventions import LABELS, SERVER_PORT, metric_of

type Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels."""
type Numbers = tuple[float, ...]


class MetricsWriter:
    """Writes metrics. `collect`: those of Prometheus. `clock`: wall time, in nanoseconds."""

    def __init__(self, collect: Callable[[], Iterable[Family]], clock: Callable[[], int], *, is_delta: bool) -> None:
        self._collect = collect
        self._clock = clock
        self._is_delta = is_delta
        self._began = clock()
        self._told: dict[Series, Numbers] = {}
        self._telling: dict[Series, Numbers] = {}
        self._now = self._began

    def write(self) -> list[Metric]:
        """Return all metrics as they are now."""
        self._now = self._clock()
        self._telling = {}
        return [metric for family in self._collect() if (metric := self._metric(family)) is not None]

    def told(self) -> None:
        """Take note that what was written has arrived."""
        if self._is_delta:
            self._told, self._began = self._told | self._telling, self._now

    def _metric(self, family: Family) -> Metric | None:
        name, unit = metric_of(family.name)
        metric = Metric(name=name, unit=unit, description=family.documentation)
        temporality = AGGREGATION_TEMPORALITY_DELTA if self._is_delta else AGGREGATION_TEMPORALITY_CUMULATIVE
        match family.type:
            case "counter":
                metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, temporality
                counts = [sample for sample in family.samples if sample.name.endswith("_total")]
                metric.sum.data_points.extend(map(self._sum, counts))
            case "gauge":
                metric.gauge.data_points.extend(map(self._gauge, family.samples))
            case "histogram":
                metric.histogram.aggregation_temporality = temporality
                metric.histogram.data_points.extend(self._histograms(family.samples))
            case _:
                return None
        return metric

    def _sum(self, sample: Sample) -> NumberDataPoint:
        [value] = self._since((sample.name, tuple(sample.labels.items())), (sample.value,))
        point = self._gauge(sample)
        point.as_double, point.start_time_unix_nano = value, self._began
        return point

    def _gauge(self, sample: Sample) -> NumberDataPoint:
        return NumberDataPoint(attributes=_attributes(sample.labels), time_unix_nano=self._now, as_double=sample.value)

    def _histograms(self, samples: Sequence[Sample]) -> Iterable[HistogramDataPoint]:
        by_series: defaultdict[Series, dict[float | None, float]] = defaultdict(dict)
        for sample in samples:
            labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            name, _, part = sample.name.rpartition("_")
            if part == "bucket":
                by_series[name, labels][float(sample.labels["le"])] = sample.value
            elif part == "sum":
                by_series[name, labels][None] = sample.value
        for series, found in by_series.items():
            total = found.pop(None, 0.0)
            bounds = sorted(bound for bound in found if bound is not None)
            total, *counts = self._since(series, (total, *(found[bound] for bound in bounds)))
            # Prometheus counts all that is not above a bound, OTLP what is between two.
            between = [int(above - below) for below, above in zip([0.0, *counts], counts, strict=False)]
            yield HistogramDataPoint(
                attributes=_attributes(dict(series[1])),
                start_time_unix_nano=self._began,
                time_unix_nano=self._now,
                count=sum(between),
                sum=total,
                bucket_counts=between,
                explicit_bounds=bounds[:-1],
            )

    def _since(self, series: Series, numbers: Numbers) -> Numbers:
        """Return of `numbers` what is to be told."""
        if not self._is_delta:
            return numbers
        self._telling[series] = numbers
        before = self._told.get(series, (0.0,) * len(numbers))
        return tuple(number - told for number, told in zip(numbers, before, strict=True))


def _attributes(labels: Mapping[str, str]) -> list[KeyValue]:
    return [
        KeyValue(key=(name := LABELS.get(label, label)), value=_value(name, value))
        for label, value in labels.items()
        if value not in ("", NONE)
    ]


def _value(name: str, value: str) -> AnyValue:
    return AnyValue(int_value=int(value)) if name == SERVER_PORT else AnyValue(string_value=value)

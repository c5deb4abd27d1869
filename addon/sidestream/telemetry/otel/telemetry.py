"""OpenTelemetry as the composition root connects it."""

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.util.types import AttributeValue
from prometheus_client import Metric as Family

from sidestream.telemetry.otel import settings
from sidestream.telemetry.otel.exporting import Exporter
from sidestream.telemetry.otel.messages import Redact
from sidestream.telemetry.otel.sampling import Sampling, resource_of, usual_sampler

INSTANCE = str(uuid4())
"""Which process this is, among several workers and pods."""


class Telemetry:
    """
    Spans and metrics of this process. `sink` takes records, `begin_span` begins the spans of exchanges.

    Raises:
        OtelError: the environment asks for what makes no sense, or is not to be had.
    """

    def __init__(self, *, collect: Callable[[], Iterable[Family]], redact: Redact) -> None:
        export = settings.read(os.environ)
        resource = resource_of(_version(), INSTANCE)
        self.begin_span = Sampling(usual_sampler(resource)) if export.traces is not None else None
        attributes = [_pair(name, value) for name, value in resource.attributes.items()]
        scope = InstrumentationScope(name="sidestream", version=_version())
        self.sink = Exporter(export, Resource(attributes=attributes), scope, collect=collect, redact=redact)


def _version() -> str:
    try:
        return version("sidestream")
    except PackageNotFoundError:  # `-s` takes the addon from where it lies
        return "0"


def _pair(name: str, value: AttributeValue) -> KeyValue:
    return KeyValue(key=name, value=_value(value))


def _value(value: AttributeValue) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
        case Sequence():
            return AnyValue(array_value=ArrayValue(values=[_value(one) for one in value]))
        case _:
            return AnyValue(string_value=str(value))

"""The spans of exchanges that begin: which trace they are in, and whether anybody keeps them."""

import random

from opentelemetry.context import Context
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import NonRecordingSpan, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanContext as SdkSpanContext

from sidestream.core.tracing import RANDOM, SAMPLED, SpanContext

SPAN_NAME = "exchange"
"""What samplers are told; the span is named when more is known."""

_NO_PARENT = Context()


class Sampling:
    """Begins spans (a `core.tracing.BeginSpan`)."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, parent: SpanContext | None) -> SpanContext:
        """Return the span of an exchange whose client's is `parent`."""
        if parent is None:
            number = random.getrandbits(128) or 1
            trace_id, flags, state, context = f"{number:032x}", RANDOM, "", _NO_PARENT
        else:
            number = int(parent.trace_id, 16)
            trace_id, flags, state, context = parent.trace_id, parent.flags & RANDOM, parent.state, _context_of(parent)
        decided = self._sampler.should_sample(context, number, SPAN_NAME).decision
        if decided is Decision.RECORD_AND_SAMPLE:
            flags |= SAMPLED
        return SpanContext(trace_id, f"{random.getrandbits(64) or 1:016x}", flags, state)


def _context_of(parent: SpanContext) -> Context:
    flags = TraceFlags(parent.flags)
    span = SdkSpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())


def usual_sampler(resource: Resource) -> Sampler:
    """Return the sampler that `OTEL_TRACES_SAMPLER` names."""
    return TracerProvider(resource=resource, shutdown_on_exit=False).sampler


def resource_of(version: str, instance: str) -> Resource:
    """Return who we are: what the environment says, and the rest besides. `instance`: this process, and no other."""
    ours = {SERVICE_NAME: "sidestream", SERVICE_VERSION: version, SERVICE_INSTANCE_ID: instance}
    return Resource.create(ours | dict(OTELResourceDetector().detect().attributes))

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
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_OFF, DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import NonRecordingSpan, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanContext as SdkSpanContext

from sidestream.core.tracing import RANDOM, SAMPLED, SpanContext

SPAN_NAME = "exchange"
"""What samplers are told; the span is named when more is known."""

_OF_ROOTS = ((ALWAYS_ON, SAMPLED), (DEFAULT_ON, SAMPLED), (ALWAYS_OFF, 0), (DEFAULT_OFF, 0))
"""Samplers that decide the same of all spans without a parent, and what: to ask them takes longer than all the rest."""


class Sampling:
    """Begins spans (a `core.tracing.BeginSpan`)."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._of_roots = next((flag for known, flag in _OF_ROOTS if sampler is known), None)

    def __call__(self, parent: SpanContext | None) -> SpanContext:
        """Return the span of an exchange whose client's is `parent`."""
        span_id = f"{random.getrandbits(64) or 1:016x}"
        if parent is None:
            number = random.getrandbits(128) or 1
            flag = self._asked(Context(), number) if self._of_roots is None else self._of_roots
            return SpanContext(f"{number:032x}", span_id, RANDOM | flag)
        flag = self._asked(_context_of(parent), int(parent.trace_id, 16))
        return SpanContext(parent.trace_id, span_id, (parent.flags & RANDOM) | flag, parent.state)

    def _asked(self, context: Context, trace_id: int) -> int:
        decided = self._sampler.should_sample(context, trace_id, SPAN_NAME).decision
        return SAMPLED if decided is Decision.RECORD_AND_SAMPLE else 0


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

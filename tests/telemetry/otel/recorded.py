"""Records to make spans of."""

from sidestream.core.exchange import Exchange
from sidestream.core.planning import plan
from sidestream.core.routing import Forward
from sidestream.core.tracing import SAMPLED, SpanContext, Trace
from sidestream.core.usage import Meter
from tests.core.builders import json_lines, make_backend, make_config, make_provider, make_request

PARENT = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", SAMPLED, "a=1")
OWN = PARENT.below(0xA0)
PROVIDER = make_provider("a.example", config=make_config(model="m-1"))
USAGE = '{"id":"r-1","model":"m-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'


def record_of(*, trace=Trace(PARENT, OWN), model="gpt-4o", error=None, status=200, attempts=1, identifier="1"):  # noqa: B008 it is frozen
    """Return the record of a stream; all of its attempts but the last one failed."""
    exchange = Exchange(identifier, "10.0.0.1:5", "a.example", wall_time=100.5, now=10.0)
    exchange.trace = trace
    backend = make_backend(PROVIDER)
    exchange.decision = Forward(backend)
    request = make_request(body={"model": model, "messages": [], "stream": True, "top_p": 1})
    exchange.received(now=10.0)
    for number in range(attempts):
        span = trace.own.below(number + 1) if trace.own is not None else None
        exchange.began_attempt(backend, plan(exchange.decision, request, span), now=11.0 + number)
        if number + 1 < attempts:
            exchange.ended_attempt("reset", now=11.5 + number)
    exchange.attempt_answered(status, Meter("text/event-stream"))
    exchange.meter.feed(json_lines(USAGE, "[DONE]"))
    exchange.answered(status, now=20.0)
    exchange.passed_events(3, now=20.0)
    exchange.ended_attempt(error, now=21.0)
    return exchange.finish(now=22.0, error=error)

"""
Spans and metrics over OTLP (HTTP, protobuf), for the extra `otel`.

The SDK says what is sampled and who we are, and OpenTelemetry's own messages are sent. But spans are made from records,
in the thread that sends them: to make and write them as the SDK does took 300 µs for an exchange with one attempt.
"""

from importlib.util import find_spec


class OtelError(ValueError):
    """Telemetry can't be sent; the message says what to do."""


def check_installed() -> None:
    """
    Check that the extra is there.

    Raises:
        OtelError: it is not.
    """
    try:
        is_there = all(find_spec(f"opentelemetry.{part}") for part in ("sdk", "proto"))
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise OtelError("OpenTelemetry is not installed: install sidestream[otel]")

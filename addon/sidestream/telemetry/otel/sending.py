"""
Sending to a collector: one POST, answered or not.

No proxy and no credentials of the environment are used: `HTTP_PROXY` may well lead to this very process.

Source: OpenTelemetry Protocol 1.x, "OTLP/HTTP" (paths, retryable statuses).
"""

import gzip
import http.client
from dataclasses import dataclass

from sidestream.telemetry.otel.settings import Target

RETRYABLE = frozenset({429, 502, 503, 504})
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it. `problem`: why it was not taken; ``None``: it was. `may_retry`: it may be another time."""

    problem: str | None = None
    may_retry: bool = False


def send(target: Target, content: bytes, *, agent: str, seconds: float) -> Outcome:
    """Send `content`, within about `seconds` for each of its steps."""
    headers = {"user-agent": agent, **target.headers} | {"content-type": "application/x-protobuf"}
    if target.is_compressed:
        content, headers["content-encoding"] = gzip.compress(content, 1), "gzip"
    if target.tls is None:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=seconds)
    else:
        connection = http.client.HTTPSConnection(target.host, target.port, timeout=seconds, context=target.tls)
    try:
        connection.request("POST", target.path, content, headers)
        answer = connection.getresponse()
        answer.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as e:
        # Its text could hold a header of ours; its kind, and what the system says, can't.
        return Outcome((isinstance(e, OSError) and e.strerror) or type(e).__name__, may_retry=True)
    finally:
        connection.close()
    if 200 <= answer.status < 300:
        return Outcome()
    return Outcome(f"it answered {answer.status}", may_retry=answer.status in RETRYABLE)

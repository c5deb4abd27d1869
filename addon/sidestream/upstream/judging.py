"""What the head of an answer means: whether the attempt failed, how the body goes on, what the client gets of it."""

import email.utils
import time

from sidestream.core.attempts import Failure
from sidestream.core.calls import Head
from sidestream.core.operations import OTHER
from sidestream.core.planning import Plan
from sidestream.core.relay import Manner
from sidestream.upstream.connection import Answer
from sidestream.upstream.encodings import decoding_of

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0

_ENDS_HERE = frozenset(
    {b"alt-svc", b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""
Fields of an answer that are between the provider and us only (RFC 9110, 7.6.1).

`Alt-Svc` would show the client a way to the provider that goes around us.
"""


def failure_of(answer: Answer) -> Failure | None:
    """Return how the attempt failed that got `answer`, if it did. A client that erred is answered."""
    status = answer.status
    message = f"it answered {status}"
    if status == 429:
        return Failure("rate-limited", message, status, retry_after_seconds(answer))
    if status == 408:
        return Failure("timeout", message, status)
    if status >= 500:
        return Failure("server-error", message, status, retry_after_seconds(answer))
    return None


def manner_of(planned: Plan, answer: Answer) -> Manner:
    """Return how the body of `answer` goes on."""
    media_type = answer.get(b"content-type").partition(";")[0].strip().lower()
    if planned.operation is OTHER or not answer.has_body or not _is_readable(answer):
        return "plain"
    if media_type == "text/event-stream" and answer.status < 300:
        return "events"
    # An error is read whole: it may repeat the key.
    return "whole" if media_type == "application/json" or answer.status >= 400 else "plain"


def _is_readable(answer: Answer) -> bool:
    encoding = answer.get(b"content-encoding").strip().lower()
    return encoding in ("", "identity") or decoding_of(encoding) is not None


def head_of(answer: Answer, *, is_decoded: bool, is_as_it_came: bool) -> Head:
    """Return the head that the client gets. `is_as_it_came`: the body goes on byte for byte."""
    dropped = _ENDS_HERE | {b"content-length"} | ({b"content-encoding"} if is_decoded else set())
    fields = [(name, value) for name, value in answer.fields if name not in dropped]
    length = answer.get(b"content-length") if is_as_it_came and not is_decoded else ""
    return Head(answer.status, answer.reason, fields, int(length) if length.isdecimal() else None)


def retry_after_seconds(answer: Answer) -> float | None:
    """Return how long the provider wants to be left alone (RFC 9110, 10.2.3); OpenAI also says it in milliseconds."""
    written = answer.get(b"retry-after-ms")
    if written.isdecimal():
        return min(float(written) / 1000, MAX_RETRY_AFTER_SECONDS)
    written = answer.get(b"retry-after").strip()
    try:
        seconds = float(written) if written[:1].isdecimal() else _until(written)
    except (ValueError, TypeError):
        return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds >= 0 else 0.0


def _until(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()

"""
The page of a call: what was said, what it took, and why it went where it went.

Plain text of lines, as mitmproxy's content views are.
"""

import itertools
from collections.abc import Iterable, Sequence

from sidestream.core.exchange import Record
from sidestream.core.explain import Explanation
from sidestream.core.explained import decision_lines
from sidestream.core.usage import Usage
from sidestream.mitm.pages.turns import Turn

_WIDTH = 60


def heading(text: str) -> str:
    """Return a line that begins a part of the page."""
    return f"── {text} ".ljust(_WIDTH, "─")


def turn_lines(turns: Iterable[Turn]) -> list[str]:
    """Return a conversation as lines. Turns of one role that follow each other stay turns."""
    lines: list[str] = []
    for turn in turns:
        lines += [heading(f"{turn.role} ({turn.label})" if turn.label else turn.role)]
        for number, block in enumerate(turn.blocks):
            lines += [""] if number else []
            lines += block.splitlines()
        lines.append("")
    return lines


def usage_line(usage: Usage, *, is_partial: bool = False) -> str | None:
    """Return the tokens of an answer as a line, if any are known."""
    if usage == Usage():
        return None
    told = [f"{_count(usage.prompt_tokens)} prompt"]
    told += [f"({usage.cached_tokens} of them cached)"] if usage.cached_tokens else []
    told += [f"→ {_count(usage.completion_tokens)} completion"]
    told += [f"({usage.reasoning_tokens} of them reasoning)"] if usage.reasoning_tokens else []
    return f"tokens    {' '.join(told)}{', until it broke off' if is_partial else ''}"


def record_lines(record: Record) -> list[str]:
    """Return what is known of a finished exchange, besides what was said."""
    usage = Usage(record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.reasoning_tokens)
    ended = f", ended by {record.finish_reason}" if record.finish_reason else ""
    lines = [f"answer    {record.status or 'none'}{f', {record.error}' if record.error else ''}{ended}"]
    lines += [f"model     {_models(record)}"] if record.sent_model or record.response_model else []
    lines += [line] if (line := usage_line(usage, is_partial=bool(record.usage_partial))) else []
    lines.append(f"time      {_times(record)}")
    for number, attempt in enumerate(record.attempts, 1):
        outcome = attempt.error or attempt.status or "no answer"
        model = f" {attempt.sent_model}" if attempt.sent_model else ""
        lines.append(f"attempt {number} {attempt.provider}{model}: {outcome}, {_seconds(attempt.duration_seconds)}")
    return [heading("what it took"), *lines, ""]


def live_lines(known: dict[str, object]) -> list[str]:
    """Return what is known of an exchange under way. `known`: as `Exchange.as_live` tells it."""
    lines = [f"answer    {known['status'] or 'waited for'}, under way for {known['seconds']} s"]
    lines += [f"model     {known['sent_model']}"] if known["sent_model"] else []
    lines += [f"so far    {known['events_out']} events"] if known["events_out"] is not None else []
    return [heading("what it takes"), *lines, ""]


def decision_part(explanation: Explanation, provider: str | None) -> list[str]:
    """Return why a call went to `provider`: each rule, and each backend with its share."""
    lines = decision_lines(explanation)
    for request in explanation.requests:
        share = f"{request.share:.0%}" if request.share else "when those before failed"
        name = request.provider + (f" {request.sent_model}" if request.sent_model else "")
        lines.append(f"  {share} to {name}{'  ← it went here' if request.provider == provider else ''}")
    return [heading("why"), *lines, ""]


def joined(*parts: Sequence[str]) -> str:
    """Return parts of a page as its text."""
    return "\n".join(itertools.chain(*parts)).rstrip() + "\n"


def _models(record: Record) -> str:
    asked = "" if record.request_model == record.sent_model else f", the app asked for {record.request_model or 'none'}"
    says = record.response_model
    answered = f", {says} answered" if says not in (None, record.sent_model) else ""
    return f"{record.sent_model or 'as the app sent it'}{asked}{answered}"


def _times(record: Record) -> str:
    told = [f"{_seconds(record.duration_seconds)} in all"]
    if record.time_to_first_event_seconds is not None:
        told.append(f"first event after {_seconds(record.time_to_first_event_seconds)}")
    elif record.time_to_first_byte_seconds is not None:
        told.append(f"head after {_seconds(record.time_to_first_byte_seconds)}")
    if record.seconds_per_event is not None:
        told.append(f"{record.events_out} events, one every {_seconds(record.seconds_per_event)}")
    if record.overhead_seconds is not None:
        told.append(f"{_seconds(record.overhead_seconds)} of it in the proxy")
    return ", ".join(told)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _count(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"

"""
What stands beside a flow in the list: a comment, a marker, and words to filter by.

The comment is like ``vip-route → dashscope qwen-turbo · 12→130 tok · 0.42 s``.
"""

from sidestream.core.errors import cut
from sidestream.core.exchange import Exchange, Record
from sidestream.core.routing import Forward

GOVERNED = ":robot:"
FAILED = ":warning:"
REFUSED = ":no_entry:"
MARKERS = frozenset({GOVERNED, FAILED, REFUSED})
"""Our markers: a flow that has one of these was marked by nobody, and goes when it is old."""

PREFIX = "sidestream."
"""What the names of our metadata begin with, for `~meta`."""

FIRST_FAILURE = 400


def begun(exchange: Exchange) -> str:
    """Return the comment on an exchange under way."""
    known = exchange.as_live(now=0.0)
    where = _where(known["route"], known["rule"], known["provider"], known["sent_model"])
    return _plain(f"{where} · …" if where else "…")


def finished(record: Record) -> str:
    """Return the comment on an exchange that is over."""
    parts = [_where(record.route, record.rule, record.provider, record.sent_model)]
    if record.operation not in (None, "chat"):
        parts.append(str(record.operation))
    if record.usage_partial is not None:
        counts = (record.prompt_tokens, record.completion_tokens)
        told = "→".join("?" if count is None else str(count) for count in counts)
        parts.append(f"{told} tok{' so far' if record.usage_partial else ''}")
    if len(record.attempts) > 1:
        parts.append(f"{len(record.attempts)} attempts")
    parts.append(f"{record.duration_seconds:.2f} s")
    if record.error is not None or (record.status or 0) >= FIRST_FAILURE:
        parts.append(" ".join(str(word) for word in (record.status, record.error) if word is not None))
    return _plain(" · ".join(filter(None, parts)))


def marker(record: Record) -> str:
    """Return the emoji that marks the flow of `record`."""
    if record.provider is None:
        return REFUSED
    return FAILED if record.error is not None or (record.status or 0) >= FIRST_FAILURE else GOVERNED


def words_begun(exchange: Exchange) -> dict[str, str]:
    """Return what a flow under way can be filtered by: name of metadata → value."""
    known = exchange.as_live(now=0.0)
    planned = exchange.plan
    return _words(
        host=exchange.host,
        route=known["route"],
        rule=known["rule"],
        provider=known["provider"],
        model=known["sent_model"],
        request_model=cut(planned.request_model) if planned is not None and planned.request_model else None,
        operation=planned.operation.name if planned is not None else None,
    )


def words_finished(record: Record) -> dict[str, str]:
    """Return what a flow that is over can be filtered by: name of metadata → value."""
    return _words(
        host=record.host,
        route=record.route,
        rule=record.rule,
        provider=record.provider,
        model=record.sent_model,
        request_model=record.request_model,
        operation=record.operation,
        error=record.error,
    )


def provider_of(exchange: Exchange) -> str | None:
    """Return the name of the provider that an exchange goes to."""
    decision = exchange.decision
    return decision.backend.provider.name if isinstance(decision, Forward) else None


def _words(**values: object) -> dict[str, str]:
    return {PREFIX + name: _plain(str(value)) for name, value in values.items() if value is not None}


def _where(route: object, rule: object, provider: object, model: object) -> str:
    """Return ``rule → provider model``, as far as they are known; names without their namespace."""
    begin = rule or _bare(route)
    goal = " ".join(str(word) for word in (_bare(provider), model) if word)
    return " → ".join(str(part) for part in (begin, goal) if part)


def _bare(name: object) -> str | None:
    return str(name).rpartition("/")[2] if name else None


def _plain(text: str) -> str:
    # Names are the client's to choose, and may hold what means something to a terminal, or a filter's line.
    return "".join(c if c.isprintable() else "?" for c in text)

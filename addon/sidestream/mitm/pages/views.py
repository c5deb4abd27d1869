"""
mitmproxy's content views for LLM traffic: a call as a conversation, and what the policy changed of its request.

They are asked when somebody looks at a flow, and at no other time.
"""

import time

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata

from sidestream.core.body import read_object
from sidestream.core.joining import join
from sidestream.core.usage import Meter
from sidestream.mitm.engine.pages import look_at
from sidestream.mitm.pages import writing
from sidestream.mitm.pages.differences import difference
from sidestream.mitm.pages.noting import provider_of
from sidestream.mitm.pages.seen import Seen, Store
from sidestream.mitm.pages.turns import Turn, answer_turns, request_turns
from sidestream.mitm.view import header_values

EVENT_STREAM = "text/event-stream"

ABOVE_JSON = 2.0
"""Our priority for what we understand: mitmproxy's JSON view has 1."""
NEVER = -1.0


class ChatView(Contentview):
    """
    Shows a call as a conversation.

    The request's page has what was said to the model; the answer's all of it, and both what it took and why it
    went where it went. While an answer is under way there is what has come of it.
    """

    name = "LLM chat"

    def __init__(self, store: Store) -> None:
        self._store = store

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the page."""
        flow = metadata.flow
        if not isinstance(flow, http.HTTPFlow):
            raise ValueError("this is no request and no answer")  # noqa: TRY004 mitmproxy's word for it
        look_at(flow)
        seen = self._store.get(flow.id)
        turns, is_answer = _asked(flow), metadata.http_message is flow.response
        answer = _answered(data, metadata.content_type) if is_answer else []
        if not (turns or answer):
            raise ValueError("there is no conversation in it")
        said = writing.turn_lines([*turns, *answer])
        if is_answer:
            return writing.joined(said, _cut(flow, seen), _facts(data, metadata, seen))
        # Pages of a request are not asked for again when its answer comes: what changes has no place there.
        if seen is not None and seen.record is not None:
            return writing.joined(said, _facts(data, metadata, seen))
        return writing.joined(said, _why(seen, None))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Take what holds a conversation."""
        flow = metadata.flow
        if not (data and isinstance(flow, http.HTTPFlow)):
            return NEVER
        if metadata.http_message is not flow.response:
            return ABOVE_JSON if _asked(flow) else NEVER
        return ABOVE_JSON if _answered(data, metadata.content_type) else NEVER


class DiffView(Contentview):
    """Shows what the app sent against what went out, keys masked: a page of the request, that comes when asked for."""

    name = "LLM diff"

    def __init__(self, store: Store) -> None:
        self._store = store

    def prettify(self, data: bytes, metadata: Metadata) -> str:  # noqa: ARG002 it is of the flow
        """Return the page."""
        flow = metadata.flow
        seen = self._store.get(flow.id) if flow is not None else None
        if not isinstance(flow, http.HTTPFlow) or seen is None:
            raise ValueError("what the app sent is not known: no policy governs it, or it is too long ago")
        look_at(flow)
        request = flow.request
        return writing.joined(
            difference(seen.before, request.method, request.url, header_values(request), request.raw_content or b"")
        )

    def render_priority(self, data: bytes, metadata: Metadata) -> float:  # noqa: ARG002 of none
        """Never come by itself."""
        return NEVER


def install(store: Store) -> None:
    """Offer the views of what is in `store`, in place of those of another."""
    for view in (ChatView(store), DiffView(store)):
        contentviews.add(view)


def _asked(flow: http.HTTPFlow) -> list[Turn]:
    body = read_object(flow.request.get_content(strict=False) or b"")
    return request_turns(body) if body is not None else []


def _answered(data: bytes, content_type: str | None) -> list[Turn]:
    if (content_type or "").startswith(EVENT_STREAM):
        return answer_turns(join(data))
    return answer_turns(read_object(data) or {})


def _cut(flow: http.HTTPFlow, seen: Seen | None) -> list[str]:
    """Say where the answer goes on, and where it is longer than what is kept."""
    if seen is not None and seen.record is None:
        return ["… (the answer is under way)", ""]
    kept = len(flow.response.raw_content or b"") if flow.response is not None else 0
    if seen is not None and seen.record is not None and seen.record.bytes_out > kept > 0:
        return [f"… (the answer is longer: of {seen.record.bytes_out:,} bytes, {kept:,} are kept)", ""]
    return []


def _facts(data: bytes, metadata: Metadata, seen: Seen | None) -> list[str]:
    """Return what the call took, and why it went where it went, as far as that is known."""
    if seen is None:
        meter = Meter(metadata.content_type or "")
        meter.feed(data)
        meter.finish()
        line = writing.usage_line(meter.usage)
        return [writing.heading("what it took"), line, ""] if line else []
    if seen.record is not None:
        return [*writing.record_lines(seen.record), *_why(seen, seen.record.provider)]
    if seen.exchange is not None:
        known = seen.exchange.as_live(now=time.monotonic())
        return [*writing.live_lines(known), *_why(seen, provider_of(seen.exchange))]
    return _why(seen, None)


def _why(seen: Seen | None, provider: str | None) -> list[str]:
    if seen is None or seen.explanation is None:
        return []
    return writing.decision_part(seen.explanation, provider)

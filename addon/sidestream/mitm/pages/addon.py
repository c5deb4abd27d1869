"""
The pages' own addon: it takes note of governed flows, and shows answers while they are under way.

It stands after the hooks of requests, whose exchanges it reads, and is there only where there is a view: under
mitmweb and mitmproxy's console, not under mitmdump or a `sidestream run` without pages.
"""

import asyncio
import logging

from mitmproxy import connection, ctx, hooks, http
from mitmproxy.addons.view import View
from mitmproxy.flow import Flow

from sidestream.core.body import write_object
from sidestream.mitm.current import Current
from sidestream.mitm.engine.pages import extend, has_viewers
from sidestream.mitm.exchanges import Open
from sidestream.mitm.pages import noting, views
from sidestream.mitm.pages.commands import Commands
from sidestream.mitm.pages.seen import MAX_FLOWS, Seen, Store, before_of, explained
from sidestream.mitm.requests import RequestHooks

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
"""How often what has come of an answer is shown, while somebody looks."""

COMMENT = "sidestream.comment"
"""Where our comment stands in a flow's metadata: a flow's comment that is another is somebody's own."""

WEB_COLUMNS = "web_columns"
"""mitmweb's option for the columns of its list."""


class Pages:
    """Takes note of flows for the pages. Whatever fails in it harms a page, and no request."""

    name = "sidestream-pages"

    def __init__(self, current: Current, requests: RequestHooks, view: View) -> None:
        self._current = current
        self._requests = requests
        self._view = view
        self.store = Store()
        self.addons = [Commands(current, requests, self)]
        self._live: dict[str, tuple[http.HTTPFlow, Open]] = {}
        self._showing: asyncio.Task[None] | None = None
        view.sig_store_remove.connect(self._forget)
        view.sig_store_refresh.connect(self._tidy)

    def running(self) -> None:
        """Offer the views, and begin to show what is under way."""
        views.install(self.store)
        _show_comments()
        extend(ctx.master)
        self._showing = asyncio.get_running_loop().create_task(self._show_from_time_to_time())

    def done(self) -> None:
        """Stop."""
        if self._showing is not None:
            self._showing.cancel()
            self._showing = None

    def request(self, flow: http.HTTPFlow) -> None:
        """Take note of what the app sent, and of what was decided."""
        try:
            opened = self._requests.opened(flow)
            if opened is None:
                return
            seen = None
            if (view := opened.view) is not None:
                body = (flow.request.raw_content or b"") if view.body is None else write_object(view.body)
                seen = Seen(before_of(view, body), explained(view, opened.snapshot), opened.exchange)
            self.begin(flow, opened, seen)
        except Exception:
            logger.exception("a flow could not be noted")

    def begin(self, flow: http.HTTPFlow, opened: Open, seen: Seen | None) -> None:
        """Take note of an exchange, and of what is known of it, if anything is."""
        self._live[flow.id] = flow, opened
        _comment(flow, noting.begun(opened.exchange))
        flow.metadata.update(noting.words_begun(opened.exchange))
        if seen is not None:
            limit = self._current.settings.web_max_flows or MAX_FLOWS
            self.store.put(flow.id, seen, limit=limit)

    def response(self, flow: http.HTTPFlow) -> None:
        """Take note of how it ended."""
        try:
            _, opened = self._live.pop(flow.id, (flow, None))
            if opened is not None:
                self._finish(flow, opened)
        except Exception:
            logger.exception("a flow could not be noted")

    error = response

    def client_disconnected(self, client: connection.Client) -> None:
        """Take note of what ended without a word."""
        for flow, opened in list(self._live.values()):
            if opened.client == client.id and opened.record is not None:
                self.response(flow)

    def show_live(self) -> None:
        """Put what has come of answers into their flows, as it was sent on, and tell whoever looks."""
        for flow, opened in list(self._live.values()):
            response = flow.response
            if response is None or not response.stream or len(opened.kept) == len(response.raw_content or b""):
                continue
            response.data.content = bytes(opened.kept)  # which mitmproxy, having streamed it, does not send again
            ctx.master.addons.trigger(hooks.UpdateHook([flow]))

    def _finish(self, flow: http.HTTPFlow, opened: Open) -> None:
        record = opened.record
        if flow.response is not None and flow.response.stream:
            flow.response.stream = True  # what tapped the answer would keep all of the exchange with the flow
        if record is None:
            return
        seen = self.store.get(flow.id)
        if seen is not None:
            seen.record, seen.exchange = record, None
        _comment(flow, noting.finished(record))
        if not flow.marked:
            flow.marked = noting.marker(record)
        flow.metadata.update(noting.words_finished(record))

    def _forget(self, flow: Flow) -> None:
        self.store.forget(flow.id)

    def _tidy(self) -> None:
        """Forget the flows that are in the view no more."""
        for flow_id, _ in self.store:
            if self._view.get_by_id(flow_id) is None:
                self.store.forget(flow_id)

    async def _show_from_time_to_time(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            if not (self._live and has_viewers()):
                continue
            try:
                self.show_live()
            except Exception:
                logger.exception("what is under way could not be shown")


def _show_comments() -> None:
    """Let mitmweb's list have a column of comments, unless somebody chose its columns."""
    if WEB_COLUMNS in ctx.options and ctx.options.web_columns == ctx.options.default(WEB_COLUMNS):
        ctx.options.update(web_columns=[*ctx.options.web_columns, "comment"])


def _comment(flow: http.HTTPFlow, comment: str) -> None:
    """Comment on a flow, unless somebody did."""
    ours = flow.metadata.get(COMMENT)
    if flow.comment in ("", ours):
        flow.comment = flow.metadata[COMMENT] = comment

"""
How many flows the pages keep.

mitmweb and mitmproxy's console keep every flow for as long as they run, some 6 KB each and the
bodies. Here the oldest go, in batches: those that are finished, and that nobody marked or holds. Our own
markers (`mitm.pages.noting`) are nobody's.
"""

from mitmproxy import ctx, flow
from mitmproxy.addons.view import View

from sidestream.mitm.current import Current
from sidestream.mitm.engine.pages import serialise_for_viewers_only
from sidestream.mitm.pages.noting import MARKERS

SLACK = 0.05
"""How far beyond the limit it may go before what is too much is looked for, as a share of the limit."""


class Retention:
    """Removes flows from the view where there is one, which mitmdump has not."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._patience = 0  # how many flows there may be before it is worth while to look again

    def running(self) -> None:
        """Spare mitmweb what nobody would see."""
        serialise_for_viewers_only()

    def requestheaders(self, _: flow.Flow) -> None:
        """Make room for the flow that comes, or for a batch that it is one of."""
        view, limit = ctx.master.addons.get("view"), self._current.settings.web_max_flows
        if not (limit and isinstance(view, View)):
            return
        count = view.store_count()
        if count < limit or limit <= count < self._patience:
            return
        remove_oldest(view, count - limit + 1)
        # When those that are too many can't go, they are not looked for again with every flow.
        self._patience = max(limit, view.store_count()) + max(1, int(limit * SLACK))

    tcp_start = udp_start = dns_request = requestheaders


def remove_oldest(view: View, count: int) -> None:
    """Remove the `count` flows that came first, of those that are finished, and that nobody marked or holds."""
    removed = 0
    for kept in view.resolve("@all"):
        if removed == count:
            break
        is_marked = kept.marked and kept.marked not in MARKERS
        if not (kept.live or is_marked or kept.intercepted):
            view.remove([kept])  # one at a time: of several the user is told
            removed += 1

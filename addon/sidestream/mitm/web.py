"""
How many flows the pages keep.

mitmweb and mitmproxy's console keep every flow for as long as they run, some 6 KB each and the
bodies. Here the oldest go, in batches: those that are finished, and that nobody marked or holds. Our own
markers (`mitm.pages.noting`) are nobody's.
"""

import time

from mitmproxy import ctx, flow, http
from mitmproxy.addons.view import View

from sidestream.mitm.current import Current
from sidestream.mitm.engine.pages import bound_what_waits, serialise_for_viewers_only
from sidestream.mitm.pages.noting import MARKERS

SLACK = 0.05
"""How far beyond the limit it may go before what is too much is looked for, as a share of the limit."""

SECONDS_BETWEEN_LOOKS = 1.0
"""How often it is looked how large the flows are together."""


class Retention:
    """Removes flows from the view where there is one, which mitmdump has not."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._next_look = 0.0
        self._patience = 0  # how many flows there may be before it is worth while to look again

    def running(self) -> None:
        """Spare mitmweb what nobody would see, and what a slow browser would make it keep."""
        serialise_for_viewers_only()
        bound_what_waits()

    def requestheaders(self, _: flow.Flow) -> None:
        """Make room for the flow that comes, or for a batch that it is one of."""
        view, limit = ctx.master.addons.get("view"), self._current.settings.web_max_flows
        if not isinstance(view, View):
            return
        self._weigh(view)
        if not limit:
            return
        count = view.store_count()
        if count < limit or limit <= count < self._patience:
            return
        remove_oldest(view, count - limit + 1)
        # When those that are too many can't go, they are not looked for again with every flow.
        self._patience = max(limit, view.store_count()) + max(1, int(limit * SLACK))

    tcp_start = udp_start = dns_request = requestheaders

    def _weigh(self, view: View) -> None:
        """Remove the oldest when all are too large together. A look at all is worth it only from time to time."""
        limit, now = self._current.settings.web_max_bytes, time.monotonic()
        if not limit or now < self._next_look:
            return
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        excess = sum(map(size_of, view.resolve("@all"))) - limit
        if excess > 0:
            remove_oldest(view, size=excess)


def size_of(kept: flow.Flow) -> int:
    """Return how many bytes the bodies of a flow have."""
    if not isinstance(kept, http.HTTPFlow):
        return 0
    messages = (kept.request, *([kept.response] if kept.response is not None else []))
    return sum(len(message.raw_content or b"") for message in messages)


def remove_oldest(view: View, count: int = 0, *, size: int = 0) -> None:
    """
    Remove flows that came first, of those that are finished, and that nobody marked or holds.

    At least `count` of them, and as many as have `size` bytes together.
    """
    removed = freed = 0
    for kept in view.resolve("@all"):
        if removed >= count and freed >= size:
            break
        is_marked = kept.marked and kept.marked not in MARKERS
        if not (kept.live or is_marked or kept.intercepted):
            view.remove([kept])  # one at a time: of several the user is told
            removed += 1
            freed += size_of(kept)

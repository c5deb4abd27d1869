"""
What mitmweb does for every flow, whether or not anybody looks.

It makes JSON of a flow whenever that changes, six times for a request, with the SHA-256 of both
bodies; then it hands that to the browsers that are connected, which mostly are none.
"""

import sys
from typing import Any

from mitmproxy import ctx
from mitmproxy.flow import Flow
from mitmproxy.master import Master

STYLE = b"<style>.flow-table .col-comment{width:45%}.flow-table td.col-comment{text-align:left}</style>"
"""What is added to mitmweb's one page."""

MAX_WAITING = 2000
"""How many messages may wait for a browser; a flow takes some 3 KB in one."""

RESET = b'{"type": "flows/reset"}'
"""What tells a browser to fetch the list anew."""


def serialise_for_viewers_only() -> None:
    """Let mitmweb, if this is one, make JSON of flows only while a browser is connected."""
    app = sys.modules.get("mitmproxy.tools.web.app")  # to import it here would bring it to all that are none
    if app is None or hasattr(app.ClientConnection.broadcast_flow, "original"):
        return
    original = app.ClientConnection.broadcast_flow

    def broadcast_flow(kind: str, flow: Flow) -> None:
        if app.ClientConnection.connections:
            original(kind, flow)

    broadcast_flow.original = original
    app.ClientConnection.broadcast_flow = staticmethod(broadcast_flow)


def bound_what_waits() -> None:
    """
    Let only so much wait for a browser that is slow, or asleep; its list is then fetched anew.

    mitmweb would keep every change for it, and under load there are hundreds a second.
    """
    app = sys.modules.get("mitmproxy.tools.web.app")
    if app is None or hasattr(app.ClientConnection.send, "original"):
        return
    original = app.ClientConnection.send

    def send(connection: Any, message: bytes) -> None:
        if connection._send_queue.qsize() < MAX_WAITING:
            original(connection, message)
            return
        while not connection._send_queue.empty():
            connection._send_queue.get_nowait()
        original(connection, RESET)  # what `message` says is in what is fetched then
        for name, expression in connection.filters.copy().items():
            connection.update_filter(name, expression.pattern)

    send.original = original
    app.ClientConnection.send = send


def extend(master: Master) -> None:
    """
    Let mitmweb, if this is one, run commands that have a hyphen in their name, and show all of a comment.

    Its own route knows no hyphens, and its column of comments is some twenty letters wide.
    """
    app = sys.modules.get("mitmproxy.tools.web.app")
    if app is None or not isinstance(pages := getattr(master, "app", None), app.Application):
        return

    # The form for a password is posted there. mitmweb asks for the password before either is called.
    roomy_index = type("RoomyIndex", (app.IndexHandler,), {"get": _show_index, "post": _show_index})
    pages.add_handlers(".*", [(r"/", roomy_index), (r"/commands/(?P<cmd>[a-z.]+-[a-z.-]+)", app.ExecuteCommand)])


def _show_index(handler: Any) -> None:
    handler.finish(handler.render_string("../index.html") + STYLE)


def look_at(looked_at: Flow) -> None:
    """Let `@focus` be a flow that somebody looks at in mitmweb, which does not say. The console does."""
    app = sys.modules.get("mitmproxy.tools.web.app")
    view = ctx.master.addons.get("view") if app is not None else None
    if view is not None and looked_at in view:
        view.focus.flow = looked_at


def has_viewers() -> bool:
    """Tell whether somebody may be looking: a browser at mitmweb, or a person at the console, who always is."""
    app = sys.modules.get("mitmproxy.tools.web.app")
    return app is None or bool(app.ClientConnection.connections)

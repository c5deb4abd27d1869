"""
What mitmweb does for every flow, whether or not anybody looks.

It makes JSON of a flow whenever that changes, six times for a request, with the SHA-256 of both
bodies; then it hands that to the browsers that are connected, which mostly are none.
"""

import sys

from mitmproxy.flow import Flow


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


def has_viewers() -> bool:
    """Tell whether somebody may be looking: a browser at mitmweb, or a person at the console, who always is."""
    app = sys.modules.get("mitmproxy.tools.web.app")
    return app is None or bool(app.ClientConnection.connections)

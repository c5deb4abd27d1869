"""What the engine asks of the addon."""

from typing import Protocol

from mitmproxy import http

from sidestream.core.calls import Upstream
from sidestream.core.errors import Fault
from sidestream.core.planning import Attempt
from sidestream.mitm.engine.upstream import Calling


class Governor(Protocol):
    """What the HTTP layer asks of the addon."""

    def attempt_of(self, flow: http.HTTPFlow) -> Attempt | None:
        """Return what is sent for `flow`, or ``None`` when it is not governed."""

    def calling(self, flow: http.HTTPFlow) -> Calling | None:
        """Return the exchange of `flow`, if it is to be sent on as planned."""

    def upstream(self) -> Upstream:
        """Return the upstream half."""

    def max_head_bytes(self) -> int:
        """Return how long the head of a request may be."""

    def note_refusal(self, code: str) -> None:
        """Take note of a request that was refused before there was a flow."""

    def max_body_bytes(self, flow: http.HTTPFlow) -> int | None:
        """Return how long the body of `flow` may be; ``None``: it is not held."""

    def is_governed(self, flow: http.HTTPFlow) -> bool:
        """Tell whether a policy names the host of `flow`."""

    def governs(self, host: str) -> bool:
        """Tell whether a policy names `host`, as a client wrote it."""

    def note_fault(self, flow: http.HTTPFlow, fault: Fault) -> None:
        """Take note of who ended `flow` early, before its `error` hook."""

    def is_ending(self) -> bool:
        """Tell whether the proxy ends, so that connections are closed when nothing is under way on them."""

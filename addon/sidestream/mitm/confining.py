"""
Serving policy hosts alone, where others can reach the proxy (`sidestream_only_policy_hosts`).

A proxy that was asked for by name goes wherever it is told to: for whoever reaches it, to places that they could
not reach themselves, and to itself. A redirected connection only goes where it was going, so it is no concern of this.
"""

import logging

from mitmproxy import http
from mitmproxy.proxy import mode_specs

from sidestream.core.errors import INTERNAL_ERROR, ClientError
from sidestream.mitm.apply import answer
from sidestream.mitm.current import Current
from sidestream.mitm.view import named_hosts

logger = logging.getLogger(__name__)

NOT_GOVERNED = ClientError(421, "host_not_governed", "no policy names this host, and this proxy serves no others")

_ASKED_FOR = (mode_specs.RegularMode, mode_specs.ReverseMode)


class Confining:
    """Answers what is for a host that no policy names. It comes before all that may send a request on."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer a request, unless one of the hosts that it names is a policy's (which settles the rest)."""
        self._judge(flow)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Answer one that asks for a tunnel, likewise."""
        self._judge(flow)

    def _judge(self, flow: http.HTTPFlow) -> None:
        if not (self._current.settings.only_policy_hosts and isinstance(flow.client_conn.proxy_mode, _ASKED_FOR)):
            return
        try:
            hosts = {flow.request.host} if flow.request.method == "CONNECT" else named_hosts(flow)
            if not any(self._current.governs(host) for host in hosts):
                answer(NOT_GOVERNED, flow)
        except Exception:
            logger.exception("it could not be told whether a policy names the host of a request")
            answer(INTERNAL_ERROR, flow)

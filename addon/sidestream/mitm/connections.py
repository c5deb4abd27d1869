"""Hooks about connections: which are refused, passed through, or read, and how providers are verified."""

import logging
import time
from collections import Counter
from typing import get_args

from mitmproxy import connection, ctx, exceptions, tls
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import layer, layers, mode_specs, server_hooks

from sidestream.mitm.current import Current
from sidestream.mitm.engine.clients import prepare, prepare_server, was_redirected
from sidestream.mitm.engine.governor import Governor
from sidestream.mitm.engine.http import GovernedHttpLayer, endpoints
from sidestream.mitm.engine.listening import deepen_backlogs
from sidestream.mitm.engine.relay import passed_through
from sidestream.mitm.engine.tls import distrusting_connection, provider_connection
from sidestream.mitm.engine.transparent import CloseLayer
from sidestream.mitm.firstbytes import Coverage, choose_layer, coverage_of

logger = logging.getLogger(__name__)


SECONDS_BETWEEN_WARNINGS = 1.0
"""How often it is said that there are too many connections, at most."""


class ConnectionHooks:
    """The hooks of connections. `governor` is what HTTP layers are given to ask."""

    def __init__(self, current: Current, governor: Governor) -> None:
        self._current = current
        self._governor = governor
        self._said_at = -SECONDS_BETWEEN_WARNINGS
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return what became of connections since the start. The names are a closed set."""
        names = ("connections_accepted", "connections_refused", "connections_passed_through")
        counted = {
            name: self._counts[name]
            for name in (*names, *(f"llm_{outcome}" for outcome in get_args(Coverage.__value__)))
        }
        return counted | {f"passed_through_bytes_{way}": number for way, number in passed_through.items()}

    def running(self) -> None:
        """Let bursts of connections wait to be taken, now and at servers that are added later."""
        servers = _addon("proxyserver", Proxyserver).servers
        servers.changed.connect(self._deepen_backlogs)
        self._deepen_backlogs()

    def _deepen_backlogs(self) -> None:
        deepen_backlogs(_addon("proxyserver", Proxyserver))

    def client_connected(self, client: connection.Client) -> None:
        """Refuse a connection that is one too many, or would be sent to the proxy itself; prepare all others."""
        proxyserver = _addon("proxyserver", Proxyserver)
        is_transparent = isinstance(client.proxy_mode, mode_specs.TransparentMode)
        limit = self._current.settings.max_connections
        if limit and len(proxyserver.connections) > limit:
            self._refuse_one_too_many(client, limit)
        elif is_transparent and not was_redirected(proxyserver, client):
            client.error = "this connection was not redirected: it is meant for the proxy itself"
            logger.warning("refused a connection that was made to the proxy itself", extra={"client": client.peername})
        else:
            prepare(proxyserver, client)
        self._counts["connections_refused" if client.error else "connections_accepted"] += 1

    def _refuse_one_too_many(self, client: connection.Client, limit: int) -> None:
        client.error = f"there are {limit} connections already"
        now = time.monotonic()
        if now - self._said_at >= SECONDS_BETWEEN_WARNINGS:
            self._said_at = now
            refused = self._counts["connections_refused"] + 1
            logger.warning("refused a connection: there are too many", extra={"limit": limit, "refused": refused})

    def server_connected(self, connected: server_hooks.ServerConnectionHookData) -> None:
        """Read what comes in large pieces."""
        prepare_server(_addon("proxyserver", Proxyserver), connected.client, connected.server)

    def next_layer(self, undecided: layer.NextLayer) -> None:
        """Pass the connection through, or let mitmproxy read it."""
        try:
            intercept_tls = self._current.settings.intercept_tls
            choose_layer(undecided, self._current.snapshot, intercept_tls=intercept_tls, stock=self._stock_layer)
            if isinstance(undecided.layer, layers.TCPLayer):
                self._counts["connections_passed_through"] += 1
        except exceptions.AddonHalt:
            raise
        except Exception:
            logger.exception("the first bytes of a connection could not be judged")
            if not self._current.settings.fail_open:
                undecided.layer = CloseLayer(undecided.context)
            return
        self._count_coverage(undecided)

    def _count_coverage(self, undecided: layer.NextLayer) -> None:
        try:
            settings, snapshot = self._current.settings, self._current.snapshot
            if coverage := coverage_of(undecided, snapshot, intercept_tls=settings.intercept_tls):
                self._counts[f"llm_{coverage}"] += 1
        except Exception:
            logger.exception("a connection could not be counted; it goes on")

    def _stock_layer(self, undecided: layer.NextLayer) -> None:
        _addon("nextlayer", NextLayer).next_layer(undecided)
        if undecided.layer is not None:
            GovernedHttpLayer.specialise(undecided.layer, self._governor)

    def tls_clienthello(self, hello: tls.ClientHelloData) -> None:
        """Decrypt a connection only when a policy names its SNI."""
        try:
            is_asked_for = isinstance(hello.context.client.proxy_mode, mode_specs.ReverseMode)
            if hello.context.server.address is not None and not is_asked_for:
                hello.ignore_connection = not self._current.governs(hello.client_hello.sni or "")
        except Exception:
            logger.exception("a ClientHello could not be judged; the connection is not decrypted")
            hello.ignore_connection = True

    def tls_failed_client(self, failed: tls.TlsData) -> None:
        """Count a client that does not take our certificate for a policy host: it has pinned another."""
        try:
            if self._current.governs(failed.conn.sni or ""):
                self._counts["llm_pinned"] += 1
        except Exception:
            logger.exception("a connection could not be counted")

    def tls_start_server(self, start: tls.TlsData) -> None:
        """Verify a provider as its policy says."""
        endpoint = endpoints.get(start.conn) if isinstance(start.conn, connection.Server) else None
        if endpoint is not None:
            start.conn.sni = endpoint.server_name
            try:
                start.ssl_conn = provider_connection(endpoint, self._current.settings.upstream_ca_pem)
            except Exception:
                # Without a connection of ours, mitmproxy would make one that verifies as its own options say.
                logger.exception("TLS to a provider could not be set up; it is not connected to")
                start.ssl_conn = distrusting_connection()

    def server_connect_error(self, failed: server_hooks.ServerConnectionHookData) -> None:
        """Let the next request try again: mitmproxy would fail it at once."""
        if failed.server in endpoints:
            failed.server.error = None

    def tls_failed_server(self, failed: tls.TlsData) -> None:
        """Let the next request try again: mitmproxy would fail it at once."""
        if isinstance(failed.conn, connection.Server) and failed.conn in endpoints:
            failed.conn.error = None


def _addon[A](name: str, kind: type[A]) -> A:
    addon = ctx.master.addons.get(name)
    assert isinstance(addon, kind)
    return addon

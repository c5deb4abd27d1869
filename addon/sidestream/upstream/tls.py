"""
TLS to providers: always verified, against an endpoint's own CA or the system's, with sessions resumed.

Neither an option nor an environment variable turns verification off: a key goes over these connections.
"""

import ssl
import time
from collections import OrderedDict

import certifi

from sidestream.core.snapshot import Endpoint

SECONDS_BETWEEN_SESSIONS = 60.0
"""
How long a session of a server is kept before another takes its place.

To ask Python for a session leaks 6 KB before 3.12.8 and 3.13.1 (python/cpython#116810), so it is done where it
helps: after a handshake that took up none, and not for every connection to a server that never takes one up.
"""
MAX_SESSIONS = 256
"""Of how many server names the last session is kept, for one set of CAs."""


class _Context(ssl.SSLContext):
    """A context that takes up the last session of a server name: asyncio has no parameter for it."""

    sessions: OrderedDict[str, tuple[ssl.SSLSession, float]]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 the signature is ssl's
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        known = self.sessions.get(server_hostname) if isinstance(server_hostname, str) else None
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or (known and known[0]))


class Contexts:
    """
    A TLS context for each set of CAs. `extra_ca_pem`: CAs to trust besides the system's.

    A session stands for a certificate that was verified by those CAs for that name, and is taken up for no other.
    """

    def __init__(self, extra_ca_pem: str = "") -> None:
        self._extra_ca_pem = extra_ca_pem
        self._contexts: dict[str | None, _Context] = {}

    def of(self, endpoint: Endpoint) -> ssl.SSLContext:
        """Return the context for `endpoint`. To read the system's CAs takes a while; it is done once."""
        context = self._contexts.get(endpoint.ca_pem)
        if context is None:
            context = self._contexts[endpoint.ca_pem] = _make(endpoint.ca_pem, self._extra_ca_pem)
        return context

    def remember(self, endpoint: Endpoint, connection: ssl.SSLObject) -> None:
        """Keep the session of `connection`, for the next one to the server name of `endpoint`, if that one needs it."""
        context, now = self._contexts.get(endpoint.ca_pem), time.monotonic()
        if context is None or connection.context is not context or connection.session_reused:
            return
        known = context.sessions.get(endpoint.server_name)
        is_new = known is not None and now - known[1] < SECONDS_BETWEEN_SESSIONS
        if is_new or (session := connection.session) is None:
            return
        context.sessions[endpoint.server_name] = session, now
        context.sessions.move_to_end(endpoint.server_name)
        if len(context.sessions) > MAX_SESSIONS:
            context.sessions.popitem(last=False)


def _make(ca_pem: str | None, extra_ca_pem: str) -> _Context:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.sessions = OrderedDict()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_pem is not None:
        context.load_verify_locations(cadata=ca_pem)
        return context
    _load_system(context)
    if extra_ca_pem:
        context.load_verify_locations(cadata=extra_ca_pem)
    return context


def _load_system(context: ssl.SSLContext) -> None:
    paths = ssl.get_default_verify_paths()
    context.load_verify_locations(paths.cafile or certifi.where(), paths.capath)


def why(error: ssl.SSLError) -> str:
    """Return what a person can do something with."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return f"TLS failed: {error.reason or error}"

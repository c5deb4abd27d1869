"""
TLS to providers: always verified, against an endpoint's own CA or the system's, with sessions resumed.

Neither an option nor an environment variable turns verification off: a key goes over these connections.
"""

import ssl
from collections import OrderedDict

import certifi

from sidestream.core.snapshot import Endpoint

MAX_SESSIONS = 256
"""Of how many server names the last session is kept, for one set of CAs."""


class _Context(ssl.SSLContext):
    """A context that takes up the last session of a server name: asyncio has no parameter for it."""

    sessions: OrderedDict[str, ssl.SSLSession]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 the signature is ssl's
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        known = self.sessions.get(server_hostname) if isinstance(server_hostname, str) else None
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or known)


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
        """Keep the session of `connection`, for the next one to the server name of `endpoint`."""
        context = self._contexts.get(endpoint.ca_pem)
        session = connection.session
        if context is None or connection.context is not context or session is None:
            return
        context.sessions[endpoint.server_name] = session
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

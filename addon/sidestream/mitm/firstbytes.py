"""
What becomes of a connection, told from its first bytes.

A connection that no policy names is passed through as it is: not decrypted, not parsed,
nothing kept of it. Only a complete HTTP head that names a policy host, or, when TLS is
intercepted, a ClientHello that does, is mitmproxy's to read.
"""

from collections.abc import Callable
from typing import Literal

from mitmproxy import exceptions
from mitmproxy.proxy import layer, layers, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.tls import parse_client_hello

from sidestream.core.hosts import normalise_host
from sidestream.core.snapshot import Snapshot
from sidestream.core.sniff import MAX_HEAD_BYTES, Http, Incomplete, Opaque, Tls, sniff
from sidestream.core.systems import OTHER_SYSTEM, system_of
from sidestream.mitm.engine.transparent import CloseLayer, UndecidedLayer, is_being_opened

CLIENT_HELLO = b"\x01"
"""What a handshake begins with, after the head of its record (RFC 8446, 4)."""

type Coverage = Literal["governed", "unknown_host", "no_interception", "pinned"]
"""What became of a connection that looks like LLM traffic."""

_REDIRECTED = (mode_specs.TransparentMode, mode_specs.LocalMode)


def choose_layer(
    undecided: layer.NextLayer, snapshot: Snapshot, *, intercept_tls: bool, stock: Callable[[layer.NextLayer], None]
) -> None:
    """
    Set the next layer: raw bytes, or what the `stock` addon chooses.

    Raises:
        AddonHalt: more bytes are needed.
    """
    context = undecided.context
    if context.client.transport_protocol == "udp":
        if isinstance(context.client.proxy_mode, _REDIRECTED):
            undecided.layer = layers.UDPLayer(context, ignore=True)
        return
    if context.server.address is None or isinstance(context.client.proxy_mode, mode_specs.ReverseMode):
        stock(undecided)  # a proxy that was asked for by name: what comes is meant for it
        return
    ours = _ours(undecided, snapshot, intercept_tls=intercept_tls)
    if ours == "http":
        # The stock addon guesses, and takes a head after an empty line for something else.
        undecided.layer = layers.HttpLayer(context, HTTPMode.transparent)
    if ours is not None:
        stock(undecided)
    elif is_being_opened(context):
        raise exceptions.AddonHalt  # asked again when the destination is open
    elif context.server.error is not None:
        undecided.layer = CloseLayer(context)
    else:
        undecided.layer = layers.TCPLayer(context, ignore=True)


def coverage_of(undecided: layer.NextLayer, snapshot: Snapshot, *, intercept_tls: bool) -> Coverage | None:
    """
    Tell what became of a redirected connection that looks like LLM traffic, once that is decided.

    A host looks so when a policy names it, or when it is a known provider's.
    """
    context = undecided.context
    if not isinstance(context.client.proxy_mode, _REDIRECTED) or undecided.layer is None or _is_decrypted(context):
        return None
    hosts = _named_hosts(undecided.data_client())
    if any(snapshot.governs(host) for host in hosts):
        if isinstance(undecided.layer, layers.TCPLayer):
            return "unknown_host" if intercept_tls else "no_interception"
        return "governed"
    return "unknown_host" if any(system_of(host) != OTHER_SYSTEM for host in hosts) else None


def _named_hosts(said: bytes) -> list[str]:
    match sniff(said):
        case Http(hosts=hosts):
            return [normalise_host(host) for host in hosts]
        case Tls() if said[5:6] == CLIENT_HELLO:
            try:
                hello = parse_client_hello(said)
            except ValueError:
                return []
            return [normalise_host(hello.sni)] if hello is not None and hello.sni else []
        case _:
            return []


def _ours(undecided: layer.NextLayer, snapshot: Snapshot, *, intercept_tls: bool) -> Literal["http", "tls"] | None:
    """Tell what is mitmproxy's to read, if it is."""
    if undecided.data_server():
        return None  # a server that speaks first speaks no HTTP
    decrypted = _is_decrypted(undecided.context)
    if decrypted and undecided.context.client.alpn == b"h2":
        return "http"
    said = undecided.data_client()
    match sniff(said):
        case Incomplete():
            _wait_for_more(undecided)
        case Http(hosts=hosts) if decrypted or any(snapshot.governs(normalise_host(host)) for host in hosts):
            return "http"
        case Tls() if intercept_tls and not decrypted and _names_a_policys_host(undecided, said, snapshot):
            return "tls"
        case Http() | Tls() | Opaque():
            pass
    return None


def _names_a_policys_host(undecided: layer.NextLayer, said: bytes, snapshot: Snapshot) -> bool:
    if said[5:6] not in (b"", CLIENT_HELLO):
        return False
    try:
        hello = parse_client_hello(said)
    except ValueError:
        return False
    if hello is None:
        if len(said) < MAX_HEAD_BYTES:
            _wait_for_more(undecided)
        return False
    return snapshot.governs(normalise_host(hello.sni or ""))


def _wait_for_more(undecided: layer.NextLayer) -> None:
    if not (isinstance(undecided, UndecidedLayer) and undecided.complete):
        raise exceptions.AddonHalt


def _is_decrypted(context: Context) -> bool:
    return any(isinstance(above, layers.ClientTLSLayer) for above in context.layers) and context.client.tls_established

"""
What becomes of a connection, told from its first bytes.

A connection that no policy names is passed through as it is: not decrypted, not parsed,
nothing kept of it. Only a complete HTTP head that names a policy host, or, when TLS is
intercepted, a ClientHello that does, is mitmproxy's to read.
"""

from collections.abc import Callable

from mitmproxy import exceptions
from mitmproxy.proxy import layer, layers, mode_specs
from mitmproxy.proxy.context import Context

from sidestream.core.hosts import normalise_host
from sidestream.core.snapshot import Snapshot
from sidestream.core.sniff import Http, Incomplete, Opaque, Tls, sniff
from sidestream.mitm.engine.transparent import UndecidedLayer, is_being_opened

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
    if _is_ours(undecided, snapshot, intercept_tls=intercept_tls):
        stock(undecided)
    elif is_being_opened(context):
        raise exceptions.AddonHalt  # asked again when the destination is open
    else:
        undecided.layer = layers.TCPLayer(context, ignore=True)


def _is_ours(undecided: layer.NextLayer, snapshot: Snapshot, *, intercept_tls: bool) -> bool:
    if undecided.data_server():
        return False  # a server that speaks first speaks no HTTP
    decrypted = _is_decrypted(undecided.context)
    if decrypted and undecided.context.client.alpn == b"h2":
        return True
    match sniff(undecided.data_client()):
        case Incomplete():
            if isinstance(undecided, UndecidedLayer) and undecided.complete:
                return False
            raise exceptions.AddonHalt
        case Http(hosts=hosts):
            return decrypted or any(snapshot.governs(normalise_host(host)) for host in hosts)
        case Tls():
            return intercept_tls and not decrypted
        case Opaque():
            return False


def _is_decrypted(context: Context) -> bool:
    return any(isinstance(above, layers.ClientTLSLayer) for above in context.layers) and context.client.tls_established

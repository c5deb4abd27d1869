"""mitmproxy's HTTP/2 server side: how large heads may be, and what is kept of streams that are over."""

from collections.abc import Set as AbstractSet

from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._http2 import Http2Server

HEADS_READ = 4
"""How many times as large as it may be a head is read, to be answered; a larger one ends the connection."""


def make_http2_server(context: Context, max_head_bytes: int) -> Http2Server:
    """Return what speaks with a client of HTTP/2; it tells that client how large a head is read."""
    server = Http2Server(context)
    most = HEADS_READ * max_head_bytes
    settings = server.h2_conn.local_settings
    settings.max_header_list_size = most
    settings.acknowledge()  # otherwise it would tell what was before
    server.h2_conn.decoder.max_header_list_size = most
    return server


def forget_streams(server: Http2Server, alive: AbstractSet[int]) -> None:
    """Forget all streams but those that are `alive`: mitmproxy keeps their numbers with the connection."""
    for stream_id in server.streams.keys() - alive:
        del server.streams[stream_id]

"""How hooks are called: at once, but not for as long as one client likes."""

import asyncio
from types import SimpleNamespace

from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow

from sidestream.mitm.engine.dispatch import TableAddonManager
from sidestream.mitm.engine.handling import PersistentConnectionHandler

REQUESTS = 500


class Pipelining:
    """A layer that has another request whenever one is judged."""

    def __init__(self):
        self.asked = 0
        self.is_done = asyncio.Event()

    def handle_event(self, event):
        if self.asked < REQUESTS:
            self.asked += 1
            yield HttpRequestHook(tflow.tflow())
        else:
            self.is_done.set()


async def test_a_client_with_many_requests_in_one_piece_lets_others_have_their_turn():
    with taddons.context() as context:
        TableAddonManager.specialise(context.master.addons)
        writer = SimpleNamespace(get_extra_info=lambda name, default=("192.0.2.1", 5000): default)
        handler = ProxyConnectionHandler(context.master, None, writer, context.options, ProxyMode.parse("regular"))
        handler.layer = layer = Pipelining()
        PersistentConnectionHandler.specialise(handler)
        asked_until_then = []
        asyncio.get_running_loop().call_soon(lambda: asked_until_then.append(layer.asked))

        await handler.server_event(events.Start())
        await layer.is_done.wait()

    assert layer.asked == REQUESTS
    assert asked_until_then[0] < 50

"""How connections that pass through are held, where no socket can be made to show it in a test's time."""

import asyncio
from types import SimpleNamespace

import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.test import tflow

from sidestream.mitm.engine.relay import PatientConnectionHandler


@pytest.mark.parametrize(
    ("is_relaying", "state", "is_cut"),
    [
        (True, ConnectionState.OPEN, False),
        (True, ConnectionState.CAN_WRITE, True),
        (False, ConnectionState.OPEN, True),
    ],
    ids=["it passes through", "its client has ended", "it is read"],
)
async def test_a_connection_that_was_idle_for_a_day_is_cut_unless_both_sides_may_still_speak(
    is_relaying, state, is_cut
):
    handler = PatientConnectionHandler.__new__(PatientConnectionHandler)
    handler.client, handler.layer = tflow.tclient_conn(), SimpleNamespace(is_relaying=is_relaying)
    handler.client.state = state
    task = asyncio.get_running_loop().create_future()
    handler.transports = {handler.client: ConnectionIO(handler=task)}

    await handler.on_timeout()

    assert task.cancelled() is is_cut


def test_a_connection_that_is_no_socket_is_left_to_mitmproxy():
    handler = ProxyConnectionHandler.__new__(ProxyConnectionHandler)
    handler.client = tflow.tclient_conn()
    handler.transports = {handler.client: ConnectionIO(reader=SimpleNamespace())}

    PatientConnectionHandler.specialise(handler)

    assert type(handler) is ProxyConnectionHandler

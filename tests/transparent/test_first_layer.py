"""The first layer of a redirected connection, where events meet in ways that no socket can be made to show."""

import contextlib
import time

import pytest
from mitmproxy import exceptions
from mitmproxy.connection import ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import tflow

from sidestream.core.snapshot import EMPTY
from sidestream.mitm.engine.transparent import PatientTransparentProxy
from sidestream.mitm.firstbytes import choose_layer

WORDS = b"PING\r\n"


class Proxy:
    """A connection whose hooks and dials are answered when the test says so."""

    def __init__(self) -> None:
        self.client, self.server = tflow.tclient_conn(), tflow.tserver_conn()
        self.client.proxy_mode, self.client.state = ProxyMode.parse("transparent"), ConnectionState.OPEN
        self.server.state = ConnectionState.CLOSED
        self.server.timestamp_start = self.server.timestamp_tcp_setup = self.server.error = None
        context = Context(self.client, Options())
        context.server = self.server
        self.top = modes.TransparentProxy(context)
        PatientTransparentProxy.specialise(self.top)
        self.asked: list[commands.Command] = []
        self.sent = b""
        self.has_ended_server = self.has_closed_client = False
        self.feed(events.Start())

    def feed(self, event: events.Event) -> None:
        for command in self.top.handle_event(event):
            match command:
                case commands.SendData(connection=conn, data=content) if conn is self.server:
                    assert self.server.state is ConnectionState.OPEN
                    self.sent += content
                case commands.CloseTcpConnection(connection=conn) if conn is self.server:
                    self.has_ended_server = True
                case commands.CloseConnection(connection=conn) if conn is self.client:
                    self.has_closed_client = True
                case commands.OpenConnection():
                    assert self.server.timestamp_start is None, "it is opened twice"
                    self.server.timestamp_start = time.time()
                    self.asked.append(command)
                case _:
                    self.asked.append(command)

    def take(self, kind: type[commands.Command]) -> commands.Command:
        command = next(command for command in self.asked if isinstance(command, kind))
        self.asked.remove(command)
        return command

    def begin_to_judge(self) -> commands.Command:
        hook = self.take(commands.StartHook)
        with contextlib.suppress(exceptions.AddonHalt):
            choose_layer(*hook.args(), EMPTY, intercept_tls=False, stock=lambda _: None)
        return hook

    def judge(self) -> None:
        self.feed(events.HookCompleted(self.begin_to_judge()))

    def wake(self) -> None:
        self.feed(events.Wakeup(self.take(commands.RequestWakeup)))

    @property
    def timers(self) -> list[commands.Command]:
        return [command for command in self.asked if isinstance(command, commands.RequestWakeup)]

    def connect(self, error: str | None = None) -> None:
        self.server.error = error
        if error is None:
            self.server.state, self.server.timestamp_tcp_setup = ConnectionState.OPEN, time.time()
        self.feed(events.OpenConnectionCompleted(self.take(commands.OpenConnection), error))

    def say(self, words: bytes = WORDS) -> None:
        self.feed(events.DataReceived(self.client, words))

    def end(self) -> None:
        self.client.state &= ~ConnectionState.CAN_READ
        self.feed(events.ConnectionClosed(self.client))


@pytest.fixture
def proxy():
    return Proxy()


def test_a_destination_that_opens_while_the_first_bytes_are_judged_hears_them(proxy):
    proxy.wake()
    proxy.say()
    hook = proxy.begin_to_judge()
    proxy.connect()
    proxy.feed(events.HookCompleted(hook))
    proxy.judge()

    assert proxy.sent == WORDS


def test_a_destination_that_fails_while_the_first_bytes_are_judged_ends_the_client(proxy):
    proxy.wake()
    proxy.say()
    hook = proxy.begin_to_judge()
    proxy.connect(error="refused")
    proxy.feed(events.HookCompleted(hook))
    proxy.judge()

    assert proxy.has_closed_client


def test_an_end_that_comes_while_the_first_bytes_are_judged_is_passed_on(proxy):
    proxy.say()
    hook = proxy.begin_to_judge()
    proxy.end()
    proxy.feed(events.HookCompleted(hook))
    proxy.connect()

    assert (proxy.sent, proxy.has_ended_server) == (WORDS, True)


def test_an_end_that_comes_while_the_destination_is_opened_is_passed_on(proxy):
    proxy.wake()
    proxy.end()
    proxy.judge()
    proxy.connect()
    proxy.judge()

    assert (proxy.sent, proxy.has_ended_server) == (b"", True)


def test_a_silent_client_is_closed_a_while_after_its_destination_failed(proxy):
    proxy.wake()
    proxy.connect(error="refused")
    closed_at_once = proxy.has_closed_client
    proxy.wake()

    assert (closed_at_once, proxy.has_closed_client) == (False, True)


def test_words_that_tell_nothing_are_passed_on_when_no_more_follow(proxy):
    proxy.wake()
    proxy.connect()
    proxy.say(b"PO")
    proxy.judge()
    sent_at_once = proxy.sent
    proxy.wake()
    proxy.judge()

    assert (sent_at_once, proxy.sent) == (b"", b"PO")


def test_a_client_that_goes_on_is_waited_for_anew(proxy):
    proxy.wake()
    proxy.connect()
    proxy.say(b"P")
    proxy.judge()
    proxy.say(b"O")
    proxy.judge()
    proxy.wake()
    sent_meanwhile = proxy.sent
    proxy.wake()
    proxy.judge()

    assert (sent_meanwhile, proxy.sent) == (b"", b"PO")


def test_no_timer_ends_a_connection_that_passes_through(proxy):
    proxy.wake()
    proxy.connect()
    proxy.say(b"PO")
    proxy.judge()
    proxy.say(b"NG")
    proxy.judge()
    proxy.end()
    while proxy.timers:
        proxy.wake()

    assert (proxy.sent, proxy.has_closed_client) == (b"PONG", False)

"""
Drives mitmproxy's layers without sockets: events in, commands out, hooks answered.

`Drive` does what mitmproxy's server does with the commands of a layer, except I/O: what is sent
is collected, and opening a connection works or fails as told.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mitmproxy import connection
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layer


@dataclass
class Drive:
    """`hooks`: name → what to call. `failure`: why connections can't be opened, if they can't."""

    top: layer.Layer
    hooks: dict[str, Callable] = field(default_factory=dict)
    failure: str | None = None
    sent: dict[connection.Connection, bytes] = field(default_factory=dict)
    opened: list[connection.Server] = field(default_factory=list)
    closed: list[connection.Connection] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    called: list[str] = field(default_factory=list)

    @property
    def client(self):
        return self.top.context.client

    def start(self):
        self.feed(events.Start())
        return self

    def say(self, content, conn=None):
        """Let the client, or a server, say something."""
        self.feed(events.DataReceived(conn or self.client, content))

    def leave(self, conn=None):
        """Let the client, or a server, end its side."""
        conn = conn or self.client
        conn.state &= ~ConnectionState.CAN_READ
        self.feed(events.ConnectionClosed(conn))

    def feed(self, event):
        for command in self.top.handle_event(event):
            self._carry_out(command)

    def _carry_out(self, command):
        match command:
            case commands.OpenConnection(connection=conn):
                self.opened.append(conn)
                if self.failure is None:
                    conn.state = ConnectionState.OPEN
                self.feed(events.OpenConnectionCompleted(command, self.failure))
            case commands.SendData(connection=conn, data=content):
                self.sent[conn] = self.sent.get(conn, b"") + content
            case commands.CloseConnection(connection=conn):
                conn.state = ConnectionState.CLOSED
                self.closed.append(conn)
            case commands.Log(message=message):
                self.logged.append(message)
            case commands.StartHook():
                self.called.append(command.name)
                self.hooks.get(command.name, lambda *_: None)(*command.args())
                if command.blocking:
                    self.feed(events.HookCompleted(command))


@dataclass
class FakeUpstream:
    """An upstream half that answers when the test says so. `outgoing`: what it was given to send."""

    callers: list = field(default_factory=list)
    is_closed: bool = False
    outgoing: list = field(default_factory=list)
    cancelled: int = 0

    def close(self):
        self.is_closed = True

    def counts(self):
        return {}

    def call(self, caller):
        self.callers.append(caller)
        planned = caller.plan(caller.first)
        caller.exchange.began_attempt(caller.first.backend, planned, now=time.monotonic())
        self.outgoing.append((planned.attempt, caller.outgoing(planned)))
        return self

    def cancel(self):
        self.cancelled += 1

    def deliver(self, *parts, to=-1):
        """Pass parts of an answer on to the client, by the last call unless told."""
        finish(self.callers[to].deliver(parts))


class FakeHandler:
    """What `FlowCaller` needs of the one that mitmproxy has for a client: it feeds `drive` and buffers nothing."""

    def __init__(self, drive):
        self.drive, self.client, self.transports = drive, drive.client, {}
        self.drained = 0

    async def server_event(self, event):
        self.drive.feed(event)

    async def drain_writers(self):
        self.drained += 1


def finish(coroutine):
    """Run `coroutine`, which has nothing to wait for, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return e.value
    raise AssertionError("it waits")

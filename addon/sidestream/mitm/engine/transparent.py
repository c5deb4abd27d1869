"""
The first layer of a redirected connection.

With lazy connections nobody opens the original destination until the client has spoken, so a
server that greets first would never be heard. `PatientTransparentProxy` opens it when the
client stays silent for a moment, without ever holding up what the client may say meanwhile.
"""

from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes

GREETING_SECONDS = 0.2
"""How long a client may stay silent before the original destination is opened."""

PATIENCE_SECONDS = 5.0
"""
How long a client is kept of which little is to be expected: one that goes on being silent where
nobody is there (what it says may still be a policy's), or one that ended before anybody was. And
how long a client may pause where what it said could become HTTP or TLS, before it is taken as it is.
"""

type Commands = layer.CommandGenerator[None]


class UndecidedLayer(layer.NextLayer):
    """What follows is not known yet. `complete`: there will be nothing more to tell it by."""

    complete = False
    _is_to_ask_again = False

    @property
    def is_waiting(self) -> bool:
        """Tell whether nothing was said yet, and something may be."""
        return self.layer is None and not self.complete and not self.data_client()

    @property
    def is_undecided(self) -> bool:
        """Tell whether what was said could still become several things."""
        return self.layer is None and not self.complete and bool(self.data_client())

    @property
    def is_read(self) -> bool:
        """Tell whether the connection is mitmproxy's to read."""
        return self.layer is not None and not isinstance(self.layer, layers.TCPLayer)

    def ask_again(self) -> Commands:
        """Ask for the next layer although nothing new was said."""
        if self._paused:
            self._is_to_ask_again = True  # it is being asked for just now
        elif self.layer is None and not self.is_waiting:
            yield from self._ask()

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.ConnectionClosed):
            # mitmproxy would hang up on a client that ends. It may have said all it has to, and listen.
            self.events.append(event)
            # A server that ends leaves nothing to wait for, unless the client has begun to speak.
            self.complete |= event.connection == self.context.client or not self.data_client()
            yield from self.ask_again()
        else:
            yield from super()._handle_event(event)

    def _ask(self) -> Commands:
        yield from super()._ask()
        while self._is_to_ask_again and self.layer is None:
            self._is_to_ask_again = False
            yield from super()._ask()


class PatientTransparentProxy(modes.TransparentProxy):
    """mitmproxy's transparent proxy, for clients that wait to be greeted."""

    @classmethod
    def specialise(cls, top: layer.Layer) -> None:
        """Turn the stock layer of a connection that has not started into this one."""
        if type(top) is modes.TransparentProxy:
            top.__class__ = cls

    def _handle_event(self, event: events.Event) -> Commands:
        assert isinstance(event, events.Start)
        self.child: UndecidedLayer = UndecidedLayer(self.context)
        self.opener = OpenServer(self.context)
        self.greeting = commands.RequestWakeup(GREETING_SECONDS)
        self.patience = commands.RequestWakeup(PATIENCE_SECONDS)
        self.farewell = commands.RequestWakeup(PATIENCE_SECONDS)
        self.pause: commands.RequestWakeup | None = None
        self.said_before_pause = 0
        self.hung_up = False
        self._handle_event = self.relay  # type: ignore[method-assign]
        yield from self.child.handle_event(event)
        yield self.greeting

    def relay(self, event: events.Event) -> Commands:
        """Pass events on; open the destination when the client stays silent."""
        if isinstance(event, events.ConnectionEvent) and event.connection == self.context.server and self.hung_up:
            return
        if isinstance(event, events.Wakeup) and event.command in (
            self.greeting,
            self.patience,
            self.farewell,
            self.pause,
        ):
            yield from self.wake(event.command)
        elif isinstance(event, events.CommandCompleted) and event.command.blocking is self.opener:
            yield from self.opener.handle_event(event)
            if self.opener.error and self.child.is_waiting:
                # The client may only be slow, and mean a policy's host: that needs nobody at this address.
                yield self.patience
            else:
                yield from self.child.ask_again()
        else:
            if isinstance(event, events.ConnectionClosed) and event.connection == self.context.client:
                yield self.farewell  # whether it listens or has left can't be told
            yield from self.child.handle_event(event)
            if isinstance(event, events.HookCompleted) and self.pause is None:
                yield from self.wait_for_more()
        if self.opener.done and self.context.server.connected and self.child.is_read:
            # Nobody expects what a server says that was opened to be heard first.
            self.hung_up = True
            yield commands.CloseConnection(self.context.server)

    def wait_for_more(self) -> Commands:
        """Give a client whose first words tell nothing yet a while to go on."""
        if self.child.is_undecided:
            self.said_before_pause = len(self.child.data_client())
            self.pause = commands.RequestWakeup(PATIENCE_SECONDS)
            yield self.pause

    def wake(self, command: commands.Command) -> Commands:
        """Do what was put off."""
        if command is self.pause:
            if len(self.child.data_client()) > self.said_before_pause:
                yield from self.wait_for_more()
            elif self.child.is_undecided:
                self.child.complete = True  # it waits for an answer, as it seems
                yield from self.child.ask_again()
        elif command is self.greeting and self.child.is_waiting:
            yield from self.opener.handle_event(events.Start())
        elif (command is self.patience and self.child.is_waiting) or (
            command is self.farewell and is_being_opened(self.context)
        ):
            yield commands.CloseConnection(self.context.client)

    @property
    def is_relaying(self) -> bool:
        """Tell whether the client and the server that it means are left to each other."""
        return isinstance(self.child.layer, layers.TCPLayer) and self.context.server.timestamp_tcp_setup is not None

    @property
    def has_given_up(self) -> bool:
        """Tell whether the client has nobody to talk to, so that closing its connection is no end like others."""
        chosen = self.child.layer
        if chosen is None or isinstance(chosen, layers.TCPLayer):
            return self.context.server.timestamp_tcp_setup is None
        return isinstance(chosen, CloseLayer)


class OpenServer(layer.Layer):
    """Opens the server's connection, pausing nobody else meanwhile."""

    done = False
    error: str | None = None

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        context.layers.remove(self)  # it is none of the stack

    def _handle_event(self, event: events.Event) -> Commands:
        self.error = yield commands.OpenConnection(self.context.server)
        self.done = True


class CloseLayer(layer.Layer):
    """Closes the client's connection: nobody is there to talk to, or we failed and must not guess."""

    def _handle_event(self, event: events.Event) -> Commands:
        yield commands.CloseConnection(self.context.client)


def is_being_opened(context: Context) -> bool:
    """Tell whether the server's connection was begun and is not there yet."""
    server = context.server
    return server.timestamp_start is not None and server.timestamp_tcp_setup is None and server.error is None

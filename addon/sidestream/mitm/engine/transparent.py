"""
The first layer of a redirected connection.

With lazy connections nobody opens the original destination until the client has spoken, so a
server that greets first would never be heard. `PatientTransparentProxy` opens it when the
client stays silent for a moment, without ever holding up what the client may say meanwhile.
"""

from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes

GREETING_SECONDS = 0.2
"""How long a client may stay silent before the original destination is opened."""

type Commands = layer.CommandGenerator[None]


class UndecidedLayer(layer.NextLayer):
    """What follows is not known yet. `complete`: the client will not say more to tell it by."""

    complete = False

    def ask_again(self) -> Commands:
        """Ask for the next layer although nothing new was said."""
        if self.layer is None and any(isinstance(event, events.DataReceived) for event in self.events):
            yield from self._ask()


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
        self.wakeup = commands.RequestWakeup(GREETING_SECONDS)
        self._handle_event = self.relay  # type: ignore[method-assign]
        yield from self.child.handle_event(event)
        yield self.wakeup

    def relay(self, event: events.Event) -> Commands:
        """Pass events on; open the destination when the client stays silent."""
        if isinstance(event, events.Wakeup) and event.command is self.wakeup:
            if self.child.layer is None and not self.child.data_client():
                yield from self.opener.handle_event(events.Start())
        elif isinstance(event, events.CommandCompleted) and event.command.blocking is self.opener:
            yield from self.opener.handle_event(event)
            if self.opener.error and self.child.layer is None:
                yield commands.CloseConnection(self.context.client)
            else:
                yield from self.child.ask_again()
        else:
            if isinstance(event, events.ConnectionClosed) and event.connection is self.context.client:
                self.child.complete = True
                yield from self.child.ask_again()
            yield from self.child.handle_event(event)


class OpenServer(layer.Layer):
    """Opens the server's connection, pausing nobody else meanwhile."""

    error: str | None = None

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        context.layers.remove(self)  # it is none of the stack

    def _handle_event(self, event: events.Event) -> Commands:
        self.error = yield commands.OpenConnection(self.context.server)


class CloseLayer(layer.Layer):
    """Closes the client's connection: what follows a failure of our own, when failing closed."""

    def _handle_event(self, event: events.Event) -> Commands:
        yield commands.CloseConnection(self.context.client)


def is_being_opened(context: Context) -> bool:
    """Tell whether the server's connection was begun and is not there yet."""
    server = context.server
    return server.timestamp_start is not None and server.timestamp_tcp_setup is None and server.error is None

"""
Calling the addons that have a hook, and nobody else.

For every hook mitmproxy walks its whole tree of addons (some forty) to find the few that have a
method of that name; that is half of what a request costs. Here the few are kept in a table, which
is good for as long as the tree is the one that it was made from. What addons see of it is as
before: the same order, the same ends of a walk, the same words about what they raise.
"""

import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, LoadHook, traverse

logger = logging.getLogger(AddonManager.__module__)  # where mitmproxy says what addons raise

LIFE = (LoadHook, hooks.ConfigureHook, hooks.RunningHook, hooks.DoneHook)
"""Hooks in which addons become what they are. They are rare, and called as mitmproxy calls them."""

type Rest = Coroutine[object, object, None]
"""What of a hook is left to wait for: addons that are not done at once, and those after them."""

type Arguments = Sequence[Any]
"""Of a hook."""

type Call = tuple[object, Callable[..., Any]]
"""An addon and its method."""
type Calls = list[list[Call]]
"""Calls by topmost addon: what one raises ends the calls that are left in its own list, and no others."""


class TableAddonManager(AddonManager):
    """mitmproxy's own, with a table of who is to be called."""

    _table: dict[str, Calls]
    _tree: list[tuple[Any, list[object]]]

    @classmethod
    def specialise(cls, addons: AddonManager) -> None:
        """Turn the stock object into this one. It may be in use."""
        if type(addons) is AddonManager:
            addons.__class__ = cls
            addons._forget_table()

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        rest = self.begin(event, event.args())
        if rest is not None:
            await rest

    async def trigger_event(self, event: hooks.Hook) -> None:
        if isinstance(event, LIFE):
            self._forget_table()
            await super().trigger_event(event)
            self._forget_table()
            return
        rest = self._walk(self._calls(event.name), event.args())
        if rest is not None:
            await rest

    def begin(self, event: hooks.Hook, arguments: Arguments) -> Rest | None:
        """
        Call the addons that have the hook `event`, and those that want updates; return what is left to wait for.

        `arguments`: `event.args()`, which is not asked for twice since that takes long.
        """
        if isinstance(event, LIFE):
            return self.trigger_event(event)
        rest = self._walk(self._calls(event.name), arguments)
        message = arguments[0]
        if not isinstance(message, flow.Flow) or not self.has_calls(hooks.UpdateHook.name):
            return rest
        if rest is not None:
            return self._both(rest, hooks.UpdateHook([message]))
        return self._walk(self._calls(hooks.UpdateHook.name), [[message]])

    async def _both(self, rest: Rest, update: hooks.Hook) -> None:
        await rest
        await self.trigger_event(update)

    def _walk(self, calls: Calls, arguments: Arguments) -> Rest | None:
        """Call those in `calls` up to the first that is not done at once; return what is left to wait for."""
        for number, of_one in enumerate(calls):
            try:
                for place, (_, call) in enumerate(of_one):
                    result = call(*arguments)
                    if result is not None and inspect.isawaitable(result):
                        return self._go_on(result, [of_one[place + 1 :], *calls[number + 1 :]], arguments)
            except exceptions.AddonHalt:
                return None
            except exceptions.OptionsError:
                raise
            except Exception as e:
                logger.exception("Addon error: %s", e)  # noqa: TRY401 mitmproxy says so
        return None

    async def _go_on(self, result: Awaitable[object], left: Calls, arguments: Arguments) -> None:
        try:
            await result
        except exceptions.AddonHalt:
            return
        except exceptions.OptionsError:
            raise
        except Exception as e:
            logger.exception("Addon error: %s", e)  # noqa: TRY401 mitmproxy says so
            left = left[1:]
        rest = self._walk(left, arguments)
        if rest is not None:
            await rest

    def trigger(self, event: hooks.Hook) -> None:
        if isinstance(event, LIFE):
            self._forget_table()
            super().trigger(event)
            self._forget_table()
            return
        calls = self._calls(event.name)
        arguments = event.args() if calls else ()
        for of_one in calls:
            try:
                for addon, call in of_one:
                    _refuse_coroutine(addon, call, event.name)
                    call(*arguments)
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception as e:
                logger.exception("Addon error: %s", e)  # noqa: TRY401 mitmproxy says so

    def invoke_addon_sync(self, addon: object, event: hooks.Hook) -> None:
        super().invoke_addon_sync(addon, event)
        self._forget_table()

    def has_calls(self, name: str) -> bool:
        """Tell whether any addon has the hook `name`."""
        return bool(self._calls(name))

    def _calls(self, name: str) -> Calls:
        # Scripts and others change their own list of addons whenever they like, and tell nobody.
        for node, children in self._tree:
            if node.addons != children:
                self._forget_table()
                break
        if not self._tree:
            self._tree = [(_Root(self), self.chain.copy())]
            self._tree += [(addon, list(addon.addons)) for addon in traverse(self.chain) if hasattr(addon, "addons")]
        calls = self._table.get(name)
        if calls is None:
            found = [_calls_of(addon, name) for addon in self.chain]
            calls = self._table[name] = [of_one for of_one in found if of_one]
        return calls

    def _forget_table(self) -> None:
        self._table, self._tree = {}, []


class _Root:
    """The chain, as one who has addons."""

    def __init__(self, addons: AddonManager) -> None:
        self._addons = addons

    @property
    def addons(self) -> list[object]:
        return self._addons.chain


def _calls_of(top: object, name: str) -> list[Call]:
    """Return the methods `name` of `top` and all below it, in the order in which they are called."""
    calls: list[Call] = []
    for addon in traverse([top]):
        call = getattr(addon, name, None)
        if not call or isinstance(call, types.ModuleType):  # as `from mitmproxy import log` gives a script a `log`
            continue
        calls.append((addon, call if callable(call) else _refusal(name, addon)))
    return calls


def _refuse_coroutine(addon: object, call: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(call):
        raise exceptions.AddonManagerError(f"Async handler {name} ({addon}) cannot be called from sync context")


def _refusal(name: str, addon: object) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise exceptions.AddonManagerError(f"Addon handler {name} ({addon}) not callable")

    return refuse

"""Addons are called as mitmproxy calls them, only faster. And what that relies on in mitmproxy."""

import inspect
import logging
import types

import pytest
from mitmproxy import addonmanager, exceptions, hooks
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons import default_addons
from mitmproxy.addons.script import Script
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.layers.http import HttpRequestHook, HttpResponseHook
from mitmproxy.test import tflow
from mitmproxy.tools.dump import DumpMaster

from sidestream.mitm.addon import Sidestream
from sidestream.mitm.engine.dispatch import LIFE, TableAddonManager

IN_FLOWS = sorted(set(hooks.all_hooks) - {hook.name for hook in LIFE})
"""The hooks that come with traffic."""


class Recorder:
    """An addon that notes which of its hooks are called. `raising`: hook → what it raises."""

    def __init__(self, name, called, *, addons=(), raising=None, asynchronous=(), only=None):
        self.name = name
        if addons:
            self.addons = list(addons)
        for hook in IN_FLOWS if only is None else only:
            note = self._make(hook, called, raising or {}, hook in asynchronous)
            setattr(self, hook, note)

    def __repr__(self):
        return self.name

    def _make(self, hook, called, raising, is_async):
        def note(*arguments):
            called.append((self.name, hook, *arguments))
            if hook in raising:
                raise raising[hook]

        async def note_later(*arguments):
            note(*arguments)

        return note_later if is_async else note


def make_chain(called):
    """Addons of every kind: nested, halting, raising, asynchronous, with and without hooks."""
    boom, halt = ValueError("boom"), exceptions.AddonHalt()
    broken = Recorder("broken", called, only=["request"])
    broken.response = 1
    shadowed = Recorder("shadowed", called, only=["request"])
    shadowed.error = types.ModuleType("error")
    inner = [
        Recorder("inner-1", called, asynchronous=["request"]),
        Recorder("inner-2", called, raising={"requestheaders": boom}, addons=[Recorder("innermost", called)]),
        Recorder("inner-3", called, raising={"error": halt}),
    ]
    return [
        Recorder("first", called, raising={"response": boom, "client_connected": boom}),
        Recorder("without", called, only=[]),
        broken,
        Recorder("nested", called, addons=inner, only=["request", "error", "update"]),
        shadowed,
        Recorder("halting", called, raising={"tcp_start": halt, "update": halt}, asynchronous=["tcp_start"]),
        Recorder("last", called, asynchronous=["response", "update"], raising={"update": boom}),
    ]


def make_event(name, message):
    event = object.__new__(hooks.all_hooks[name])
    for field in inspect.signature(hooks.all_hooks[name]).parameters:
        object.__setattr__(event, field, message)
    return event


async def make_masters():
    """Two that are alike, but for the table."""
    called = [], []
    masters = Master(Options()), Master(Options())
    for master, notes in zip(masters, called, strict=True):
        master.addons.add(*make_chain(notes))
    TableAddonManager.specialise(masters[1].addons)
    assert [type(master.addons) for master in masters] == [AddonManager, TableAddonManager]
    return masters, called


@pytest.mark.parametrize("name", IN_FLOWS)
@pytest.mark.parametrize("how", ["handle_lifecycle", "trigger_event", "trigger"])
async def test_every_hook_is_called_as_mitmproxy_calls_it(name, how, caplog):
    masters, called = await make_masters()
    caplog.clear()
    flow, said = tflow.tflow(), []

    for master in masters:
        for _ in range(2):
            result = getattr(master.addons, how)(make_event(name, flow))
            if result is not None:
                await result
        said.append([(record.name, record.levelno, record.getMessage()) for record in caplog.records])
        caplog.clear()

    assert called[0] == called[1] != []
    assert said[0] == said[1]


async def test_what_an_addon_raises_is_logged_with_where_it_was(caplog):
    masters, _ = await make_masters()
    caplog.clear()

    await masters[1].addons.trigger_event(HttpResponseHook(tflow.tflow()))

    [first, *_] = caplog.records
    assert (first.name, first.levelno, first.getMessage()) == (
        addonmanager.__name__,
        logging.ERROR,
        "Addon error: boom",
    )
    frames = inspect.getinnerframes(first.exc_info[2])
    assert frames[-1].function == "note"


async def test_an_error_of_options_is_raised():
    master = Master(Options())
    master.addons.add(Recorder("strict", [], raising={"request": exceptions.OptionsError("no")}))
    TableAddonManager.specialise(master.addons)

    with pytest.raises(exceptions.OptionsError):
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
    with pytest.raises(exceptions.OptionsError):
        master.addons.trigger(HttpRequestHook(tflow.tflow()))


# --- who is called changes with the addons ---------------------------------------------------------


class Scripts:
    name = "scripts"

    def __init__(self, *addons):
        self.addons = list(addons)


@pytest.fixture
async def addons():
    master = Master(Options())
    TableAddonManager.specialise(master.addons)
    return master.addons


async def request(addons):
    await addons.trigger_event(HttpRequestHook(tflow.tflow()))


async def names_called(addons, called):
    called.clear()
    await request(addons)
    return [name for name, *_ in called]


async def test_an_addon_that_is_added_or_removed_is_called_or_not(addons):
    called = []
    one, two = Recorder("one", called), Recorder("two", called)

    addons.add(one)
    assert await names_called(addons, called) == ["one"]
    addons.add(two)
    assert await names_called(addons, called) == ["one", "two"]
    addons.remove(one)
    assert await names_called(addons, called) == ["two"]
    addons.clear()
    assert await names_called(addons, called) == []


async def test_the_order_is_that_of_the_chain(addons):
    called = []
    one, two = Recorder("one", called), Recorder("two", called)
    addons.add(one, two)
    await request(addons)

    addons.chain.insert(0, addons.chain.pop())

    assert await names_called(addons, called) == ["two", "one"]


@pytest.mark.parametrize("depth", [0, 1])
async def test_addons_of_an_addon_may_change_unannounced(addons, depth):
    called = []
    one, two = Recorder("one", called), Recorder("two", called)
    scripts = Scripts(one)
    addons.add(Outer(scripts) if depth else scripts)
    assert await names_called(addons, called) == ["one"]

    scripts.addons.append(two)
    assert await names_called(addons, called) == ["one", "two"]
    scripts.addons = [two]
    assert await names_called(addons, called) == ["two"]


class Outer(Scripts):
    name = "outer"


async def test_a_hook_that_an_addon_takes_on_when_it_is_configured_is_called(addons):
    called = []
    addon = Recorder("late", called, only=[])
    addon.configure = lambda updated: setattr(addon, "request", lambda flow: called.append(("late",)))
    addons.add(addon)
    assert await names_called(addons, called) == []

    addons.trigger(hooks.ConfigureHook({"mode"}))

    assert await names_called(addons, called) == ["late"]


SCRIPT = "def request(flow):\n    flow.comment += {word!r}\n"


async def test_a_script_is_called_once_it_is_loaded_and_no_more_when_it_is_another(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(word="old"))
    master = DumpMaster(Options(), with_termlog=False, with_dumper=False)
    TableAddonManager.specialise(master.addons)
    script = Script(str(path), reload=False)
    master.addons.get("scriptloader").addons.append(script)
    flow = tflow.tflow()
    flow.comment = ""

    await master.addons.trigger_event(HttpRequestHook(flow))
    path.write_text(SCRIPT.format(word="new, and longer"))
    script.loadscript()
    await master.addons.trigger_event(HttpRequestHook(flow))

    assert flow.comment == "oldnew, and longer"


async def test_nobody_is_told_of_updates_when_nobody_asks(addons):
    called = []
    addons.add(Recorder("one", called, only=["request"]))

    await addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))

    assert not addons.has_calls("update")
    assert [hook for _, hook, _ in called] == ["request"]


async def test_our_addon_brings_the_table_with_it():
    master = DumpMaster(Options(), with_termlog=False, with_dumper=False)
    master.addons.add(Sidestream(lambda settings: None))

    assert type(master.addons) is TableAddonManager


def test_another_kind_of_addon_manager_is_left_alone():
    class Other(AddonManager):
        pass

    other = Other(types.SimpleNamespace(options=Options()))

    TableAddonManager.specialise(other)

    assert type(other) is Other


# --- the contract ----------------------------------------------------------------------------------


def test_the_methods_are_the_known_ones():
    signatures = {
        name: list(inspect.signature(getattr(AddonManager, name)).parameters)
        for name in ("handle_lifecycle", "trigger_event", "trigger", "invoke_addon_sync")
    }

    assert signatures == {
        "handle_lifecycle": ["self", "event"],
        "trigger_event": ["self", "event"],
        "trigger": ["self", "event"],
        "invoke_addon_sync": ["self", "addon", "event"],
    }


def test_the_methods_do_what_is_done_here_in_their_place():
    source = inspect.getsource(addonmanager)

    assert (
        "if isinstance(message, flow.Flow):\n            await self.trigger_event(hooks.UpdateHook([message]))"
        in source
    )
    assert 'logger.error(\n            f"Addon error: {value}",' in source
    assert "except (exceptions.AddonHalt, exceptions.OptionsError):\n        raise" in source
    assert (
        "for a in traverse([addon]):\n            func = getattr(a, event.name, None)\n            if func:" in source
    )


def test_hooks_of_connections_come_through_handle_lifecycle():
    assert "await self.master.addons.handle_lifecycle(hook)" in inspect.getsource(mode_servers.ProxyConnectionHandler)


def test_no_addon_of_mitmproxys_own_answers_for_attributes_that_it_does_not_have():
    assert [addon for addon in default_addons() if hasattr(type(addon), "__getattr__")] == []

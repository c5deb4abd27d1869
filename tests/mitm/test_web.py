"""What mitmweb and the console keep, and what mitmweb does while nobody looks."""

import asyncio
import gc
import inspect
import json
from types import SimpleNamespace

import pytest
from mitmproxy import flowfilter
from mitmproxy.addons.view import View
from mitmproxy.http import HTTPFlow
from mitmproxy.test import taddons, tflow
from mitmproxy.tools.web import app
from mitmproxy.tools.web import master as web_master
from tornado.httputil import HTTPServerRequest

from sidestream.mitm import web
from sidestream.mitm.current import Current
from sidestream.mitm.engine.pages import MAX_WAITING, bound_what_waits, extend, serialise_for_viewers_only
from sidestream.mitm.pages.noting import MARKERS
from sidestream.mitm.runtime import Settings
from sidestream.mitm.web import Retention

LIMIT = 100


def make_flow(**how):
    made = tflow.tflow(resp=True)
    made.live = False
    for name, value in how.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def kept():
    """A view, and what adds flows to it as mitmproxy does."""
    current = Current()
    current.settings = Settings(web_max_flows=LIMIT)
    view, retention = View(), Retention(current)
    with taddons.context(view, retention):

        def come(*flows):
            for each in flows:
                retention.requestheaders(each)
                view.requestheaders(each)

        yield view, come, current


def test_the_oldest_go(kept):
    view, come, _ = kept
    flows = [make_flow() for _ in range(5 * LIMIT)]

    come(*flows)

    present = view.resolve("@all")
    assert present == flows[-len(present) :]
    assert LIMIT - 1 <= len(present) <= LIMIT * 1.05 + 1


@pytest.mark.parametrize("how", [{"live": True}, {"marked": ":star:"}, {"intercepted": True}])
def test_what_is_not_finished_or_marked_or_held_stays(kept, how):
    view, come, _ = kept
    stays = make_flow(**how)

    come(stays, *(make_flow() for _ in range(2 * LIMIT)))

    assert view.resolve("@all")[0] is stays


@pytest.mark.parametrize("marker", sorted(MARKERS))
def test_our_own_markers_keep_nothing(kept, marker):
    view, come, _ = kept
    goes = make_flow(marked=marker)

    come(goes, *(make_flow(marked=marker) for _ in range(2 * LIMIT)))

    assert goes not in view.resolve("@all")
    assert view.store_count() <= LIMIT * 1.05 + 1


def test_flows_that_may_not_go_are_not_looked_for_with_every_flow(kept, monkeypatch):
    view, come, _ = kept
    asked = []
    resolve = view.resolve
    monkeypatch.setattr(view, "resolve", lambda spec: asked.append(spec) or resolve(spec))

    come(*(make_flow(live=True) for _ in range(2 * LIMIT)))

    assert view.store_count() == 2 * LIMIT
    assert 0 < len(asked) <= 25


def test_without_a_limit_all_stay(kept):
    view, come, current = kept
    current.settings = Settings(web_max_flows=0)

    come(*(make_flow() for _ in range(2 * LIMIT)))

    assert view.store_count() == 2 * LIMIT


def test_a_limit_that_is_lowered_is_kept(kept):
    view, come, current = kept
    come(*(make_flow() for _ in range(LIMIT)))

    current.settings = Settings(web_max_flows=10)
    come(*(make_flow() for _ in range(LIMIT)))

    assert view.store_count() <= 11


def test_the_oldest_go_when_they_are_too_large_together(kept, monkeypatch):
    view, come, current = kept
    current.settings = Settings(web_max_bytes=1000)
    monkeypatch.setattr(web, "SECONDS_BETWEEN_LOOKS", 0.0)
    flows = [make_flow() for _ in range(50)]
    for each in flows:
        each.request.raw_content, each.response.raw_content = b"x" * 60, b"x" * 40

    come(*flows)

    present = view.resolve("@all")
    assert present == flows[-len(present) :]
    assert 10 <= len(present) <= 11


def test_what_is_under_way_stays_however_large(kept, monkeypatch):
    view, come, current = kept
    current.settings = Settings(web_max_bytes=1000)
    monkeypatch.setattr(web, "SECONDS_BETWEEN_LOOKS", 0.0)
    large = make_flow(live=True)
    large.request.raw_content = b"x" * 5000

    come(large, make_flow(), make_flow())

    assert large in view.resolve("@all")


def test_nothing_else_keeps_a_flow_that_was_removed(kept):
    _, come, _ = kept

    come(*(make_flow(comment="looked for") for _ in range(3 * LIMIT)))
    gc.collect()

    present = [each for each in gc.get_objects() if isinstance(each, HTTPFlow) and each.comment == "looked for"]
    assert len(present) <= LIMIT * 1.05 + 1


# --- mitmweb ---------------------------------------------------------------------------------------


class Browser:
    def __init__(self):
        self.got = []

    def _broadcast_flow(self, kind, flow, json):
        self.got.append((kind, json["id"]))


@pytest.fixture
def serialised(monkeypatch):
    """The flows that mitmweb makes JSON of."""
    seen, original = [], app.flow_to_json
    monkeypatch.setattr(app, "flow_to_json", lambda each: seen.append(each) or original(each))
    monkeypatch.setattr(app.ClientConnection, "connections", set())
    monkeypatch.setattr(app.ClientConnection, "broadcast_flow", app.ClientConnection.broadcast_flow)
    serialise_for_viewers_only()
    return seen


def test_no_json_is_made_while_nobody_looks(serialised):
    app.ClientConnection.broadcast_flow("flows/add", make_flow())

    assert serialised == []


def test_a_browser_that_connects_is_told_of_every_flow_from_then_on(serialised):
    browser, flow = Browser(), make_flow()
    app.ClientConnection.broadcast_flow("flows/add", make_flow())

    app.ClientConnection.connections.add(browser)
    app.ClientConnection.broadcast_flow("flows/update", flow)

    assert browser.got == [("flows/update", flow.id)]
    assert serialised == [flow]


def test_it_is_installed_once(serialised):
    first = app.ClientConnection.broadcast_flow

    serialise_for_viewers_only()

    assert app.ClientConnection.broadcast_flow is first


def test_mitmweb_tells_its_browsers_by_what_is_replaced():
    source = inspect.getsource(web_master.WebMaster)

    assert 'app.ClientConnection.broadcast_flow("flows/add", flow)' in source
    assert 'app.ClientConnection.broadcast_flow("flows/update", flow)' in source
    assert "for conn in cls.connections:\n            conn._broadcast_flow(type, f, flow_json)" in inspect.getsource(
        app
    )
    assert "self.connections.add(self)" in inspect.getsource(app.WebSocketEventBroadcaster.open)


@pytest.fixture
def sleeper(monkeypatch):
    """A browser that takes nothing from its queue. It has a filter."""
    monkeypatch.setattr(app.ClientConnection, "send", app.ClientConnection.send)
    bound_what_waits()
    connection = object.__new__(app.ClientConnection)
    connection._send_queue = asyncio.Queue()
    connection.filters = {"search": flowfilter.parse("~marked")}
    connection.application = SimpleNamespace(master=SimpleNamespace(view=[make_flow(marked=":star:")]))
    return connection


def test_only_so_much_waits_for_a_browser_that_sleeps(sleeper):
    for number in range(10 * MAX_WAITING):
        sleeper.send(b"%d" % number)

    assert sleeper._send_queue.qsize() <= MAX_WAITING


def test_a_browser_that_missed_something_fetches_the_list_and_what_its_filter_finds(sleeper):
    for _ in range(MAX_WAITING + 1):
        sleeper.send(b"a change")

    waiting = [json.loads(sleeper._send_queue.get_nowait()) for _ in range(sleeper._send_queue.qsize())]

    assert [message["type"] for message in waiting] == ["flows/reset", "flows/filterUpdate"]
    assert len(waiting[1]["payload"]["matching_flow_ids"]) == 1


def test_a_browser_that_keeps_up_is_told_all(sleeper):
    for number in range(MAX_WAITING):
        sleeper.send(b"%d" % number)

    assert [sleeper._send_queue.get_nowait() for _ in range(3)] == [b"0", b"1", b"2"]


def test_mitmweb_keeps_a_queue_for_each_browser():
    sending = inspect.getsource(app.WebSocketEventBroadcaster)

    assert "self._send_queue.put_nowait(message)" in sending
    assert "message = await self._send_queue.get()" in sending
    assert '{"type": "flows/reset"}' in inspect.getsource(app.ClientConnection.broadcast_flow_reset)


def test_mitmweb_runs_commands_whose_names_have_a_hyphen():
    master = SimpleNamespace(addons={"webauth": SimpleNamespace(is_valid_password=None, auth_cookie_name=None)})
    master.app = app.Application(master, debug=False)

    def handler_of(path):
        request = HTTPServerRequest("POST", path, connection=SimpleNamespace(context=None))
        return master.app.find_handler(request).handler_class

    before = handler_of("/commands/sidestream.replay-with")
    extend(master)

    assert before is not app.ExecuteCommand
    assert handler_of("/commands/sidestream.replay-with") is app.ExecuteCommand
    assert handler_of("/flows") is app.Flows


def test_the_view_adds_a_flow_when_the_hooks_say_so_that_make_room():
    adding = [name for name, function in vars(View).items() if "self.add([f])" in _source(function)]
    adding.remove("create")  # a command

    assert sorted(adding) == ["dns_request", "requestheaders", "tcp_start", "udp_start"]
    assert [name for name in adding if not hasattr(Retention, name)] == []


def _source(function):
    return inspect.getsource(function) if inspect.isfunction(function) else ""

"""The view in a terminal, driven by keys."""

import asyncio
import contextlib

import pytest

pytest.importorskip("textual", reason="Textual is not here (sidestream[top])")

from textual.widgets import DataTable, Static

from sidestream.top.app import Top
from sidestream.top.asking import NoAnswer
from tests.top.builders import exchanges, make_ended, make_live, make_reading

EVIL = "[red]x[/] [@click=app.quit]y[/]"


class Source:
    """What is read: `now`, a reading or an error."""

    def __init__(self, **metrics):
        self.reads = 0
        self.now = None
        self.show(**metrics)

    def show(self, at=0.0, **metrics):
        self.now = make_reading(at, **metrics)

    def read(self):
        self.reads += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


@contextlib.asynccontextmanager
async def running(source, size=(140, 50)):
    app = Top(source.read, "127.0.0.1:15020", first=source.read(), interval=3600)
    async with app.run_test(size=size) as pilot:
        yield app, pilot


async def until(pilot, look):
    """Wait until there is something true."""
    async with asyncio.timeout(60):
        while not look():
            await pilot.pause(0.01)


def rows(app, table):
    grid = app.query_one(f"#{table}", DataTable)
    return [[cell.plain for cell in grid.get_row_at(row)] for row in range(grid.row_count)]


def said(app, name="summary"):
    return str(app.query_one(f"#{name}", Static).content)


async def test_what_is_read_is_shown():
    source = Source(exchanges_total=[exchanges(2)])
    async with running(source) as (app, pilot):
        assert rows(app, "routes")[0][-1] == "2"

        source.show(4.0, exchanges_total=[exchanges(10)], live=[make_live()], recent=[make_ended(error="killed")])
        await pilot.press("r")

        await until(pilot, lambda: rows(app, "routes")[0][-1] == "10")
        assert "every 3600 s · routes by calls" in said(app)
        assert rows(app, "under-way")[0][0] == "a.example"
        assert rows(app, "failed-last")[0][5] == "killed"
        assert app.query_one("#failed-last", DataTable).get_row_at(0)[5].style == "bold red"


async def test_rows_come_and_go():
    source = Source(live=[make_live(), make_live(), make_live()])
    async with running(source) as (app, pilot):
        assert len(rows(app, "under-way")) == 3

        source.show(live=[make_live(host="b.example")])
        await pilot.press("r")
        await until(pilot, lambda: len(rows(app, "under-way")) == 1)
        assert rows(app, "under-way")[0][0] == "b.example"

        source.show()
        await pilot.press("r")
        await until(pilot, lambda: not rows(app, "under-way"))


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
async def test_a_key_ends_it(key):
    source = Source()
    async with running(source) as (app, pilot):
        await pilot.press(key)

        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 0


@pytest.mark.parametrize("key", ["p", "space"])
async def test_paused_it_holds_what_is_shown_and_goes_on_with_the_newest(key):
    source = Source(exchanges_total=[exchanges(2)])
    async with running(source) as (app, pilot):
        await pilot.press(key)
        source.show(4.0, exchanges_total=[exchanges(10)])
        await pilot.press("r")
        await until(pilot, lambda: source.reads == 2)

        assert "paused" in said(app)
        assert rows(app, "routes")[0][-1] == "2"

        await pilot.press(key)
        await until(pilot, lambda: rows(app, "routes")[0][-1] == "10")


async def test_keys_turn_the_order_of_routes():
    source = Source(exchanges_total=[exchanges(9), exchanges(1, rule="vip")], live=[make_live(rule="vip")])
    async with running(source) as (app, pilot):
        assert [row[1] for row in rows(app, "routes")] == ["-", "vip"]

        await pilot.press("s", "s", "s")
        assert "routes by live" in said(app)
        assert [row[1] for row in rows(app, "routes")] == ["vip", "-"]

        await pilot.press("S", "S", "S", "S")
        assert "routes by name" in said(app)


async def test_an_endpoint_that_goes_away_is_told_and_rates_begin_anew_when_it_is_back():
    source = Source(exchanges_total=[exchanges(2)])
    async with running(source) as (app, pilot):
        source.now = NoAnswer("no admin endpoint [there]")
        await pilot.press("r")
        await until(pilot, lambda: said(app, "problem"))
        assert said(app, "problem").startswith("no admin endpoint [there] (for 0 s;")
        assert app.query_one("#problem").display
        assert rows(app, "routes")[0][-1] == "2"

        source.show(100.0, exchanges_total=[exchanges(3)])
        await pilot.press("r")
        await until(pilot, lambda: not said(app, "problem"))
        assert not app.query_one("#problem").display
        assert [rows(app, "routes")[0][at] for at in (4, -1)] == ["-", "3"]

        source.show(101.0, exchanges_total=[exchanges(5)])
        await pilot.press("r")
        await until(pilot, lambda: rows(app, "routes")[0][4] == "2.00")


async def test_nothing_from_the_traffic_is_taken_for_markup():
    source = Source(
        exchanges_total=[exchanges(1, rule=EVIL)],
        policy_info=[({"revision": EVIL}, 1)],
        live=[make_live(host=EVIL, rule=EVIL)],
        recent=[make_ended(error=EVIL)],
    )
    async with running(source, size=(220, 50)) as (app, pilot):
        source.now = NoAnswer(EVIL)
        await pilot.press("r")
        await until(pilot, lambda: said(app, "problem"))
        await pilot.pause()

        screen = "\n".join(
            "".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()
        )
    assert screen.count(EVIL) == 6  # revision, route's rule, host and rule of what is under way, error, problem

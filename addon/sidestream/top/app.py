"""The view in a terminal, on Textual. What is shown is plain text: nothing in it is taken for markup."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import ClassVar

from rich.console import JustifyMethod
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Static

from sidestream.top.asking import NoAnswer
from sidestream.top.figures import figures
from sidestream.top.picture import NUMBERS, ORDERS, Table, summary, tables
from sidestream.top.reading import Reading

type Grid = DataTable[Text]


class Top(App[None]):
    """
    Shows what `read` reads, every `interval` seconds.

    `endpoint`: its name, for people. `first`: a reading that there already is. `order`: of routes, one of `ORDERS`.
    """

    TITLE = "sidestream top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary, #problem { padding: 0 1; height: auto; }
    #problem { color: $error; text-style: bold; display: none; }
    .told #problem { display: block; }
    .told DataTable { opacity: 50%; }
    DataTable { height: auto; max-height: 20; border: round $primary; border-title-color: $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("p,space", "pause", "Pause"),
        ("r", "read", "Read now"),
        ("s", "next_order", "Sort by the next"),
        ("S", "last_order", "by the one before"),
    ]

    def __init__(
        self, read: Callable[[], Reading], endpoint: str, *, first: Reading, interval: float, order: str = "calls"
    ) -> None:
        super().__init__()
        self._read = read
        self._endpoint = endpoint
        self._interval = interval
        self._before: Reading | None = first
        self._failing_since: float | None = None
        self._problem = ""
        self._newest = self.shown = figures(None, first)
        self.order = order
        self.is_paused = False
        self._asked = asyncio.Event()

    def compose(self) -> ComposeResult:
        """Make the summary, the line for problems, and a table of each kind."""
        yield Static(id="summary", markup=False)
        yield Static(id="problem", markup=False)
        with VerticalScroll():
            for table in tables(self.shown, self.order):
                grid: Grid = DataTable(id=_identifier(table), cursor_type="none", zebra_stripes=True)
                grid.border_title = table.title
                yield grid
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        for table in tables(self.shown, self.order):
            grid = self._grid(table)
            for column in table.columns:
                grid.add_column(Text(column, justify=_side(column)), key=column)
        self._show()
        self.run_worker(self._follow())

    def action_pause(self) -> None:
        """Hold what is shown, or go on. Readings go on meanwhile."""
        self.is_paused = not self.is_paused
        self._show()

    def action_next_order(self) -> None:
        """Order routes by what comes next."""
        self._turn(1)

    def action_last_order(self) -> None:
        """Order routes by what came before."""
        self._turn(-1)

    def action_read(self) -> None:
        """Read at once."""
        self._asked.set()

    def _turn(self, by: int) -> None:
        orders = list(ORDERS)
        self.order = orders[(orders.index(self.order) + by) % len(orders)]
        self._show()

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._interval)
            self._asked.clear()
            try:
                reading = await asyncio.to_thread(self._read)
            except NoAnswer as e:
                self._failing_since = self._failing_since or time.monotonic()
                self._problem = f"{e} (for {time.monotonic() - self._failing_since:.0f} s; it is asked again and again)"
                self._before = None  # nobody knows what happened meanwhile, so rates begin anew
            else:
                self._failing_since, self._problem = None, ""
                self._newest = figures(self._before, reading)
                self._before = reading
            self._show()

    def _show(self) -> None:
        if not self.is_paused:
            self.shown = self._newest
        state = "paused" if self.is_paused else f"every {self._interval:g} s"
        lines = [f"sidestream top · {self._endpoint} · {state} · routes by {self.order}", *summary(self.shown)]
        self.query_one("#summary", Static).update("\n".join(lines))
        self.query_one("#problem", Static).update(self._problem)
        self.screen.set_class(bool(self._problem), "told")
        for table in tables(self.shown, self.order):
            _fill(self._grid(table), table)

    def _grid(self, table: Table) -> Grid:
        return self.query_one(f"#{_identifier(table)}", DataTable)


def _fill(grid: Grid, table: Table) -> None:
    """Write `table` into `grid`, only where it differs: what was scrolled to stays in view."""
    while grid.row_count > len(table.rows):
        grid.remove_row(grid.coordinate_to_cell_key(Coordinate(grid.row_count - 1, 0)).row_key)
    for row, cells in enumerate(table.rows):
        styled = [_styled(table, column, cell) for column, cell in enumerate(cells)]
        if row >= grid.row_count:
            grid.add_row(*styled)
            continue
        for column, cell in enumerate(styled):
            at = Coordinate(row, column)
            if grid.get_cell_at(at) != cell or grid.get_cell_at(at).style != cell.style:
                grid.update_cell_at(at, cell, update_width=True)


def _styled(table: Table, column: int, cell: str) -> Text:
    style = "bold red" if table.is_alarming(column, cell) else ""
    return Text(cell, style, justify=_side(table.columns[column]), no_wrap=True)


def _side(column: str) -> JustifyMethod:
    return "right" if column in NUMBERS else "left"


def _identifier(table: Table) -> str:
    return table.title.lower().replace(" ", "-")

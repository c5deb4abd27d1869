"""
Draw what the panels of the dashboard show, laid out as they are there.

    python -m tests.dashboard.drawing FILE.json FILE.png
"""

import io
import itertools
import math
import sys
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from tests.dashboard.panels import SCRAPE_SECONDS, Panel, Points, load

COLUMNS = 24
CELL_WIDTH, CELL_HEIGHT = 0.62, 0.31
"""Of a cell of the grid, in inches."""
DPI = 100
COLOURS = 96
"""How many colours the picture has: it is flat, and so a third as large."""
MAX_LINES, LEGEND_HEIGHT = 4, 0.07
"""How long a legend may be, and how much of a panel each of its lines takes."""
WIDE = 8
"""From how many columns on a panel's legend has two."""

PAGE, PANEL, LINE, TEXT, FAINT = "#111217", "#181b1f", "#2c3036", "#d5d7dc", "#8e9299"
SERIES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#37872d", "#fade2a", "#c4162a"]

mpl.rcParams |= {"font.size": 7, "font.family": "DejaVu Sans", "text.parse_math": False}


def draw(title: str, panels: list[Panel]) -> bytes:
    """Return the picture, as PNG."""
    rows = max(panel.y + panel.h for panel in panels) + 2
    figure = Figure((COLUMNS * CELL_WIDTH, rows * CELL_HEIGHT), dpi=DPI, facecolor=PAGE)
    times = [at for panel in panels for points in panel.series.values() for at, _ in points]
    first, last = min(times), max(times)
    figure.text(0.006, 1 - 0.9 / rows, title, color=TEXT, size=12, weight="bold", va="center")
    moment = datetime.fromtimestamp(last, UTC)
    told = f"{last - first:.0f} seconds until {moment:%Y-%m-%d %H:%M} UTC"
    figure.text(0.994, 1 - 0.9 / rows, told, color=FAINT, size=8, ha="right", va="center")
    for panel in panels:
        left, top = panel.x / COLUMNS, 1 - (panel.y + 2) / rows
        width, height = panel.w / COLUMNS, panel.h / rows
        if panel.is_row:
            figure.text(left + 0.006, top - height / 2, f"▾ {panel.title}", color=TEXT, size=8.5, va="center")
        else:
            _panel(figure, panel, (left, top - height, width, height), (first, last))
    return _flat(figure)


def _panel(figure: Figure, panel: Panel, box: tuple[float, float, float, float], times: tuple[float, float]) -> None:
    left, bottom, width, height = box
    gap = 0.003
    place = (left + gap, bottom + gap, width - 2 * gap, height - 2 * gap)
    frame = figure.add_axes(place, facecolor=PANEL, xticks=[], yticks=[])
    frame.spines[:].set_color(LINE)
    frame.text(0.02, 0.955, panel.title, color=TEXT, size=7.5, weight="bold", va="top", transform=frame.transAxes)
    names = sorted(panel.series, key=lambda name: -_peak(panel.series[name]))
    across = 2 if panel.w >= WIDE else 1
    legends = [(name, SERIES[number % len(SERIES)]) for number, name in enumerate(names)]
    if len(legends) > MAX_LINES * across:
        rest = len(legends) - MAX_LINES * across + 1
        legends[MAX_LINES * across - 1 :] = [(f"and {rest} more", FAINT)]
    lines = -(-len(legends) // across)
    below = 0.14 + LEGEND_HEIGHT * lines
    axes = frame.inset_axes((0.105, below, 0.875, 0.84 - below), facecolor=PANEL)
    _axes(axes, panel.unit, times)
    for number, name in enumerate(names):
        at, values = zip(*_broken(panel.series[name]), strict=True)
        axes.plot(at, values, color=SERIES[number % len(SERIES)], linewidth=1, zorder=len(names) - number + 2)
    for number, (name, colour) in enumerate(legends):
        x, y = 0.025 + (number % across) / across, 0.05 + LEGEND_HEIGHT * (lines - 1 - number // across)
        frame.plot([x, x + 0.05 / across], [y, y], color=colour, linewidth=2)
        text = frame.text(x + 0.075 / across, y, name, color=TEXT, size=6, va="center")
        text.set_clip_path(Rectangle((x, 0), 0.97 / across, 1, transform=frame.transData))
    frame.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_ylim(0, 1.08 * max(_peak(points) for points in panel.series.values()) or 1)


def _axes(axes: Axes, unit: str, times: tuple[float, float]) -> None:
    axes.set_xlim(times)
    axes.grid(color=LINE, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=FAINT, length=0, labelsize=6, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: UNITS[unit](value)))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"))


def _broken(points: Points) -> Points:
    """Return `points` with a gap where some are missing, as nothing is known between."""
    gaps = [(before, (before + after) / 2) for (before, _), (after, _) in itertools.pairwise(points)]
    missing = [(middle, math.nan) for before, middle in gaps if middle - before > SCRAPE_SECONDS]
    return sorted([*points, *missing])


def _peak(points: Points) -> float:
    return max(value for _, value in points)


def _number(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


UNITS = {
    "short": _number,
    "ops": lambda value: f"{_number(value)}/s",
    "s": _seconds,
    "Bps": lambda value: f"{_number(value)}B/s",
    "currencyUSD": lambda value: f"${value:.3g}",
}
"""Grafana's name of a unit → how a value is written."""


def _flat(figure: Figure) -> bytes:
    drawn, written = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", facecolor=PAGE)
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(draw(*load(Path(sys.argv[1]).read_text())))

"""A chart of the samples, as SVG: one strip per figure, over the same time."""

import itertools
from xml.sax.saxutils import escape

from tests.soak.measuring import Sample

WIDTH, STRIP, LEFT, GAP = 900, 110, 70, 34
COLOUR = "#2563eb"


def draw(samples: list[Sample], title: str) -> str:
    """Draw memory, descriptors, tasks and throughput over time."""
    times = [sample.at for sample in samples]
    rates = [0.0]
    for before, after in itertools.pairwise(samples):
        rates.append((after.finished - before.finished) / max(after.at - before.at, 0.001))
    strips = {
        "memory (RSS), MB": [sample.rss_kb / 1024 for sample in samples],
        "file descriptors": [sample.fds for sample in samples],
        "asyncio tasks": [sample.tasks for sample in samples],
        "event loop late by, ms": [sample.lag * 1000 for sample in samples],
        "calls under way": [sample.under_way for sample in samples],
        "calls finished per second": rates,
    }
    height = 40 + len(strips) * (STRIP + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-size="12">',
        '<style>text {font-family: sans-serif}</style><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for index, (name, values) in enumerate(strips.items()):
        parts += _strip(name, times, values, top=40 + index * (STRIP + GAP) + 16)
    return "\n".join([*parts, "</svg>\n"])


def _strip(name, times, values, top):
    low, high = (min(values), max(values)) if name.startswith("memory") else (0.0, max(values))
    span, end = (high - low) or 1.0, times[-1] or 1.0
    inner = WIDTH - LEFT - 20
    points = " ".join(
        f"{LEFT + at / end * inner:.1f},{top + STRIP - (value - low) / span * STRIP:.1f}"
        for at, value in zip(times, values, strict=True)
    )
    return [
        f'<text x="{LEFT}" y="{top - 5}">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{inner}" height="{STRIP}" fill="none" stroke="#ccc"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{high:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{top + STRIP}" text-anchor="end">{low:.0f}</text>',
        f'<text x="{LEFT + inner}" y="{top + STRIP + 13}" text-anchor="end" fill="#666">{end:.0f} s</text>',
        f'<polyline points="{points}" fill="none" stroke="{COLOUR}" stroke-width="1.3"/>',
    ]

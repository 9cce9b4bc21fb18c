# SPDX-License-Identifier: BSD-2-Clause
"""Heat maps as SVG: a panel for each key, a column for each interval, a row for each latency."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.show.figure import HEAD, WIDTH, figure
from tracewheel.runtime.spec.distribution import Histogram, short, slot_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLOTS, _ROWS = 2, 4  # of a row, and of a power of two
_COLORS = 8  # classes c0 to c7 of figure.css
# In pixels. The script lays the panels out anew for the window, with the same margins.
_LEGEND_HEAD = HEAD + 28
_LEFT, _RIGHT, _ABOVE, _BELOW = 96, 24, 34, 58  # around the cells of a panel
_POWER = 15  # the least height of a power of two, so that its label fits
_LOW, _HIGH = 150, 480  # the least heights of the cells of one of several panels, and of a single
_NARROWEST, _SCROLLBAR = 900, 16
_CHARACTER = 7.3  # width
_TICKS = 10  # about so many times stand below a panel


@dataclass
class Column:
    """What was reported of a time: one interval, or several if there are many.

    Times are in seconds since 1970. A column is not recorded if its interval was over before the
    report of an earlier one was read: that report has its events, and a longer time.
    """

    begin: float
    end: float
    is_recorded: bool = True
    found: dict[str, Histogram] = field(default_factory=dict)  # by heading

    def add(self, found: dict[str, Histogram], end: float) -> None:
        """Add what was reported until some time."""
        self.end = max(self.end, end)
        for key, histogram in found.items():
            self.found[key] = self.found[key].merge(histogram) if key in self.found else histogram

    def append(self, later: Column) -> None:
        """Add the column that follows."""
        self.is_recorded = self.is_recorded or later.is_recorded
        self.add(later.found, later.end)


class _Cell(NamedTuple):
    column: int
    row: int
    events: int


class _Scale(NamedTuple):
    """What all panels have in common."""

    unit: str
    columns: list[Column]
    interval: float
    first_row: int
    rows: int
    colored_powers: int  # powers of two that the counts of cells reach

    def clock(self, seconds: float) -> str:
        """Return a time of day, with milliseconds if intervals are no whole seconds."""
        clock = time.strftime("%H:%M:%S", time.localtime(seconds))
        return clock if self.interval % 1 == 0 else f"{clock}.{int(seconds % 1 * 1000):03}"

    def span(self, first: int, last: int) -> str:
        """Return from when to when columns reach."""
        begin, end = self.columns[first].begin, self.columns[last].end
        return f"{self.clock(begin)} to {self.clock(end)}"

    def color(self, count: int) -> int:
        """Return the number of the colour of a cell."""
        return (count.bit_length() - 1) * _COLORS // self.colored_powers


def draw(title: str, unit: str, columns: list[Column], reports: int, interval: float) -> str:
    """Return the picture of columns that hold so many reports."""
    cells = _cells(columns)
    counts = [cell.events for of_key in cells.values() for cell in of_key]
    powers = {cell.row // _ROWS for of_key in cells.values() for cell in of_key} or {0}
    first, beyond = min(powers) * _ROWS, (max(powers) + 1) * _ROWS
    scale = _Scale(
        unit, columns, interval, first, beyond - first, max(counts, default=1).bit_length()
    )
    panels = cells or {"": []}
    lowest = max(_LOW, _POWER * scale.rows // _ROWS) + _ABOVE + _BELOW
    each = max(lowest, _HIGH) if len(panels) == 1 else lowest
    body = [
        f'<g id="shapes" data-head="{_LEGEND_HEAD}" data-left="{_LEFT}" data-right="{_RIGHT}" '
        f'data-above="{_ABOVE}" data-below="{_BELOW}" data-lowest="{lowest}" '
        f'data-narrowest="{_NARROWEST}" data-scrollbar="{_SCROLLBAR}">\n',
    ]
    for number, (key, of_key) in enumerate(panels.items()):
        body.append(
            f'<svg class="plot" overflow="visible" x="{_LEFT}" '
            f'y="{_LEGEND_HEAD + number * each + _ABOVE}" '
            f'width="{WIDTH - _LEFT - _RIGHT}" height="{each - _ABOVE - _BELOW}">\n'
            f"{''.join(_panel(key, of_key, scale))}</svg>\n"
        )
    intervals = f"{reports:,} interval{'' if reports == 1 else 's'} of {interval:g} s"
    summary = f"{sum(counts):,} events in {intervals}"
    if columns:
        day = time.strftime("%Y-%m-%d", time.localtime(columns[0].begin))
        summary += f", {day} {scale.span(0, len(columns) - 1)}"
    height = each * len(panels)
    return figure(
        title, summary, height, "".join(body) + "</g>", _legend(scale), "heatmap.js", _LEGEND_HEAD
    )


def _cells(columns: list[Column]) -> dict[str, list[_Cell]]:
    """Return the cells that have events, by key; the keys in ascending order."""
    keys = {
        heading: tuple(histogram.key.values())
        for column in columns
        for heading, histogram in column.found.items()
    }
    found: dict[str, list[_Cell]] = {heading: [] for heading in sorted(keys, key=keys.__getitem__)}
    for number, column in enumerate(columns):
        for heading, histogram in column.found.items():
            rows: Counter[int] = Counter()
            for slot, count in histogram.slots.items():
                rows[slot // _SLOTS] += count
            found[heading] += (_Cell(number, row, count) for row, count in sorted(rows.items()))
    return found


def _panel(key: str, cells: list[_Cell], scale: _Scale) -> Iterator[str]:
    """Yield what a panel shows, in an image whose lower left corner is that of its cells."""
    yield '<rect class="busy" width="100%" height="100%" fill="#f6f7f8"/>\n'
    yield _text(escape(key), 'class="key" y="-10"')
    yield from _latency_axis(scale)
    yield from _time_axis(scale)
    yield (
        f'<svg class="cells" width="100%" height="100%" preserveAspectRatio="none" '
        f'viewBox="0 0 {max(1, len(scale.columns))} {scale.rows}">\n'
    )
    yield from _columns(cells, scale)
    for cell in cells:
        when, values = scale.span(cell.column, cell.column), " to ".join(_bounds(cell.row))
        title = f"{when}\n{values} {scale.unit}\n{cell.events:,} events"
        top = scale.first_row + scale.rows - 1 - cell.row
        yield _rect(f"c{scale.color(cell.events)}", cell.column, top, 1, 1, title)
    yield "</svg>\n"


def _latency_axis(scale: _Scale) -> Iterator[str]:
    for row in range(0, scale.rows + 1, _ROWS):
        height = f"{100 - 100 * row / scale.rows:.6g}%"
        label = _bounds(scale.first_row + row)[0]
        yield f'<line class="grid" x2="100%" y1="{height}" y2="{height}" stroke="#0002"/>'
        yield _text(label, f'y="{height}" dx="-8" dy="4" text-anchor="end"')
    title = _text(
        f"latency ({escape(scale.unit)})",
        f'transform="translate({16 - _LEFT} 0) rotate(-90)" text-anchor="middle"',
    )
    yield f'<svg y="50%" overflow="visible">{title}</svg>\n'


def _time_axis(scale: _Scale) -> Iterator[str]:
    count = len(scale.columns)
    for number in range(0, count, -(-count // _TICKS) or 1):
        left = f"{100 * number / count:.6g}%"
        yield f'<line class="grid" y2="100%" x1="{left}" x2="{left}" stroke="#0002"/>'
        yield _text(
            scale.clock(scale.columns[number].begin),
            f'x="{left}" y="100%" dy="18" text-anchor="middle"',
        )
    zone = time.strftime("%Z", time.localtime(scale.columns[0].begin if count else 0))
    yield _text(f"time ({escape(zone)})", 'x="50%" y="100%" dy="40" text-anchor="middle"')


def _columns(cells: list[_Cell], scale: _Scale) -> Iterator[str]:
    """Yield what lies behind the cells: which columns have no events, or no report."""
    totals: Counter[int] = Counter()
    for cell in cells:
        totals[cell.column] += cell.events

    def state(number: int) -> str:
        if totals[number]:
            return f"busy {number}"  # by itself
        return "idle" if scale.columns[number].is_recorded else "missing"

    for name, group in itertools.groupby(range(len(scale.columns)), state):
        run = list(group)
        kind = name.split()[0]
        told = {
            "busy": f"{totals[run[0]]:,} events in this column",
            "idle": "no events",
            "missing": "no report of this time alone: its events are in the column before",
        }
        title = f"{scale.span(run[0], run[-1])}\n{told[kind]}"
        yield _rect(kind, run[0], 0, len(run), scale.rows, title)


def _legend(scale: _Scale) -> str:
    """Return which colour means how many events."""
    powers: dict[int, list[int]] = {}
    for power in range(scale.colored_powers):
        powers.setdefault(scale.color(1 << power), []).append(power)
    told = [(f"c{color}", _range(min(of), max(of))) for color, of in powers.items()]
    if any(not column.is_recorded for column in scale.columns):
        told.append(("missing", "no report"))
    told.append(("idle", "no events"))
    y = HEAD + 12
    parts = [_text("events per cell:", f'x="1%" y="{y}"')]
    left = WIDTH / 100 + 17 * _CHARACTER
    for name, text in told:
        parts.append(
            f'<rect class="{name}" x="{left:.1f}" y="{y - 12}" width="16" height="16"/>'
            + _text(text, f'x="{left + 21:.1f}" y="{y}"')
        )
        left += 21 + len(text) * _CHARACTER + 14
    return f'<g id="legend">{"".join(parts)}</g>\n'


def _range(first_power: int, last_power: int) -> str:
    low, high = 1 << first_power, (2 << last_power) - 1
    return f"{low:,}" if low == high else f"{low:,}\u2013{high:,}"


def _bounds(row: int) -> tuple[str, str]:
    """Return the least value of a row and the least beyond it."""
    low, high = slot_bounds(row * _SLOTS)[0], slot_bounds(row * _SLOTS + _SLOTS - 1)[1]
    return short(low / 1024), short(high / 1024)


def _rect(kind: str, x: int, y: int, width: int, height: int, title: str) -> str:
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}">'
        f"<title>{escape(title)}</title></rect>\n"
    )


def _text(markup: str, attributes: str) -> str:
    return f"<text {attributes}>{markup}</text>\n"

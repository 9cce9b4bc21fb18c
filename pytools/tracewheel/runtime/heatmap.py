# SPDX-License-Identifier: BSD-2-Clause
"""Distributions over time as a picture: a column for each interval, a row for each latency."""

from __future__ import annotations

import bisect
import time
from typing import NamedTuple

from tracewheel.runtime.figure import HEAD, figure, xml
from tracewheel.runtime.histogram import Histogram, heading, short, slot_bounds

_MOST_COLUMNS, _MOST_ROWS = 600, 64
_LEFT, _WIDTH, _HEIGHT = 90, 920, 380  # of a panel, in pixels
_COLORS = ("#fdebb0", "#fdd07a", "#fcae55", "#f88540", "#ea5a33", "#c93530", "#9a1a32", "#5f0f2e")


class _Column(NamedTuple):
    begin: float  # seconds since 1970
    end: float
    found: dict[str, Histogram]


class Heatmap:
    """Collect reports, and draw them in the end: where they are many, several in a column."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._columns: list[_Column] = []
        self._reports, self._together = 0, 1  # so many reports, and so many of them in a column
        self._at = time.time()

    def add(self, found: list[Histogram]) -> None:
        """Take a report: of the time since the last one."""
        begin, self._at = self._at, time.time()
        named = {heading(histogram, False): histogram for histogram in found}
        column = _Column(begin, self._at, named)
        if self._reports % self._together:
            column = _join(self._columns.pop(), column)
        self._columns.append(column)
        self._reports += 1
        if len(self._columns) == _MOST_COLUMNS and not self._reports % self._together:
            pairs = zip(self._columns[::2], self._columns[1::2])
            self._columns = [_join(*pair) for pair in pairs]
            self._together *= 2

    def svg(self) -> str:
        """Return the picture: a panel for each key, all with the same rows and colours."""
        every = [histogram for column in self._columns for histogram in column.found.values()]
        slots = {slot for histogram in every for slot in histogram.slots} or {0}
        # Rows of 1, 2, 4 ... slots, so that powers of two begin rows.
        step = 1
        while max(slots) // step - min(slots) // step >= _MOST_ROWS:
            step *= 2
        rows = range(min(slots) // step, max(slots) // step + 1)
        cells: dict[str, dict[tuple[int, int], int]] = {}
        for number, column in enumerate(self._columns):
            for key, histogram in column.found.items():
                counts = cells.setdefault(key, {})
                for slot, count in histogram.slots.items():
                    at = number, slot // step
                    counts[at] = counts.get(at, 0) + count
        most = max((max(counts.values()) for counts in cells.values()), default=1)
        edges = sorted({round((most + 1) ** (part / 8)) for part in range(8)})
        marks, shapes = _legend(edges, most), ""
        for number, (key, counts) in enumerate(sorted(cells.items())):
            panel = self._panel(key, counts, HEAD + 26 + number * (_HEIGHT + 70), rows, step, edges)
            marks, shapes = marks + panel[0], shapes + panel[1]
        total = sum(histogram.total for histogram in every)
        summary = f"{total:,} events in {self._reports:,} intervals"
        body = f'{marks}<g id="shapes">\n{shapes}</g>'
        return figure(self._title, summary, max(1, len(cells)) * (_HEIGHT + 70), body)

    def _panel(
        self, key: str, counts: dict[tuple[int, int], int], top: int, rows: range, step: int,
        edges: list[int],
    ) -> tuple[str, str]:  # fmt: skip
        """Return the axes of a panel, and its cells."""
        height, width = _HEIGHT / len(rows), _WIDTH / len(self._columns)
        bottom, unit = top + _HEIGHT, self._unit
        marks = [
            _text(_LEFT, top - 8, key),
            _text(_LEFT - 8, top - 8, unit, "end"),
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="#f4f4f4"/>',
        ]
        free = bottom + 15.0
        for number, row in enumerate(rows):
            low, y = slot_bounds(row * step)[0], bottom - number * height
            if low & (low - 1) == 0 and y <= free:
                marks.append(_text(_LEFT - 8, y + 4, short(low / 1024), "end"))
                free = y - 15
        for number in range(0, len(self._columns), -(-len(self._columns) // 10)):
            begin = self._columns[number].begin
            marks.append(_text(_LEFT + number * width, bottom + 18, _clock(begin)))
        cells = []
        for (number, row), count in sorted(counts.items()):
            column = self._columns[number]
            low, high = slot_bounds(row * step)[0], slot_bounds(row * step + step - 1)[1]
            cells.append(
                f'<rect x="{_LEFT + number * width:.2f}" width="{width:.2f}" '
                f'y="{bottom - (row - rows[0] + 1) * height:.2f}" height="{height:.2f}" '
                f'fill="{_color(edges, count)}"><title>'
                f"{_clock(column.begin)} to {_clock(column.end)}\n"
                f"{short(low / 1024)} to {short(high / 1024)} {unit}\n"
                f"{count:,} events</title></rect>\n"
            )
        return "".join(marks), "".join(cells)


def _join(first: _Column, second: _Column) -> _Column:
    """Return one column for two neighbours."""
    found = dict(first.found)
    for key, histogram in second.found.items():
        found[key] = found[key].merge(histogram) if key in found else histogram
    return _Column(first.begin, second.end, found)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _color(edges: list[int], count: int) -> str:
    part = bisect.bisect_right(edges, count) - 1
    return _COLORS[part * 7 // max(1, len(edges) - 1)]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{xml(text)}</text>'


def _legend(edges: list[int], most: int) -> str:
    x, y = _LEFT + _WIDTH + 20, HEAD + 18
    parts = [_text(x, y, "events")]
    for low, beyond in zip(edges, [*edges[1:], most + 1]):
        label = f"{low:,}" if beyond - low <= 1 else f"{low:,} to {beyond - 1:,}"
        color = _color(edges, low)
        parts.append(f'<rect x="{x}" y="{y + 8}" width="16" height="16" fill="{color}"/>')
        parts.append(_text(x + 24, y + 21, label))
        y += 22
    return "".join(parts)

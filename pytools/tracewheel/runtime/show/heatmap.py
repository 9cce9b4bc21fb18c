# SPDX-License-Identifier: BSD-2-Clause
"""Distributions over time as a picture: a column for each interval, a row for each latency."""

from __future__ import annotations

import time
from collections import Counter
from html import escape

from tracewheel.runtime.show.figure import HEAD, figure
from tracewheel.runtime.show.meaning import describe_key
from tracewheel.runtime.spec.distribution import Histogram, short, slot_bounds

_MOST_COLUMNS = 600
_LEFT, _WIDTH, _ROW, _GAP = 90, 920, 6, 70  # of panels, in pixels
_LEGEND = _LEFT + _WIDTH + 20
_SLOTS, _ROWS = 2, 4  # of a row, and of a power of two
_COLORS = ("#fdebb0", "#fdd07a", "#fcae55", "#f88540", "#ea5a33", "#c93530", "#9a1a32", "#5f0f2e")


class Heatmap:
    """Collect reports, and draw them in the end: where they are many, several in a column."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._columns: list[tuple[float, dict[str, Histogram]]] = []  # since 1970 when
        self._reports, self._together = 0, 1  # so many reports, and so many of them in a column
        self._at = time.time()

    def add(self, found: list[Histogram]) -> None:
        """Take a report: of the time since the last one."""
        if self._reports % self._together == 0:
            if len(self._columns) == _MOST_COLUMNS:
                for (_, into), (_, later) in zip(self._columns[::2], self._columns[1::2]):
                    _merge(into, later)
                self._columns = self._columns[::2]
                self._together *= 2
            self._columns.append((self._at, {}))
        _merge(self._columns[-1][1], {describe_key(each.key, False): each for each in found})
        self._reports += 1
        self._at = time.time()

    def svg(self) -> str:
        """Return the picture: a panel for each key, all with the same rows and colours."""
        counts: Counter[tuple[str, int, int]] = Counter()
        for number, (_, found) in enumerate(self._columns):
            for key, histogram in found.items():
                for slot, count in histogram.slots.items():
                    counts[key, number, slot // _SLOTS] += count
        powers = {row // _ROWS for _, _, row in counts} or {0}
        first, beyond = min(powers) * _ROWS, (max(powers) + 1) * _ROWS
        height, width = (beyond - first) * _ROW, _WIDTH / max(1, len(self._columns))
        clocks = [time.strftime("%H:%M:%S", time.localtime(at))
                  for at in (*(begin for begin, _ in self._columns), self._at)]  # fmt: skip
        keys = sorted({key for key, _, _ in counts})
        tops = {key: HEAD + 26 + number * (height + _GAP) for number, key in enumerate(keys)}
        most = max(counts.values(), default=1).bit_length()
        body = [_text(_LEGEND, HEAD + 18, "events, from")]
        for power in range(most):
            top = HEAD + 26 + 22 * power
            body.append(
                f'<rect x="{_LEGEND}" y="{top}" width="16" height="16" {_fill(power, most)}/>'
            )
            body.append(_text(_LEGEND + 24, top + 13, f"{1 << power:,}"))
        for key, top in tops.items():
            body += [
                _text(_LEFT, top - 8, key),
                _text(_LEFT - 8, top - 8, self._unit, "end"),
                f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{height}" fill="#f4f4f4"/>',
            ]
            for row in range(first, beyond, _ROWS):
                bottom = top + (beyond - row) * _ROW
                body.append(_text(_LEFT - 8, bottom, _bounds(row)[0], "end"))
            for number in range(0, len(self._columns), -(-len(self._columns) // 10)):
                body.append(_text(_LEFT + number * width, top + height + 18, clocks[number]))
        body.append('<g id="shapes">\n')
        for (key, number, row), count in sorted(counts.items()):
            x, y = _LEFT + number * width, tops[key] + (beyond - row - 1) * _ROW
            body.append(
                f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW}" '
                f"{_fill(count.bit_length() - 1, most)}><title>"
                f"{clocks[number]} to {clocks[number + 1]}\n"
                f"{' to '.join(_bounds(row))} {self._unit}\n{count:,} events</title></rect>\n"
            )
        summary = f"{sum(counts.values()):,} events in {self._reports:,} intervals"
        height = max(len(tops) * (height + _GAP), 22 * most + _GAP)
        return figure(self._title, summary, height, "".join(body) + "</g>")


def _merge(into: dict[str, Histogram], more: dict[str, Histogram]) -> None:
    for key, histogram in more.items():
        into[key] = into[key].merge(histogram) if key in into else histogram


def _bounds(row: int) -> tuple[str, str]:
    """Return the least value of a row and the least beyond it."""
    low, high = slot_bounds(row * _SLOTS)[0], slot_bounds(row * _SLOTS + _SLOTS - 1)[1]
    return short(low / 1024), short(high / 1024)


def _fill(power: int, most: int) -> str:
    return f'fill="{_COLORS[power * len(_COLORS) // most]}"'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

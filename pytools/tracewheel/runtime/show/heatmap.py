# SPDX-License-Identifier: BSD-2-Clause
"""Distributions over time: collected from reports, to be drawn as a picture in the end."""

from __future__ import annotations

import time

from tracewheel.runtime.show.heatmap_picture import Column, draw
from tracewheel.runtime.show.meaning import describe_key
from tracewheel.runtime.spec.distribution import Histogram

_MOST_COLUMNS = 600


class Heatmap:
    """Collect reports, and draw them in the end: where they are many, several in a column."""

    def __init__(self, title: str, unit: str, interval: float) -> None:
        self._title, self._unit, self._interval = title, unit, interval
        self._columns: list[Column] = []
        self._reports, self._together = 0, 1  # so many reports, and so many of them in a column
        self._start = self._read = time.monotonic()
        self._begin = self._end = time.time()

    def add(self, found: list[Histogram]) -> None:
        """Take a report: of the time since the last one."""
        by_heading = {describe_key(each.key, False): each for each in found}
        interval_end = self._start + (self._reports + 1) * self._interval
        is_late = bool(self._columns) and self._read >= interval_end
        self._read, begin, self._end = time.monotonic(), self._end, time.time()
        if is_late:
            recorded = [column for column in self._columns if column.is_recorded]
            recorded[-1].add(by_heading, self._end)
            begin = self._begin + self._reports * self._interval
            self._append(Column(begin, begin + self._interval, is_recorded=False))
        else:
            self._append(Column(begin, self._end, found=by_heading))

    def _append(self, column: Column) -> None:
        if self._reports % self._together:
            self._columns[-1].append(column)
        else:
            if len(self._columns) == _MOST_COLUMNS:
                self._join_columns()
            self._columns.append(column)
        self._reports += 1

    def _join_columns(self) -> None:
        for into, later in zip(self._columns[::2], self._columns[1::2]):
            into.append(later)
        self._columns = self._columns[::2]
        self._together *= 2

    def svg(self) -> str:
        """Return the picture."""
        return draw(self._title, self._unit, self._columns, self._reports, self._interval)

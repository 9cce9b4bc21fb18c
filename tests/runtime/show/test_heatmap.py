# SPDX-License-Identifier: BSD-2-Clause
"""A heat map has each event once, where and when it was, and tells what it shows."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.show.heatmap import Heatmap
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.distribution import Histogram
from tracewheel.runtime.spec.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SVG = "{http://www.w3.org/2000/svg}"
NOON = 1_796_040_000.0  # 2026-11-30 12:00:00 UTC
HOSTILE = ["<", "&amp;", "]]>", "</svg><script>", "\x1b[2J", "\x00", "\udcff", "\ufffe", "'\""]
# 96 values from 8 to 9 us, 3 from 64 to 72, 1 from 1024 to 1152.
USUAL = Histogram({}, "usecs", {16 + 8 * 9: 96, 16 + 8 * 12: 3, 16 + 8 * 16: 1})
slots = st.dictionaries(st.integers(0, 495), st.integers(1, 10**6), min_size=1, max_size=20)


class Shape(NamedTuple):
    """A rectangle that tells what it is, of the columns and rows of its panel."""

    kind: str
    column: int
    columns: int
    told: list[str]

    @property
    def events(self) -> int:
        """The number of events that a cell tells of."""
        return int(re.sub(r"\D", "", self.told[2]))


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Give a function that lets time pass; it is noon in Greenwich, and stands still otherwise."""
    passed = 0.0

    def pass_seconds(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(time, "time", lambda: NOON + passed)
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + passed)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield pass_seconds
    monkeypatch.undo()
    time.tzset()


def panels(document: str) -> list[list[Shape]]:
    """Return the shapes of each panel of a picture."""
    return [
        [
            Shape(
                rect.attrib["class"],
                int(rect.attrib["x"]),
                int(rect.attrib["width"]),
                str(rect.findtext(f"{SVG}title")).split("\n"),
            )
            for rect in panel.iter(f"{SVG}rect")
        ]
        for panel in ET.fromstring(document).iter(f"{SVG}svg")
        if panel.get("class") == "cells"
    ]


def cells(document: str) -> list[Shape]:
    """Return the cells that have events, of all panels."""
    return [
        shape for panel in panels(document) for shape in panel if re.match("c[0-7]", shape.kind)
    ]


def texts(document: str) -> list[str]:
    """Return all that is written in a picture."""
    return [str(text.text) for text in ET.fromstring(document).iter(f"{SVG}text")]


@given(st.lists(slots, max_size=5))
def test_counts_all(reports: list[dict[int, int]]) -> None:
    """The cells of a picture hold every event once."""
    heatmap = Heatmap("<&", "usecs", 1)
    for counts in reports:
        heatmap.add([Histogram({"comm": "<\udcff>"}, "usecs", counts)])

    found = cells(heatmap.svg())
    assert sum(sum(counts.values()) for counts in reports) == sum(cell.events for cell in found)


def test_long_time() -> None:
    """However many intervals there are, the columns have a bound and nothing is left out."""
    heatmap = Heatmap("", "usecs", 1)
    for _ in range(10_007):
        heatmap.add([USUAL])
    found = cells(heatmap.svg())

    assert 10_007 * USUAL.total == sum(cell.events for cell in found)
    assert 300 <= len({cell.column for cell in found}) <= 600
    assert {"8 to 10 usecs", "64 to 80 usecs", "1024 to 1280 usecs"} == {
        cell.told[1] for cell in found
    }


def test_cell_tells_when(pass_time: Callable[[float], None]) -> None:
    """A cell tells from when to when its events were, their values and their number."""
    heatmap = Heatmap("", "msecs", 1)
    for _ in range(3):
        pass_time(1)
        heatmap.add([Histogram({}, "msecs", {16 + 8 * 9: 1009})])

    assert [
        ["12:00:00 to 12:00:01", "8 to 10 msecs", "1,009 events"],
        ["12:00:01 to 12:00:02", "8 to 10 msecs", "1,009 events"],
        ["12:00:02 to 12:00:03", "8 to 10 msecs", "1,009 events"],
    ] == [cell.told for cell in cells(heatmap.svg())]


def test_short_intervals_have_milliseconds(pass_time: Callable[[float], None]) -> None:
    """Times tell apart intervals of less than a second."""
    heatmap = Heatmap("", "usecs", 0.25)
    for _ in range(2):
        pass_time(0.25)
        heatmap.add([USUAL])

    whens = {cell.told[0] for cell in cells(heatmap.svg())}
    assert {"12:00:00.000 to 12:00:00.250", "12:00:00.250 to 12:00:00.500"} == whens


def test_late_report(pass_time: Callable[[float], None]) -> None:
    """What a late report holds is in one column; the intervals that it covers too have none."""
    heatmap = Heatmap("", "usecs", 1)
    pass_time(1)
    heatmap.add([])
    pass_time(4.5)  # say that nobody has read the output
    heatmap.add([USUAL])
    pass_time(0.001)
    heatmap.add([USUAL])
    for _ in range(2):
        heatmap.add([])
    pass_time(0.5)
    heatmap.add([USUAL])
    (shapes,) = panels(heatmap.svg())
    behind = [shape for shape in shapes if not shape.kind.startswith("c")]
    in_columns = dict.fromkeys(range(6), 0)
    for cell in cells(heatmap.svg()):
        in_columns[cell.column] += cell.events

    assert [("idle", 0, 1), ("busy", 1, 1), ("missing", 2, 3), ("busy", 5, 1)] == [
        (shape.kind, shape.column, shape.columns) for shape in behind
    ]
    assert [
        "12:00:00 to 12:00:01",
        "12:00:01 to 12:00:05",
        "12:00:02 to 12:00:05",
        "12:00:05 to 12:00:06",
    ] == [shape.told[0] for shape in behind]
    assert "no events" == behind[0].told[1]
    assert "200 events in this column" == behind[1].told[1]
    assert behind[2].told[1].startswith("no report")
    assert {0: 0, 1: 200, 2: 0, 3: 0, 4: 0, 5: 100} == in_columns
    assert "no report" in texts(heatmap.svg())


def test_no_report_is_missing(pass_time: Callable[[float], None]) -> None:
    """Where all reports came in time, however little happened, none is said to be missing."""
    heatmap = Heatmap("", "usecs", 1)
    for seconds in (1.9, 0.1, 1.9, 0.1, 1, 0.3):  # the last one is cut short
        pass_time(seconds)
        heatmap.add([])
    document = heatmap.svg()
    (shapes,) = panels(document)

    assert [("idle", 0, 6)] == [(shape.kind, shape.column, shape.columns) for shape in shapes]
    assert "no report" not in texts(document)


def test_late_reports_of_a_long_time(pass_time: Callable[[float], None]) -> None:
    """Events are counted once also where late reports and several in a column come together."""
    heatmap = Heatmap("", "usecs", 1)
    for _ in range(151):
        pass_time(7)
        heatmap.add([USUAL])
        for _ in range(6):
            heatmap.add([])
    found = cells(heatmap.svg())

    assert 151 * USUAL.total == sum(cell.events for cell in found)


def test_axes_have_titles(pass_time: Callable[[float], None]) -> None:
    """Each panel tells what its axes are, and in which unit or time zone."""
    heatmap = Heatmap("", "msecs", 1)
    pass_time(1)
    heatmap.add([Histogram({"cpu": cpu}, "msecs", {88: 1}) for cpu in range(3)])
    found = texts(heatmap.svg())

    assert (3, 3) == (found.count("latency (msecs)"), found.count("time (UTC)"))
    assert 3 == found.count("12:00:00")
    assert "3 events in 1 interval of 1 s, 2026-11-30 12:00:00 to 12:00:01" in found


@given(slots)
def test_legend(counts: dict[int, int]) -> None:
    """The legend has the colour of each cell, and its range has the cell's number of events."""
    heatmap = Heatmap("", "usecs", 1)
    heatmap.add([Histogram({}, "usecs", counts)])
    document = heatmap.svg()
    (legend,) = (each for each in ET.fromstring(document).iter() if each.get("id") == "legend")
    swatches = [rect.attrib["class"] for rect in legend.iter(f"{SVG}rect")]
    labels = [str(text.text) for text in legend.iter(f"{SVG}text")]
    ranges = {
        kind: [int(number.replace(",", "")) for number in label.split("\u2013")]
        for kind, label in zip(swatches, labels[1:])
        if label != "no events"
    }

    assert ["events per cell:", "no events"] == [labels[0], labels[-1]]
    for cell in cells(document):
        assert ranges[cell.kind][0] <= cell.events <= ranges[cell.kind][-1]


def test_panels_are_in_order() -> None:
    """Panels are in the order of their keys, which are numbers where they look so."""
    heatmap = Heatmap("", "usecs", 1)
    heatmap.add([Histogram({"cpu": cpu}, "usecs", {88: 1}) for cpu in (10, 2)])
    heatmap.add([Histogram({"cpu": cpu}, "usecs", {88: 1}) for cpu in (10, 1)])

    keys = [text for text in texts(heatmap.svg()) if text.startswith("cpu")]
    assert ["cpu = 1", "cpu = 2", "cpu = 10"] == keys


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str) -> None:
    """Whatever a process or unit is called, the picture is XML and has the elements it had."""

    def tags(comm: str, unit: str) -> list[str]:
        heatmap = Heatmap(unit, unit, 1)
        heatmap.add([Histogram({"comm": comm}, unit, {88: 1})])
        return [element.tag for element in ET.fromstring(heatmap.svg()).iter()]

    unit = name if name.isprintable() else "usecs"  # units are not others' words
    assert tags("plain", "usecs") == tags(name, unit)


def test_needs_an_interval(tmp_path: Path) -> None:
    """Without an interval there is nothing to draw over time."""
    tool = load_tool("runqlat")[0]
    with pytest.raises(UsageError, match="interval"):
        Request(tool, {"heatmap": str(tmp_path / "x")})
    with pytest.raises(UsageError, match="takes a file"):
        Request(tool, {"heatmap": "-", "interval": 1.0})

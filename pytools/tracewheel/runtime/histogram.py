# SPDX-License-Identifier: BSD-2-Clause
"""The shape Histogram: distributions as values that merge, as JSON and as rows of stars."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.errors import UsageError
from tracewheel.runtime.intervals import reports, stamps
from tracewheel.runtime.meaning import MEANINGS, TABLES, later, name_of
from tracewheel.runtime.options import UNITS
from tracewheel.runtime.output import escape, replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracewheel.runtime.options import Request
    from tracewheel.runtime.output import Output, Stop
    from tracewheel.runtime.session import Member, Session
    from tracewheel.runtime.shapes import Histogram as Shape

SLOTS = 496  # HIST_SLOTS of hist.bpf.h
_SUM = SLOTS  # HIST_SUM
_STARS = 40
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def slot_bounds(slot: int) -> tuple[int, int]:
    """Return the least value of a slot and the least beyond it, in 1/1024 of the unit."""
    if slot < 16:
        return slot, slot + 1
    power, step = divmod(slot - 16, 8)
    return (8 + step) << (power + 1), (9 + step) << (power + 1)


class Histogram(NamedTuple):
    """A distribution: how many events fell into each log-linear slot.

    ``key`` tells which one it is (empty: of all events), ``unit`` what values are in, ``slots``
    maps slot numbers to counts. Values are right within 6.25 %; their ``sum`` is exact, and None
    unless it was asked for.
    """

    key: Mapping[str, Any]
    unit: str
    slots: Mapping[int, int]
    sum: float | None = None

    @property
    def total(self) -> int:
        """The number of events."""
        return sum(self.slots.values())

    @property
    def average(self) -> float | None:
        """The mean value, where the sum is known."""
        return None if self.sum is None else self.sum / max(1, self.total)

    @property
    def buckets(self) -> list[tuple[float, float, int]]:
        """Lower bound, upper bound and count of each slot that has any, ascending."""
        return [
            (low / 1024, high / 1024, count)
            for slot, count in sorted(self.slots.items())
            for low, high in [slot_bounds(slot)]
        ]

    def percentile(self, percent: float) -> float:
        """Return the value that ``percent`` of the events do not exceed; 0 without events."""
        rank = max(1, -(-self.total * round(percent * 1000) // 100_000))
        for low, high, count in self.buckets:
            rank -= count
            if rank <= 0:
                return (low + high) / 2
        return 0.0

    def percentiles(self) -> dict[str, float]:
        """Return p50, p90, p99, p99.9 and max."""
        return {name: self.percentile(percent) for name, percent in PERCENTILES.items()}

    def merge(self, other: Histogram) -> Histogram:
        """Return the distribution of both: of hosts, intervals or runs."""
        if self.unit != other.unit:
            raise UsageError(f"cannot merge {self.unit} with {other.unit}")
        slots = dict(self.slots)
        for slot, count in other.slots.items():
            slots[slot] = slots.get(slot, 0) + count
        both = None if self.sum is None or other.sum is None else self.sum + other.sum
        return self._replace(slots=slots, sum=both)

    def to_json(self) -> dict[str, Any]:
        """Return what --json prints."""
        summed = {} if self.sum is None else {"sum": self.sum, "average": self.average}
        return {**self.key, "unit": self.unit, "count": self.total, **summed,
                "percentiles": self.percentiles(), "buckets": self.buckets}  # fmt: skip

    def rows(self) -> list[tuple[int, int, int]]:
        """Return the familiar power-of-two rows: first and last value, count."""
        counts: dict[int, int] = {}
        for slot, count in self.slots.items():
            power = max(1, (slot_bounds(slot)[0] >> 10).bit_length())  # 0 and 1 share a row
            counts[power] = counts.get(power, 0) + count
        return [
            (1 << (power - 1) if power > 1 else 0, (1 << power) - 1, counts.get(power, 0))
            for power in range(1, max(counts, default=0) + 1)
        ]

    def text(self, fine: bool = False) -> str:
        """Return the rows with their stars, and the percentiles below."""
        rows: list[tuple[Any, Any, int]] = list(self.rows())
        if fine:
            rows = [(short(low), short(high), count) for low, high, count in self.buckets]
        most = max((count for _, _, count in rows), default=0)
        lines = [f"{self.unit:>10}{'':14} : count    distribution"]
        for low, high, count in rows:
            stars = "*" * (_STARS * count // most)
            lines.append(f"{low:>10} -> {high:<10} : {count:<8} |{stars:<{_STARS}}|")
        found = "  ".join(f"{name} {short(value)}" for name, value in self.percentiles().items())
        lines.append(f"count {self.total}  {found} {self.unit}")
        if self.sum is not None and self.average is not None:
            lines.append(f"average {short(self.average)}  total {short(self.sum)} {self.unit}")
        return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Return a value with as many digits as are true."""
    return f"{value:.0f}" if value >= 100 else f"{round(value, 3):.3g}"


class Reader:
    """Read a session's histograms: since the start, or since the last reading."""

    def __init__(self, session: Session, tool: Shape) -> None:
        assert session.opened
        request = session.request
        self._session = session
        self._earlier: dict[bytes, Mapping[int, int]] = {}
        self._name = tool.histograms
        key, self._slot = session.opened.members(session.maps[tool.histograms + "_by"].key)
        shown = {name for option, _ in request.given() for name in option.shows}
        members = session.opened.members(key.meaning)
        self._key = [m for m in members if m.name in shown]
        self._whose = session.whose(members)

    def read(self, since_last: bool = False) -> list[Histogram]:
        """Return the histograms that have events, the keys in ascending order."""
        slots = self._read_keyed() if self._key else self._read_single()
        request = self._session.request
        found = []
        for key, counts in slots.items():
            if since_last:
                counts = difference(counts, self._earlier.get(key, {}))
            total = counts.pop(_SUM, 0) * UNITS[request.unit] / 2**30 if request.extension else None
            if counts:
                described = {m.name: _describe(m, key) for m in self._key}
                if "cgroup" in described:
                    described["container"] = name_of("container", described["cgroup"])
                found.append(Histogram(described, request.unit, counts, total))
        if since_last:
            self._earlier.update(slots)
        return sorted(found, key=lambda histogram: tuple(histogram.key.values()))

    def _read_single(self) -> dict[bytes, dict[int, int]]:
        ((_, slots),) = self._session.read_map(self._name, summed=True)
        counts = enumerate(memoryview(slots).cast("Q"))
        return {b"": {slot: count for slot, count in counts if count}}

    def _read_keyed(self) -> dict[bytes, dict[int, int]]:
        found: dict[bytes, dict[int, int]] = {}
        for at, value in self._session.read_map(self._name + "_by"):
            counts = found.setdefault(self._whose(at[: self._slot.offset]), {})
            slot = self._slot.unpack(at)
            counts[slot] = counts.get(slot, 0) + int.from_bytes(value, "little")
        return found


def difference(later: Mapping[int, int], earlier: Mapping[int, int]) -> dict[int, int]:
    """Return what came since an earlier reading."""
    counts = {slot: count - earlier.get(slot, 0) for slot, count in later.items()}
    return {slot: count for slot, count in counts.items() if count}


def _describe(member: Member, key: bytes) -> Any:
    """Return a member of a key: as text where its type has names."""
    kind = MEANINGS[member.meaning].text if member.meaning in MEANINGS else ""
    if kind == "chars":
        return os.fsdecode(member.chars(key))
    value = member.unpack(key)
    return name_of(kind, value) if kind in TABLES else value


def heading(histogram: Histogram, ascii_only: bool) -> str:
    """Return what a histogram is of, as a terminal may show it."""
    return ", ".join(
        f"{name} = {escape(os.fsencode(str(value)), ascii_only)}"
        for name, value in histogram.key.items()
        if name != "cgroup"  # the container says more
    )


def run(session: Session, tool: Shape, output: Output, stop: Stop) -> dict[str, int]:
    """Print histograms at each interval, or at the end; return what to say at the end."""
    request = session.request
    distributions = Reader(session, tool)
    start = time.monotonic()
    events = alerts = 0
    heatmap = None
    if request.heatmap:
        heatmap = later("heatmap", "Heatmap")(f"{session.name}: {tool.title}", request.unit)
    try:
        for _ in reports(session, output, stop):
            found = distributions.read(since_last=True)
            events += sum(histogram.total for histogram in found)
            if heatmap:
                heatmap.add(found)
            if request.alert:
                whole = not (stop.asked and request.interval)
                alerts += later("compare", "alert")(session.name, request, found, whole)
            _report(request, found, output, start)
    finally:
        if heatmap:
            replace_file(request.heatmap, heatmap.svg())
    return {"events": events, "alerts": alerts}


def _report(request: Request, found: list[Histogram], output: Output, start: float) -> None:
    now = time.time_ns()
    if request.json:
        for histogram in found:
            described = {"time": now, **histogram.to_json()}
            if request.sample_rate:
                described["sample_rate"] = request.sample_rate
            if request.baseline:
                described["baseline"] = later("compare", "describe")(request.baseline, histogram)
            output.text(json.dumps(described) + "\n")
        return
    lines = [f"{line}\n" for line in stamps(request, start, now / 1e9)]
    if request.sample_rate:
        lines.append(f"sampled 1/{request.sample_rate}\n")
    for histogram in found:
        if histogram.key:
            lines.append(f"{heading(histogram, output.ascii)}\n")
        lines.append(histogram.text(fine=bool(request.verbose)))
        if request.baseline:
            lines.append(later("compare", "text")(request.baseline, histogram))
        lines.append("\n")
    if not found:
        lines.append("no events\n")
    output.text("".join(lines))

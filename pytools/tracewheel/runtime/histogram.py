# SPDX-License-Identifier: BSD-2-Clause
"""The shape Histogram: distributions as values that merge, as JSON and as rows of stars."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import lib
from tracewheel.runtime.errors import UsageError
from tracewheel.runtime.meaning import MEANINGS, TABLES
from tracewheel.runtime.output import ReaderGone, escape
from tracewheel.runtime.session import read_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracewheel.runtime.output import Output, Stop
    from tracewheel.runtime.session import Session
    from tracewheel.runtime.shapes import Histogram as Shape

_SLOTS = 496  # HIST_SLOTS of hist.bpf.h
_STARS = 40
_EPIPE = -32
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
    maps slot numbers to counts. Values are right within 6.25 %.
    """

    key: Mapping[str, Any]
    unit: str
    slots: Mapping[int, int]

    @property
    def total(self) -> int:
        """The number of events."""
        return sum(self.slots.values())

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
        rank = max(1, -(-self.total * percent // 100))
        seen = 0
        for low, high, count in self.buckets:
            seen += count
            if seen >= rank:
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
        return self._replace(slots=slots)

    def minus(self, earlier: Mapping[int, int]) -> Histogram:
        """Return what came since an earlier reading."""
        slots = {slot: count - earlier.get(slot, 0) for slot, count in self.slots.items()}
        return self._replace(slots={slot: count for slot, count in slots.items() if count})

    def to_json(self) -> dict[str, Any]:
        """Return what --json prints."""
        return {
            **self.key,
            "unit": self.unit,
            "count": self.total,
            "percentiles": self.percentiles(),
            "buckets": self.buckets,
        }

    def rows(self) -> list[tuple[int, int, int]]:
        """Return the familiar power-of-two rows: first and last value, count."""
        counts: dict[int, int] = {}
        for slot, count in self.slots.items():
            power = (slot_bounds(slot)[0] >> 10).bit_length()
            counts[power] = counts.get(power, 0) + count
        last = max(counts, default=0)
        merged = counts.pop(0, 0) + counts.get(1, 0)  # 0 and 1 share the first row
        if last:
            counts[1] = merged
        else:
            last, counts = 1, {1: merged}
        return [
            (0 if p == 1 else 1 << (p - 1), (1 << p) - 1, counts.get(p, 0))
            for p in range(1, last + 1)
        ]

    def text(self, fine: bool = False) -> str:
        """Return the rows with their stars, and the percentiles below."""
        rows: list[tuple[Any, Any, int]] = list(self.rows())
        if fine:
            rows = [(f"{low:.2f}", f"{high:.2f}", count) for low, high, count in self.buckets]
        most = max(count for _, _, count in rows) if rows else 0
        lines = [f"{self.unit:>10}{'':15} : count    distribution"]
        for low, high, count in rows:
            stars = "*" * (_STARS * count // most if most else 0)
            lines.append(f"{low:>10} -> {high:<10}  : {count:<8} |{stars:<{_STARS}}|")
        found = "  ".join(f"{name} {value:.4g}" for name, value in self.percentiles().items())
        lines.append(f"{self.total} events, {self.unit}: {found}")
        return "\n".join(lines) + "\n"


class Distributions:
    """Read a session's histograms: since the start, or since the last reading."""

    def __init__(self, session: Session, tool: Shape) -> None:
        self._session = session
        self._tool = tool
        self._earlier: dict[bytes, Mapping[int, int]] = {}
        self._keyed = bool(session.request.variables().get("hist_keyed"))
        name = tool.histograms + ("_by" if self._keyed else "")
        self._map = session.maps[name]
        assert session.opened
        self._members = session.opened.members(session.maps[tool.histograms + "_by"].key)
        key_type = next(m for m in self._members if m.name == "key").meaning
        self._key_members = session.opened.members(key_type)

    def read(self, since_last: bool = False) -> list[Histogram]:
        """Return the histograms that have events, the keys in ascending order."""
        slots = self._read_keyed() if self._keyed else self._read_single()
        found = []
        for key, counts in sorted(slots.items()):
            histogram = Histogram(self._describe(key), self._session.request.unit, counts)
            if since_last:
                histogram = histogram.minus(self._earlier.get(key, {}))
            if histogram.slots:
                found.append(histogram)
        if since_last:
            self._earlier = dict(slots)
        return found

    def _read_single(self) -> dict[bytes, dict[int, int]]:
        cpus = lib.shim_cpus()
        size = _SLOTS * 8
        counts: dict[int, int] = {}
        for _, value in read_map(self._session.handle, self._map, size * cpus):
            numbers = memoryview(value).cast("Q")
            for at in range(_SLOTS * cpus):
                if numbers[at]:
                    counts[at % _SLOTS] = counts.get(at % _SLOTS, 0) + numbers[at]
        return {b"": counts}

    def _read_keyed(self) -> dict[bytes, dict[int, int]]:
        slot_member = next(m for m in self._members if m.name == "slot")
        found: dict[bytes, dict[int, int]] = {}
        for key, value in read_map(self._session.handle, self._map, 8):
            slot = slot_member.unpack(key)
            found.setdefault(key[: slot_member.offset], {})[slot] = int.from_bytes(value, "little")
        return found

    def _describe(self, key: bytes) -> dict[str, Any]:
        """Return the members of a key that tell histograms apart, as names where there are any."""
        described: dict[str, Any] = {}
        if not key:
            return described
        for column in self._tool.keys:
            if not self._session.request.values.get(column.header.lower()):
                continue
            member = next(m for m in self._key_members if m.name == column.member)
            kind = column.kind or (MEANINGS[member.meaning].text if member.meaning in MEANINGS else "")
            if kind == "chars":
                raw = key[member.offset : member.offset + member.size]
                described[column.member] = raw.split(b"\0")[0].decode("utf-8", "surrogateescape")
            elif kind in TABLES:
                described[column.member] = TABLES[kind][1].find(member.unpack(key))
            else:
                described[column.member] = member.unpack(key)
        return described


def _heading(histogram: Histogram, ascii_only: bool) -> str:
    import os

    shown = (f"{k} = {escape(os.fsencode(str(v)), ascii_only)}" for k, v in histogram.key.items())
    return ", ".join(shown)


def _ticks(session: Session, start: float) -> Iterator[float | None]:
    """Yield the time of each report; None for one that only Ctrl-C brings."""
    interval, count, duration = (
        session.request.interval,
        session.request.count,
        session.request.duration,
    )
    end = start + duration if duration else None
    number = 0
    while interval and (not count or number < count):
        number += 1
        at = start + number * interval
        if end is not None and at >= end:
            break
        yield at
    if not interval or (end is not None and not (count and number >= count)):
        yield end


def run(session: Session, tool: Shape, output: Output, stop: Stop) -> dict[str, int]:
    """Print histograms at each interval, or at the end; return what to say at the end."""
    request = session.request
    distributions = Distributions(session, tool)
    events = 0
    for at in _ticks(session, time.monotonic()):
        while not stop.asked:
            left = -1 if at is None else max(0, int((at - time.monotonic()) * 1000 + 0.999))
            status = lib.shim_wait(session.handle, stop.wake, output.watched, -1, left)
            if status == _EPIPE:
                raise ReaderGone
            if at is not None and time.monotonic() >= at:
                break
        found = distributions.read(since_last=True)
        events += sum(histogram.total for histogram in found)
        _report(request, found, output)
        if stop.asked:
            break
    return {"events": events}


def _report(request: Any, found: list[Histogram], output: Output) -> None:
    now = time.time_ns()
    if request.json:
        for histogram in found:
            described = {"time": now, **histogram.to_json()}
            if request.sample_rate:
                described["sample_rate"] = request.sample_rate
            output.text(json.dumps(described) + "\n")
        return
    lines = []
    if request.time or request.timestamps:
        lines.append(time.strftime("%H:%M:%S\n", time.localtime(now // 10**9)))
    for histogram in found:
        if histogram.key:
            lines.append(f"{_heading(histogram, output.ascii)}\n")
        if request.sample_rate:
            lines.append(f"sampled 1/{request.sample_rate}\n")
        lines.append(histogram.text(fine=bool(request.verbose)) + "\n")
    if not found:
        lines.append("no events\n")
    output.text("".join(lines))

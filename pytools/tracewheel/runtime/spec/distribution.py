# SPDX-License-Identifier: BSD-2-Clause
"""Distributions as values that merge: log-linear histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.host.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


SLOTS = 496  # HIST_SLOTS of hist.bpf.h
SUM_SLOT = SLOTS  # HIST_SUM
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


def difference(later: Mapping[int, int], earlier: Mapping[int, int]) -> dict[int, int]:
    """Return what came since an earlier reading."""
    counts = {slot: count - earlier.get(slot, 0) for slot, count in later.items()}
    return {slot: count for slot, count in counts.items() if count}

# SPDX-License-Identifier: BSD-2-Clause
"""Log-linear histograms, as values that can be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.host.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


SLOTS = 496  # HIST_SLOTS of hist.bpf.h
SUM_SLOT = SLOTS  # HIST_SUM
_STARS = 40  # of the longest bar
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def slot_bounds(slot: int) -> tuple[int, int]:
    """Return the lower bound of a slot and that of the next one, in 1/1024 of the unit.

    The first 16 slots hold one value each. Behind them each power of two has 8 slots.
    """
    if slot < 16:
        return slot, slot + 1
    power, step = divmod(slot - 16, 8)
    width = 1 << (power + 1)
    low = (8 + step) * width
    return low, low + width


class Histogram(NamedTuple):
    """A distribution: how many events fell into each log-linear slot.

    ``key`` tells which events it is of (all of them if it is empty), ``unit`` is the unit of the
    values, and ``slots`` maps slot numbers to counts. Values are right within 6.25 %. Their
    ``sum`` is exact; it is None unless it was asked for.
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
        """The mean value; None if the sum is not known, and 0 without events."""
        return None if self.sum is None else self.sum / max(1, self.total)

    @property
    def buckets(self) -> list[tuple[float, float, int]]:
        """Lower bound, upper bound and count of each slot that has events, in ascending order."""
        found = []
        for slot, count in sorted(self.slots.items()):
            low, high = slot_bounds(slot)
            found.append((low / 1024, high / 1024, count))
        return found

    def percentile(self, percent: float) -> float:
        """Return the value that ``percent`` of the events do not exceed; 0 without events."""
        # In thousandths of a percent, because floating point numbers would not be exact.
        rank, remainder = divmod(self.total * round(percent * 1000), 100_000)
        if remainder or rank == 0:
            rank += 1
        passed = 0
        for low, high, count in self.buckets:
            passed += count
            if passed >= rank:
                # Sizes are mostly powers of two, with which slots begin.
                return low if self.unit == "bytes" else (low + high) / 2
        return 0.0

    def percentiles(self) -> dict[str, float]:
        """Return p50, p90, p99, p99.9 and max."""
        return {name: self.percentile(percent) for name, percent in PERCENTILES.items()}

    def merge(self, other: Histogram) -> Histogram:
        """Return the distribution of the events of both. Raises UsageError if the units differ."""
        if self.unit != other.unit:
            raise UsageError(f"cannot merge histograms: one is in {self.unit}, one in {other.unit}")
        slots = dict(self.slots)
        for slot, count in other.slots.items():
            slots[slot] = slots.get(slot, 0) + count
        both = None if self.sum is None or other.sum is None else self.sum + other.sum
        return self._replace(slots=slots, sum=both)

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints, without the time."""
        summed = {} if self.sum is None else {"sum": self.sum, "average": self.average}
        return {
            **self.key,
            "unit": self.unit,
            "count": self.total,
            **summed,
            "percentiles": self.percentiles(),
            "buckets": self.buckets,
        }

    def rows(self) -> list[tuple[int, int, int]]:
        """Return a row for each power of two: first value, last value and count.

        Sizes in bytes have none below the first that has events.
        """
        counts: dict[int, int] = {}  # by the bits that the values of a row have
        for slot, count in self.slots.items():
            low, _ = slot_bounds(slot)
            bits = max(1, (low // 1024).bit_length())  # 0 and 1 share a row
            counts[bits] = counts.get(bits, 0) + count
        found = []
        # Devices transfer sectors: the rows of a few bytes would always be empty.
        first_bits = min(counts, default=1) if self.unit == "bytes" else 1
        for bits in range(first_bits, max(counts, default=0) + 1):
            first = 1 << (bits - 1) if bits > 1 else 0
            last = (1 << bits) - 1
            found.append((first, last, counts.get(bits, 0)))
        return found

    def text(self, fine: bool = False) -> str:
        """Return the rows with bars of stars, and the percentiles below.

        ``fine`` gives a row to each slot instead of each power of two.
        """
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
    """Return a value with three digits, or more if it is 1000 or above."""
    return f"{value:.0f}" if value >= 100 else f"{round(value, 3):.3g}"


def difference(later: Mapping[int, int], earlier: Mapping[int, int]) -> dict[int, int]:
    """Return the counts of the slots that have grown since an earlier reading."""
    counts = {slot: count - earlier.get(slot, 0) for slot, count in later.items()}
    return {slot: count for slot, count in counts.items() if count}

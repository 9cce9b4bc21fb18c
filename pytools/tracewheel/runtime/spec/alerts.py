# SPDX-License-Identifier: BSD-2-Clause
"""The conditions of --alert, and the earlier histograms that --baseline compares with."""

from __future__ import annotations

import json
import operator
import os
import re
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.distribution import SLOTS, Histogram, slot_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


_BASELINE_MOST = 64 << 20  # bytes
_CONDITION = re.compile(
    r"(?P<what>p\d\d?(?:\.\d{1,3})?|max|avg|count)\s*"
    r"(?P<operator>[<>]=?)\s*"
    r"(?P<limit>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>\w*)"
)
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# How much each unit that a condition may have is in the unit of a histogram.
CONDITION_UNITS: dict[str, dict[str, float]] = {
    "usecs": {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6},
    "msecs": {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3},
    "kbytes": {"B": 1 / 1024, "K": 1, "M": 1024},
    "bytes": {"B": 1, "K": 1 << 10, "M": 1 << 20},
}
# Members of the JSON object of a histogram that are not members of its key.
_NOT_OF_KEY = {
    "time",
    "unit",
    "count",
    "sum",
    "average",
    "percentiles",
    "buckets",
    "sample_rate",
    "baseline",
}
Key = frozenset[tuple[str, Any]]


class Condition(NamedTuple):
    """A condition of --alert, such as p99>10ms."""

    text: str
    what: str  # count, avg, max or pNN
    operator: str
    limit: float
    unit: str  # of the limit; empty for a count

    def value(self, histogram: Histogram) -> float | None:
        """Return what is compared, in the histogram's unit; None if there are no events."""
        if self.what == "count":
            return histogram.total
        if not histogram.slots or self.what == "avg":
            return histogram.average
        if self.what == "max":
            return histogram.percentile(100)
        return histogram.percentile(float(self.what.removeprefix("p")))

    def is_true(self, histogram: Histogram) -> bool:
        """Tell whether the condition is true of a histogram; it never is without a value."""
        value = self.value(histogram)
        if value is None:
            return False
        limit = self.limit
        if self.unit:
            limit *= CONDITION_UNITS[histogram.unit][self.unit]
        compare: Callable[[float, float], bool] = _OPERATORS[self.operator]
        return compare(value, limit)


def parse_condition(text: str) -> Condition:
    """Return a condition such as p99>10ms. Raises UsageError."""
    found = _CONDITION.fullmatch(text.strip())
    if found:
        condition = Condition(
            text.strip(), found["what"], found["operator"], float(found["limit"]), found["unit"]
        )
        is_count = condition.what == "count"
        if is_count != bool(condition.unit):  # every limit has a unit, but that of a count
            return condition
    raise UsageError(f"expected a condition such as 'p99>10ms' or 'count<100', not {text!r}")


def key_of(histogram: Histogram) -> Key:
    """Return a key by which a histogram can be found among those of another run."""
    # A container has another cgroup each time that it is started.
    return frozenset((name, value) for name, value in histogram.key.items() if name != "cgroup")


def parse_baseline(path: str) -> Mapping[Key, Histogram]:
    """Return the histograms of a file that --json wrote, with all reports of a key merged.

    Raises UsageError.
    """
    slot_of = {slot_bounds(slot)[0] / 1024: slot for slot in range(SLOTS)}
    merged: dict[Key, Histogram] = {}
    try:
        for line in _read_bounded(path).rstrip("\n").split("\n"):
            found = json.loads(line)
            if "summary" in found:
                continue
            histogram = _histogram_of(found, slot_of)
            key = key_of(histogram)
            merged[key] = merged[key].merge(histogram) if key in merged else histogram
        if not merged:
            raise ValueError
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UsageError(
            f"cannot read {path}: it does not contain histograms as --json writes them"
        ) from None
    return merged


def _read_bounded(path: str) -> str:
    """Return the text of a regular file or a pipe. Raises UsageError, as others may have no end."""
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise UsageError(f"cannot read {path}: it is neither a regular file nor a pipe")
        data = file.read(_BASELINE_MOST + 1)
    if len(data) > _BASELINE_MOST:
        raise UsageError(f"cannot read {path}: it has more than {_BASELINE_MOST >> 20} MB")
    return data.decode()


def _histogram_of(found: dict[str, Any], slot_of: Mapping[float, int]) -> Histogram:
    """Return a histogram from its JSON object. ``slot_of`` has the slots by their lower bounds.

    Raises ValueError, or whatever a wrong type leads to.
    """
    key = {name: value for name, value in found.items() if name not in _NOT_OF_KEY}
    slots = {slot_of[low]: int(count) for low, _, count in found["buckets"]}
    histogram = Histogram(key, found["unit"], slots)
    if histogram.unit not in CONDITION_UNITS or min(slots.values()) < 1:
        raise ValueError
    return histogram


def check_units(
    conditions: Iterable[Condition], baseline: Mapping[Key, Histogram], unit: str
) -> None:
    """Raise UsageError if conditions or a baseline do not go with histograms in UNIT."""
    known = CONDITION_UNITS[unit]
    for condition in conditions:
        if condition.unit and condition.unit not in known:
            raise UsageError(
                f"--alert: no unit {condition.unit!r}: the units are {', '.join(known)}"
            )
    for histogram in baseline.values():
        if histogram.unit != unit:
            raise UsageError(f"--baseline: the file is in {histogram.unit}, not in {unit}")

# SPDX-License-Identifier: BSD-2-Clause
"""What --alert watches for, and what --baseline compares with."""

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
    from collections.abc import Iterable, Mapping


_BASELINE_MOST = 64 << 20  # bytes
_CLAIM = re.compile(r"(p\d\d?(?:\.\d{1,3})?|max|avg|count)\s*([<>]=?)\s*(\d+(?:\.\d+)?)\s*(\w*)")
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# The units of claims in each unit of histograms.
CLAIM_UNITS: dict[str, dict[str, float]] = {
    "usecs": {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6},
    "msecs": {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3},
    "kbytes": {"B": 1 / 1024, "K": 1, "M": 1024},
}
# What --json says of a histogram; the rest is its key.
_NO_KEYS = {"time", "unit", "count", "sum", "average", "percentiles", "buckets", "sample_rate",
            "baseline"}  # fmt: skip
Key = frozenset[tuple[str, Any]]


class Condition(NamedTuple):
    """What --alert watches for."""

    text: str
    what: str
    operator: str
    limit: float
    unit: str

    def value(self, histogram: Histogram) -> float | None:
        """Return what is compared; None without events."""
        if self.what == "count":
            return histogram.total
        if not histogram.slots or self.what == "avg":
            return histogram.average
        return histogram.percentile(100 if self.what == "max" else float(self.what[1:]))

    def is_true(self, histogram: Histogram) -> bool:
        """Tell whether a report is as the condition says."""
        value = self.value(histogram)
        limit = self.limit * (CLAIM_UNITS[histogram.unit][self.unit] if self.unit else 1)
        return value is not None and _OPERATORS[self.operator](value, limit)


def parse_condition(text: str) -> Condition:
    """Return a condition such as p99>10ms."""
    found = _CLAIM.fullmatch(text.strip())
    if not found or (found[1] == "count") != (not found[4]):
        raise UsageError(f"expected a claim such as 'p99>10ms' or 'count<100', not {text!r}")
    return Condition(text.strip(), found[1], found[2], float(found[3]), found[4])


def key_of(histogram: Histogram) -> Key:
    """Return what tells a histogram from others of its run, and is the same in another run."""
    # A container has another cgroup each time that it is started.
    return frozenset(item for item in histogram.key.items() if item[0] != "cgroup")


def parse_baseline(path: str) -> Mapping[Key, Histogram]:
    """Return the histograms of a file, the reports of each key merged."""
    slot_of = {slot_bounds(slot)[0] / 1024: slot for slot in range(SLOTS)}
    merged: dict[Key, Histogram] = {}
    try:
        for line in _read_bounded(path).rstrip("\n").split("\n"):
            found = json.loads(line)
            if "summary" in found:
                continue
            key = {name: value for name, value in found.items() if name not in _NO_KEYS}
            slots = {slot_of[low]: int(count) for low, _, count in found["buckets"]}
            histogram = Histogram(key, found["unit"], slots)
            if histogram.unit not in CLAIM_UNITS or min(slots.values()) < 1:
                raise ValueError
            earlier = merged.get(key_of(histogram))
            merged[key_of(histogram)] = earlier.merge(histogram) if earlier else histogram
        if not merged:
            raise ValueError
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UsageError(f"{path} is not what --json prints of a histogram") from None
    return merged


def _read_bounded(path: str) -> str:
    """Return the text of a regular file, or of a pipe: what else there is may have no end."""
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise UsageError(f"cannot read {path}: it is neither a file nor a pipe")
        data = file.read(_BASELINE_MOST + 1)
    if len(data) > _BASELINE_MOST:
        raise UsageError(f"cannot read {path}: it has more than {_BASELINE_MOST >> 20} MB")
    return data.decode()


def check_units(
    conditions: Iterable[Condition], baseline: Mapping[Key, Histogram], unit: str
) -> None:
    """Raise UsageError for a unit that the histograms, which are in UNIT, do not have."""
    known = CLAIM_UNITS[unit]
    for condition in conditions:
        if condition.unit and condition.unit not in known:
            raise UsageError(f"--alert: no unit {condition.unit!r}: there are {', '.join(known)}")
    for histogram in baseline.values():
        if histogram.unit != unit:
            raise UsageError(f"--baseline: is in {histogram.unit}, not in {unit}")

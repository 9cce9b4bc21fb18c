# SPDX-License-Identifier: BSD-2-Clause
"""Histograms beside those of another run, and beside what they are not to reach."""

from __future__ import annotations

import json
import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.errors import UsageError, say
from tracewheel.runtime.histogram import SLOTS, Histogram, heading, short, slot_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracewheel.runtime.options import Request

_CLAIM = re.compile(r"(p\d\d?(?:\.\d{1,3})?|max|avg|count)\s*([<>]=?)\s*(\d+(?:\.\d+)?)\s*(\w*)")
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# The units of claims in each unit of histograms.
_UNITS: dict[str, dict[str, float]] = {
    "usecs": {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6},
    "msecs": {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3},
    "kbytes": {"B": 1 / 1024, "K": 1, "M": 1024},
}
# What --json says of a histogram; the rest is its key.
_NO_KEYS = {"time", "unit", "count", "sum", "average", "percentiles", "buckets", "sample_rate",
            "baseline"}  # fmt: skip
_Key = frozenset[tuple[str, Any]]


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
        limit = self.limit * (_UNITS[histogram.unit][self.unit] if self.unit else 1)
        return value is not None and _OPERATORS[self.operator](value, limit)


def parse_condition(text: str) -> Condition:
    """Return a condition such as p99>10ms."""
    found = _CLAIM.fullmatch(text.strip())
    if not found or (found[1] == "count") != (not found[4]):
        raise UsageError(f"expected a claim such as 'p99>10ms' or 'count<100', not {text!r}")
    return Condition(text.strip(), found[1], found[2], float(found[3]), found[4])


def _key(histogram: Histogram) -> _Key:
    # A container has another cgroup each time that it is started.
    return frozenset(item for item in histogram.key.items() if item[0] != "cgroup")


def parse_baseline(path: str) -> Mapping[_Key, Histogram]:
    """Return the histograms of a file, the reports of each key merged."""
    slot_of = {slot_bounds(slot)[0] / 1024: slot for slot in range(SLOTS)}
    merged: dict[_Key, Histogram] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                found = json.loads(line)
                if "summary" in found:
                    continue
                key = {name: value for name, value in found.items() if name not in _NO_KEYS}
                slots = {slot_of[low]: int(count) for low, _, count in found["buckets"]}
                histogram = Histogram(key, found["unit"], slots)
                if histogram.unit not in _UNITS or min(slots.values()) < 1:
                    raise ValueError
                earlier = merged.get(_key(histogram))
                merged[_key(histogram)] = earlier.merge(histogram) if earlier else histogram
        if not merged:
            raise ValueError
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UsageError(f"{path} is not what --json prints of a histogram") from None
    return merged


def check(request: Request) -> None:
    """Raise UsageError for a unit that the histograms do not have."""
    for condition in request.alert or ():
        if condition.unit and condition.unit not in _UNITS[request.unit]:
            known = ", ".join(_UNITS[request.unit])
            raise UsageError(f"--alert: no unit {condition.unit!r}: there are {known}")
        if condition.what == "avg":
            request.values["extension"] = True
    for histogram in (request.baseline or {}).values():
        if histogram.unit != request.unit:
            raise UsageError(f"--baseline: is in {histogram.unit}, not in {request.unit}")


def describe(baseline: Mapping[_Key, Histogram], histogram: Histogram) -> dict[str, Any] | None:
    """Return what --json says of a histogram's baseline; None where it has none."""
    before = baseline.get(_key(histogram))
    if not before:
        return None
    now, then = histogram.percentiles(), before.percentiles()
    difference = {name: now[name] - value for name, value in then.items()}
    return {"count": before.total, "percentiles": then, "difference": difference}


def text(baseline: Mapping[_Key, Histogram], histogram: Histogram) -> str:
    """Return the lines that a report has below a histogram."""
    found = describe(baseline, histogram)
    if not found:
        return "no baseline\n"
    then = "  ".join(f"{name} {short(value)}" for name, value in found["percentiles"].items())
    change = "  ".join(
        f"{name} {100 * more / found['percentiles'][name]:+.0f} %"
        for name, more in found["difference"].items()
    )
    return f"baseline {found['count']}  {then} {histogram.unit}\nchange  {change}\n"


def alert(name: str, request: Request, found: list[Histogram], whole: bool) -> int:
    """Say which conditions are true of a report; one that was cut short cannot count too few."""
    told = 0
    for histogram in found or [Histogram({}, request.unit, {})]:
        for condition in request.alert:
            judged = whole or condition.what != "count" or condition.operator[0] == ">"
            if judged and condition.is_true(histogram):
                told += 1
                value = short(condition.value(histogram) or 0)
                unit = f" {histogram.unit}" if condition.unit else ""
                where = f" ({heading(histogram, True)})" if histogram.key else ""
                say(f"{name}: alert: {condition.text}: {condition.what} is {value}{unit}{where}")
    return told

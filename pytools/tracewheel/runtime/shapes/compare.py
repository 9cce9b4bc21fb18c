# SPDX-License-Identifier: BSD-2-Clause
"""Histograms beside those of another run, and against the limits of --alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracewheel.runtime.host.errors import say
from tracewheel.runtime.show.meaning import describe_key
from tracewheel.runtime.spec.alerts import Key, key_of
from tracewheel.runtime.spec.distribution import Histogram, short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracewheel.runtime.spec.request import Request


def describe(baseline: Mapping[Key, Histogram], histogram: Histogram) -> dict[str, Any] | None:
    """Return what --json says of a histogram's baseline; None where it has none."""
    before = baseline.get(key_of(histogram))
    if not before:
        return None
    now, then = histogram.percentiles(), before.percentiles()
    difference = {name: now[name] - value for name, value in then.items()}
    return {"count": before.total, "percentiles": then, "difference": difference}


def text(baseline: Mapping[Key, Histogram], histogram: Histogram) -> str:
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
                where = f" ({describe_key(histogram.key, True)})" if histogram.key else ""
                say(f"{name}: alert: {condition.text}: {condition.what} is {value}{unit}{where}")
    return told

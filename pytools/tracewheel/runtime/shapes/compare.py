# SPDX-License-Identifier: BSD-2-Clause
"""Compare histograms with those of an earlier run, and with the conditions of --alert."""

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
    """Return the member "baseline" of a histogram's JSON object, None without a baseline."""
    before = baseline.get(key_of(histogram))
    if not before:
        return None
    now, then = histogram.percentiles(), before.percentiles()
    difference = {name: now[name] - value for name, value in then.items()}
    return {"count": before.total, "percentiles": then, "difference": difference}


def text(baseline: Mapping[Key, Histogram], histogram: Histogram) -> str:
    """Return the lines about the baseline that stand below a histogram."""
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
    """Say which conditions are true of a report; return how many there are.

    ``whole`` is false for a report that was cut short. It may have too few events by that alone.
    """
    alerts = 0
    histograms = found or [Histogram({}, request.unit, {})]
    for histogram in histograms:
        for condition in request.alert:
            is_about_few = condition.what == "count" and condition.operator.startswith("<")
            can_be_judged = whole or not is_about_few
            if can_be_judged and condition.is_true(histogram):
                alerts += 1
                value = short(condition.value(histogram) or 0)
                unit = f" {histogram.unit}" if condition.unit else ""
                where = f" ({describe_key(histogram.key, True)})" if histogram.key else ""
                say(f"{name}: alert: {condition.text}: {condition.what} is {value}{unit}{where}")
    return alerts

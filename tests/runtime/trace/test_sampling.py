# SPDX-License-Identifier: BSD-2-Clause
"""Samples are missing only where a CPU was busy, beyond what chance explains."""

from __future__ import annotations

import os
import time

import pytest
from tracewheel.runtime.host.cpus import read_idle_ns
from tracewheel.runtime.trace.sampling import RunTime, count_unsampled

CASES = {
    "a CPU that was busy all the time": ((1000, 0, 900, 900), 100),
    "an idle CPU whose clock does not tick": ((1000, 1000, 0, 0), 0),
    "an idle CPU whose clock ticks": ((1000, 1000, 1000, 0), 0),
    "half of it busy, nothing missing": ((1000, 500, 500, 500), 0),
    "half of it busy, the clock ticks when idle, too": ((1000, 500, 1000, 500), 0),
    "half of it busy, as chance has it": ((1000, 500, 470, 470), 0),
    "half of it busy, half of that missing": ((1000, 500, 250, 250), 250),
    "more idle than it ran, by rounding": ((1000, 1001, 0, 0), 0),
    "more samples than ticks": ((1000, 0, 1001, 1001), 0),
    "no clock has run": ((0, 0, 0, 0), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_missing_samples(case: str) -> None:
    """Samples missing on an idle CPU are not losses; samples missing on a busy one are."""
    (ticks, idle_ticks, samples, busy_samples), expected = CASES[case]
    times = [RunTime(ticks * 10**6, idle_ticks * 10**6)]
    assert expected == count_unsampled(
        times, 1000, samples=samples, busy_samples=busy_samples, unsure=2
    )


def test_idle_time_of_a_busy_cpu() -> None:
    """A CPU is not idle while a process runs on it, as that process knows."""
    allowed = os.sched_getaffinity(0)
    cpu = min(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        before, begin, ran = read_idle_ns()[cpu], time.monotonic_ns(), time.process_time_ns()
        while time.process_time_ns() < ran + 300_000_000:
            pass
        took = time.monotonic_ns() - begin
        idle = read_idle_ns()[cpu] - before
    finally:
        os.sched_setaffinity(0, allowed)

    assert 0 <= idle <= took - 300_000_000 + 20_000_000  # /proc/stat counts hundredths of a second

# SPDX-License-Identifier: BSD-2-Clause
"""The clock of events, and how it relates to the time of day."""

from __future__ import annotations

import time


def boot_time_ns() -> int:
    """Return the time since the boot, in ns: the clock of ev_time."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_to_epoch_ns() -> int:
    """Return the ns to add to CLOCK_BOOTTIME for the time since 1970.

    The clocks are read one after the other, a few times; the quickest reading is the most exact.
    """
    readings = [(boot_time_ns(), time.time_ns(), boot_time_ns()) for _ in range(5)]
    before, epoch, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return epoch - (before + after) // 2


def tick_ns() -> int:
    """Return how long a jiffy is, in ns: the coarse clocks advance by one at a time."""
    clock_monotonic_coarse = 6
    return round(time.clock_getres(clock_monotonic_coarse) * 1e9)

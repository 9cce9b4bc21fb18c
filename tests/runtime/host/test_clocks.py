# SPDX-License-Identifier: BSD-2-Clause
"""Clocks relate to each other as the kernel says."""

from __future__ import annotations

import time

from tracewheel.runtime.host.clocks import boot_time_ns, boot_to_epoch_ns


def test_clocks() -> None:
    """The offset turns the clock of records into the time of day."""
    before = time.time_ns()
    now = boot_time_ns() + boot_to_epoch_ns()

    assert before - 1_000_000 <= now <= time.time_ns() + 1_000_000

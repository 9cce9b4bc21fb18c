# SPDX-License-Identifier: BSD-2-Clause
"""Columns and options that many tools have alike."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_milliseconds
from tracewheel.runtime.spec.shapes import Column, Option

# Who acts: for records that put_current_task() of filter.bpf.h has filled.
WHO = (
    Column("PID", "pid", 7),
    Column("TID", "tid", 7, hidden=True),
    Column("UID", "uid", 6, hidden=True),
    Column("COMM", "comm", 16),
)
PRINT_UID = Option(("-U", "--print-uid"), "show the user's id (UID)", shows=("UID",))


def min_ms(what: str) -> Option:
    """Return the option for the least duration of what is traced, which sets least_ns."""
    return Option(
        ("-m", "--min-ms"),
        f"trace only {what} that took at least this many milliseconds",
        parse_milliseconds,
        "MSEC",
        sets="least_ns",
    )

# SPDX-License-Identifier: BSD-2-Clause
"""Columns and options that many tools have alike."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import (
    parse_milliseconds,
    parse_processes,
    parse_seconds,
)
from tracewheel.runtime.spec.shapes import SHOW, STOP, Column, Option

# Who acts: for records that put_current_task() of filter.bpf.h has filled.
WHO = (
    Column("PID", "pid", 7),
    Column("TID", "tid", 7, hidden=True),
    Column("UID", "uid", 6, hidden=True),
    Column("COMM", "comm", 16),
)
# For tools whose first column is the time of day, as TIME.
DATE = Option(
    ("-t", "--timestamps"),
    "show the date and milliseconds as well (TIME)",
    numbers_column="TIME",
)
# Of tools that trace system calls alone.
NO_IO_URING = "What a process has io_uring do is not seen, because it is no system call."
UNTIMED = (
    "How long a call took is not known, and MS is -, if it began before the tracing did, or if "
    "more threads than --max-entries have made such calls"
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


def pid_or(other: str) -> Option:
    """Return the option -p that is --pid with an argument, and another option without one."""
    return Option(
        ("-p",),
        f"without a number, the same as --{other}; with one or more, the same as --pid",
        parse_processes,
        "PID",
        optional=True,
        switches_on=other,
        passes_to="pid",
    )


def interval_with(others: str, *flags: str) -> Option:
    """Return the option for intervals of a tool that has reports only with other options.

    Its flags are -i and --interval, if there are no others.
    """
    return Option(
        flags or ("-i", "--interval"),
        f"with {others}, print a report every SEC seconds",
        parse_seconds,
        "SEC",
        group=STOP,
    )


def count_only(what: str) -> Option:
    """Return the option to count events instead of showing each; it sets count_only.

    ``what`` says by what they are counted: "connects by addresses and port".
    """
    return Option(
        ("-c", "--totals", "--count"),
        f"count {what} instead of showing each",
        sets="count_only",
        group=SHOW,
    )

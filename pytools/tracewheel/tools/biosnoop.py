# SPDX-License-Identifier: BSD-2-Clause
"""Trace block device I/O: each request, who made it, how long it took."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_disk, parse_processes, parse_seconds
from tracewheel.runtime.spec.shapes import Column, Option, Stream


def _milliseconds(text: str) -> float:
    return parse_seconds(text) * 1_000_000


tool = Stream(
    ring="ios",
    pending=("begun",),
    skips_in_rows=("issue", "complete"),  # as requests that wait, or never end
    columns=(
        Column("TIME(s)", "time", 14, kind="seconds"),
        Column("COMM", "comm", 15),
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("PPID", "ppid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("CGROUP", "cgroup", 8, hidden=True),
        Column("DISK", "disk", 8),
        Column("T", "flags", 4, kind="rwbs"),
        Column("OPERATION", "operation", 12, hidden=True),
        Column("FLAGS", "flags", 16, hidden=True),
        Column("SECTOR", "sector", 10),
        Column("BYTES", "bytes", 7),
        Column("TRIES", "tries", 5, hidden=True),
        Column("ERR", "error", 9, kind="errno", hidden=True),
        Column("QUE(ms)", "queued", 7, hidden=True),
        Column("LAT(ms)", "latency", 7),
    ),
    options=(
        Option(("-q", "-Q", "--queued"), "show how long a request waited until its issue",
               shows=("QUE(ms)",)),
        Option(("-d", "--disk"), "only this disk", parse_disk, "NAME",
               sets="filter_disk"),
        Option(("-p",), "as --process; with a number as --pid", parse_processes, "PID",
               optional=True, switches_on="process", passes_to="pid"),
        Option(("--process",), "show thread, parent, user and cgroup: of the process, or the one "
               "that wrote the data", shows=("TID", "PPID", "UID", "CGROUP", "CONTAINER")),
        Option(("-m", "--min"), "only requests that took so many milliseconds, LAT(ms)",
               _milliseconds, "MSEC", sets="least_ns"),
        Option(("-x", "--failed"), "only requests that failed, and why; EINPROGRESS: not "
               "ended when tracing ends", sets="failed_only",
               shows=("ERR",)),
        Option(("-F", "--flags"), "show the operation and its flags as the kernel names them",
               shows=("OPERATION", "FLAGS")),
    ),
    container=True,
    examples=(
        ("biosnoop", "trace all requests"),
        ("biosnoop -q", "with the time until each was issued to the device"),
        ("biosnoop -d sda -m 10", "of one disk, those that took 10 ms or more"),
        ("biosnoop -p", "with parent, user and cgroup"),
        ("biosnoop -p 1234 -x", "of one process, those that failed"),
    ),
    overhead="a request costs 0.5 microseconds more, of the tens or hundreds that it takes.",
)  # fmt: skip

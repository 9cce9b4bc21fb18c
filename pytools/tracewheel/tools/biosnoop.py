# SPDX-License-Identifier: BSD-2-Clause
"""Trace block device I/O: each request, who made it, how long it took."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_milliseconds
from tracewheel.runtime.spec.block import device_options
from tracewheel.runtime.spec.common import pid_or
from tracewheel.runtime.spec.shapes import TRACE, Column, Option, Stream

tool = Stream(
    ring="ios",
    pending=("begun",),
    skips_in_rows=("issue", "complete", "bio_end"),  # they show as requests that wait, or never end
    columns=(
        Column("TIME(s)", "time", 14, kind="seconds"),
        Column("COMM", "comm", 15),
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("PPID", "ppid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("CGROUP", "cgroup", 8, hidden=True),
        Column("DISK", "disk", 8),
        Column(
            "T",
            "flags",
            4,
            kind="rwbs",
            help="the kind of the request, by the kernel's letters: R for a read, W for a write",
        ),
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
        Option(
            ("-q", "-Q", "--queued"),
            "show how long each request waited before it was issued to the device (QUE(ms))",
            shows=("QUE(ms)",),
        ),
        *device_options("start", "issue", "complete"),
        pid_or("process"),
        Option(
            ("--process",),
            "show the thread, parent and user of each process (TID, PPID, UID), and the cgroup "
            "and container of the process that wrote the data (CGROUP, CONTAINER)",
            shows=("TID", "PPID", "UID", "CGROUP", "CONTAINER"),
        ),
        Option(
            ("-m", "--min"),
            "trace only requests that took at least this many milliseconds (LAT(ms))",
            parse_milliseconds,
            "MSEC",
            sets="least_ns",
        ),
        Option(
            ("-x", "--failed"),
            "trace only requests that failed, and show the error (ERR); EINPROGRESS means that "
            "the request had not ended when tracing ended",
            sets="failed_only",
            shows=("ERR",),
            group=TRACE,
        ),
        Option(
            ("-F", "--flags"),
            "show the operation and its flags, as the kernel names them (OPERATION, FLAGS)",
            shows=("OPERATION", "FLAGS"),
        ),
    ),
    container=True,
    examples=(
        ("biosnoop", "trace all requests"),
        ("biosnoop -q", "show how long each waited before its issue"),
        ("biosnoop -d sda -m 10", "trace one disk, requests of 10 ms or more"),
        ("biosnoop -p", "show parent, user and cgroup as well"),
        ("biosnoop -p 1234 -x", "trace the failed requests of one process"),
    ),
    overhead="Each request takes 0.5 microseconds longer, in addition to tens or hundreds.",
    rungs={
        "bio_end": "of a request merged from bios that another device sent on, the first 64 end "
        "with it; later ones are shown with EINPROGRESS",
    },
)

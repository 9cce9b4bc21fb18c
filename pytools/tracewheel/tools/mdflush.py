# SPDX-License-Identifier: BSD-2-Clause
"""Trace flushes of md arrays: who asks for them, how long they take."""

from __future__ import annotations

from tracewheel.runtime.spec.block import ARRAY
from tracewheel.runtime.spec.common import DATE, PRINT_UID, count_only, interval_with, min_ms
from tracewheel.runtime.spec.shapes import TRACE, Column, Option, Stream, Top

_OVERHEAD = "Each flush takes about 1 microsecond longer, and any other block I/O 0.2."
_RUNGS = {
    "bio_end": "a write with a flush to a RAID 0 ends with the request of a disk; if it is behind "
    "15 others in that request, it is shown with EINPROGRESS",
}
_SELECT = (
    ARRAY,
    min_ms("flushes"),
    Option(
        ("-x", "--failed"),
        "trace only flushes that failed, and show the error (ERR); EINPROGRESS means that the "
        "flush had not ended when tracing ended",
        sets="failed_only",
        shows=("ERR",),
        group=TRACE,
    ),
    interval_with("-c"),
)
_COUNT = count_only("flushes by process and array")
_COUNTS = Top(
    sums="flushers",
    title="md flushes",
    pending="begun",
    columns=(
        Column("PID", "pid", 7),
        Column("COMM", "comm", 16),
        Column("DEVICE", "device", 12),
        Column("FAILED", "failed", 8),
        Column("TOTAL(ms)", "total", 11),
        Column("MAX(ms)", "longest", 10),
        Column("FLUSHES", "count", 8),
    ),
    options=(*(option._replace(shows=()) for option in _SELECT), _COUNT),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="flushes",
    pending=("begun",),
    skips_in_rows=("bio_end",),  # they show as flushes that never end
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16),
        Column("DEVICE", "device", 12),
        Column("BYTES", "bytes", 7, hidden=True),
        Column("ERR", "error", 11, kind="errno", hidden=True),
        Column("MS", "duration", 9),
    ),
    options=(*_SELECT, _COUNT._replace(as_shape=_COUNTS), DATE, PRINT_UID),
    container=True,
    examples=(
        ("mdflush", "trace all flushes, of arrays that are started later, too"),
        ("mdflush -t", "show the date and milliseconds as well"),
        ("mdflush -m 50 --disk md0", "trace flushes of one array that took 50 ms or more"),
        ("mdflush -c -i 10", "count flushes by process, report every ten seconds"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

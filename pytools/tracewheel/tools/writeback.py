# SPDX-License-Identifier: BSD-2-Clause
"""Trace writeback of dirty pages: how many, to which disk, why, for whom."""

from __future__ import annotations

import os

from tracewheel.runtime.spec.block import WHOLE_DISK
from tracewheel.runtime.spec.common import DATE, interval_with, min_ms, pid_or
from tracewheel.runtime.spec.shapes import SHOW, TRACE, Column, Option, Stream, Top

_PAGES_IN_MIB = (1 << 20) // os.sysconf("SC_PAGESIZE")
_OVERHEAD = (
    "Each round of writeback takes 1 to 2 microseconds longer, in addition to tens or\n"
    "  more. Each work that the kernel puts into any of its work queues takes 0.1\n"
    "  microseconds longer."
)
_RUNGS = {
    "round": "no tracepoint tells what the rescue thread of the flushers writes where memory is "
    "too short to start a flusher",
}
_PROCESS = Option(
    ("--process",),
    "show the flusher, which is the kernel thread that writes (PID, COMM), and the process that "
    "asked for the writeback (RPID, RCOMM), where one did; -p PID, --comm and the like select by "
    "either of them",
    sets="with_requester",
    shows=("PID", "COMM", "RPID", "RCOMM"),
)
_SELECT = (
    pid_or("process"),
    WHOLE_DISK,
    min_ms("rounds of writeback"),
    Option(
        ("--all",),
        "trace rounds of writeback in which no page was written, too; they are usual, because the "
        "flusher also wakes where it then finds nothing that has to be written",
        sets="with_empty",
        group=TRACE,
    ),
    interval_with("-d"),
)
_PER_DEVICE = Option(
    ("-d", "--per-device"),
    "show sums for each device and reason instead of each round of writeback",
    sets="count_only",
    group=SHOW,
)
_DEVICES = Top(
    sums="devices",
    title="writeback",
    pending="begun",
    columns=(
        Column("DEVICE", "device", 10),
        Column("REASON", "reason", 15),
        Column("RPID", "rpid", 7, hidden=True),
        Column("RCOMM", "rcomm", 16, hidden=True),
        Column("ROUNDS", "rounds", 8),
        Column("PAGES", "pages", 10),
        Column("MiB/s", "pages", 10, kind="rate", number=_PAGES_IN_MIB),
        Column("MAX(ms)", "longest", 10),
    ),
    by=slice(1, 2),
    options=(
        *_SELECT,
        _PROCESS._replace(
            help="count separately for each process that asked for writeback (RPID, RCOMM)",
            shows=("RPID", "RCOMM"),
        ),
        _PER_DEVICE,
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="rounds",
    pending=("begun",),
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("DEVICE", "device", 10),
        Column("BDI", "bdi", 8, hidden=True),
        Column("FS", "fs", 10, hidden=True),
        Column("PAGES", "pages", 8),
        Column("REASON", "reason", 15),
        Column("MS", "duration", 10),
        Column("PID", "pid", 7, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("RPID", "rpid", 7, hidden=True),
        Column("RCOMM", "rcomm", 16, hidden=True),
    ),
    options=(
        _PER_DEVICE._replace(as_shape=_DEVICES),
        *_SELECT,
        _PROCESS,
        DATE,
    ),
    container=True,
    notes=("Rounds of writeback in which no page was written are shown only with --all.",),
    examples=(
        ("writeback", "trace all writeback"),
        ("writeback -p", "show who writes, and who asked for it"),
        ("writeback -d -i 5", "show sums for each device and reason, every five seconds"),
        ("writeback --disk sda --min-ms 100", "trace what took 100 ms or more on one disk"),
        ("writeback --all", "trace also the rounds in which no page was written"),
        ("writeback --comm sync", "trace what the command sync asked for"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

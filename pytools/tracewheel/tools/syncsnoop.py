# SPDX-License-Identifier: BSD-2-Clause
"""Trace calls that write data to disk: of which file, how long."""

from __future__ import annotations

from tracewheel.runtime.spec.common import (
    NO_IO_URING,
    PRINT_UID,
    UNTIMED,
    WHO,
    count_only,
    interval_with,
    min_ms,
)
from tracewheel.runtime.spec.shapes import SHOW, Column, Option, Stream, Top

_OVERHEAD = (
    "Each traced call takes about a microsecond longer, and every other system call about\n"
    "  130 ns."
)
_SELECT = (
    Option(("-x", "--failed"), "trace only calls that failed", sets="failed_only"),
    min_ms("calls"),
    interval_with("-c"),
)
_COUNT = count_only("calls by process and call")
_PER_FILE = Option(
    ("--per-file",),
    "with -c, count each file separately, and show its name and inode (FILE, INODE)",
    sets="per_file",
    only_with="totals",
    group=SHOW,
)
_COUNTS = Top(
    sums="callers",
    title="calls that write data to disk",
    columns=(
        Column("PID", "pid", 7),
        Column("COMM", "comm", 16),
        Column("SYSCALL", "syscall", 15),
        Column("FILE", "file", 24, hidden=True),
        Column("INODE", "inode", 9, hidden=True),
        Column("FAILED", "failed", 7),
        Column("MSECS", "lasted", 12),
        Column("CALLS", "calls", 10),
    ),
    options=(*_SELECT, _COUNT, _PER_FILE._replace(shows=("FILE", "INODE"))),
    overhead=_OVERHEAD,
)

tool = Stream(
    ring="syncs",
    columns=(
        *WHO,
        Column("SYSCALL", "syscall", 15),
        Column("MS", "duration", 9),
        Column("ERR", "ret", 9, kind="errno"),
        Column("PATH", "path", 0),
    ),
    options=(
        *_SELECT,
        Option(
            ("--path",),
            "trace only calls for a file whose path matches this glob",
            str,
            "GLOB",
            sets=lambda _: {"by_path": True},
            globs="path",
        ),
        _COUNT._replace(as_shape=_COUNTS),
        _PER_FILE,
        PRINT_UID,
    ),
    stack=True,
    container=True,
    examples=(
        ("syncsnoop", "trace all calls that write data to disk"),
        ("syncsnoop -m 10", "trace calls that took at least 10 milliseconds"),
        ("syncsnoop -c -i 10", "count calls, report every ten seconds"),
        ('syncsnoop --path "/var/lib/postgresql/*"', "trace the files of a database"),
        ("syncsnoop --stack -p 1234", "trace one process, and show stacks"),
    ),
    overhead=_OVERHEAD,
    notes=(
        NO_IO_URING,
        f"{UNTIMED}. With -m, calls of the first kind are left out, and those of the second are "
        "counted as lost. With -c, such calls count, but add nothing to MSECS.",
    ),
)

# SPDX-License-Identifier: BSD-2-Clause
"""Trace kills by the out-of-memory killer: whom, because of whom, and why."""

from __future__ import annotations

from tracewheel.runtime.spec.common import PRINT_UID
from tracewheel.runtime.spec.shapes import Column, Option, Stream

_WITHOUT_REASON = "why the victim was chosen is not seen (CONSTRAINT, ORDER, GFP, DOMAIN)"

tool = Stream(
    ring="kills",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16),
        Column("RSS(MB)", "rss", 9),
        Column("ANON(MB)", "anon", 9, hidden=True),
        Column("FILE(MB)", "file", 9, hidden=True),
        Column("SHMEM(MB)", "shmem", 9, hidden=True),
        Column("SWAP(MB)", "swap", 9, hidden=True),
        Column("TABLES(MB)", "page_tables", 10, hidden=True),
        Column("VIRTUAL(MB)", "virtual", 11, hidden=True),
        Column("ADJ", "score_adj", 5),
        Column("TRIGPID", "trigger_pid", 7),
        Column("TRIGGER", "trigger_comm", 16),
        Column("CONSTRAINT", "constraint", 13, hidden=True),
        Column("ORDER", "order", 5, hidden=True),
        Column("GFP", "gfp", 32, hidden=True),
        Column("DOMAIN(MB)", "domain", 10, hidden=True),
        Column("USED(MB)", "used", 10, hidden=True),
        Column("LIMIT(MB)", "limit", 10, hidden=True),
        Column("GROUP", "group", 5, hidden=True),
        Column("LOADAVG", "load", 17, hidden=True),
        Column("MEMCG", "memcg", 0),
    ),
    options=(
        Option(
            ("-t", "--timestamps"),
            "show the date and milliseconds as well (TIME)",
            numbers_column="TIME",
        ),
        PRINT_UID,
    ),
    stack=True,
    root="trigger_comm",
    container=True,
    examples=(
        ("oomkill", "trace all kills for want of memory"),
        ("oomkill -t", "show the date and milliseconds as well"),
        ("oomkill -v", "show the kinds of memory, limits and load averages as well"),
        ("oomkill --container web", "trace kills in one container"),
        ("oomkill --stack --json", "show where in the kernel memory was wanted, as JSON"),
    ),
    overhead="A kill takes about 30 microseconds longer, any other signal about 80 ns.",
    rungs={"kill__tp_btf": _WITHOUT_REASON, "kill__raw_tp": _WITHOUT_REASON},
)

# SPDX-License-Identifier: BSD-2-Clause
"""Count new processes, threads and execs by the second."""

from __future__ import annotations

from tracewheel.runtime.spec.shapes import SHOW, Column, Counts, Option, Top

_OVERHEAD = "Each fork or exec takes 0.3 microseconds longer, in addition to hundreds."
_PARENTS = Option(
    ("-P", "--by-parent"),
    "show which processes fork and execute most (PID, COMM)",
    sets="per_parent",
    group=SHOW,
)
_TOP = Top(
    sums="parents",
    title="new processes",
    columns=(
        Column("PID", "pid", 7),
        Column("COMM", "comm", 16),
        Column("THREADS/s", "threads", 9, kind="rate"),
        Column("EXECS/s", "execs", 9, kind="rate"),
        Column("PIDS/s", "pids", 9, kind="rate"),
    ),
    options=(_PARENTS,),
    overhead=_OVERHEAD,
)

tool = Counts(
    sums="births",
    title="new processes",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PIDS/s", "pids", 9, kind="rate"),
        Column("THREADS/s", "threads", 9, kind="rate"),
        Column("EXECS/s", "execs", 9, kind="rate"),
    ),
    options=(_PARENTS._replace(as_shape=_TOP),),
    examples=(
        ("pidpersec 1", "print the rates of each second"),
        ("pidpersec -i 5", "print the mean rates of every five seconds"),
        ("pidpersec -P 1", "show which processes fork most, each second"),
        ("pidpersec --follow -p 1234 10 1", "trace a process and its descendants for 10 s"),
    ),
    overhead=_OVERHEAD,
)

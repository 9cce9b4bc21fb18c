# SPDX-License-Identifier: BSD-2-Clause
"""Count new processes, threads and execs by the second."""

from __future__ import annotations

from tracewheel.runtime.spec.shapes import Column, Counts, Option, Top

_OVERHEAD = "a fork or exec, hundreds of microseconds long, costs 0.3 more."
_PARENTS = Option(
    ("-P", "--by-parent"), "which processes fork and execute most", sets="per_parent"
)  # fmt: skip
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
        ("pidpersec 1", "the processes, threads and execs of each second"),
        ("pidpersec -i 5", "their mean rates over five seconds"),
        ("pidpersec -P 1", "who forks most"),
        ("pidpersec --follow -p 1234 10 1", "what a process and its children fork in ten seconds"),
    ),
    overhead=_OVERHEAD,
)

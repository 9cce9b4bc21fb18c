# SPDX-License-Identifier: BSD-2-Clause
"""Show on which CPUs processes run, by samples of what each CPU does."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_cpu, parse_frequency
from tracewheel.runtime.spec.shapes import Column, Option, Top

tool = Top(
    sums="places",
    title="running processes by CPU",
    columns=(
        Column("PID", "pid", 7, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("CPU", "cpu", 4),
        Column("COUNT", "count", 9),
        Column("SHARE(%)", "count", 8, kind="share"),
        Column("DISTRIBUTION", "count", 30, kind="bar"),
    ),
    options=(
        Option(
            ("-F", "--frequency"),
            "take this many samples a second on each CPU (default: 99)",
            parse_frequency,
            "HZ",
            default=99,
        ),
        Option(("-c", "--cpu"), "sample only this CPU", parse_cpu, "CPU"),
        Option(
            ("-P", "--process"),
            "show a row for each process on each CPU (PID, COMM)",
            sets="per_process",
            shows=("PID", "COMM"),
        ),
    ),
    examples=(
        ("cpuwalk", "sample until Ctrl-C, then print a table"),
        ("cpuwalk 1", "print a table each second"),
        ("cpuwalk -P -c 0 10 1", "show what ran on one CPU in ten seconds"),
        ("cpuwalk --per-container 10 1", "show which containers ran on which CPUs"),
        ("cpuwalk -F 999 -p 1234", "sample one process more often"),
    ),
    overhead="In a virtual machine each sample takes up to 20 microseconds, which is 0.2 % of a\n"
    "  CPU at 99 Hz. Idle CPUs wake up for each sample. A CPU that comes online is sampled\n"
    "  within a second.",
    rungs={"sample": "every kernel has this clock, so no other is needed"},
)

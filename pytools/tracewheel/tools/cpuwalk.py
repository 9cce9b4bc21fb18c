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
        Option(("-F", "--frequency"), "samples a second on each CPU (default: 99)",
               parse_frequency, "HZ", default=99),
        Option(("-c", "--cpu"), "sample this CPU only", parse_cpu, "CPU"),
        Option(("-P", "--process"), "count by process and CPU", sets="per_process",
               shows=("PID", "COMM")),
    ),
    examples=(
        ("cpuwalk", "sample until Ctrl-C, then show which CPUs ran processes"),
        ("cpuwalk 1", "the same, each second"),
        ("cpuwalk -P -c 0 10 1", "what ran on one CPU in ten seconds"),
        ("cpuwalk --per-container 10 1", "which containers ran in ten seconds, and where"),
        ("cpuwalk -F 999 -p 1234", "where one process runs, sampled more often"),
    ),
    overhead="a sample takes up to 20 microseconds in a virtual machine, 0.2 % of a CPU at 99 Hz;\n"
    "  CPUs that are idle wake up for it. One that comes online is sampled within a second.",
    rungs={"sample": "every kernel has its own clock, and it measures time"},
)  # fmt: skip

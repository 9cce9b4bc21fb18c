# SPDX-License-Identifier: BSD-2-Clause
"""Show how long threads wait for a CPU, as a histogram."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count, parse_cpu
from tracewheel.runtime.spec.shapes import Histogram, Option


def _microseconds(text: str) -> int:
    return parse_count(text, 1) * 1000


tool = Histogram(
    histograms="waits",
    title="run queue latency",
    options=(
        Option(("--hist",), "print histograms, as is done anyway"),
        Option(("-c", "--cpu"), "only waits that ended on this CPU", parse_cpu, "CPU",
               sets="filter_cpu"),
        Option(("--min",), "only waits of at least this many microseconds", _microseconds, "USEC",
               sets="least_ns"),
        Option(("-P", "--pids"), "a histogram for each process", shows=("pid", "comm"),
               sets="per_process"),
        Option(("-L", "--tids"), "a histogram for each thread", shows=("tid", "comm"),
               sets="per_thread"),
        Option(("-C", "--per-cpu"), "a histogram for each CPU", shows=("cpu",),
               sets="per_cpu"),
        Option(("--pidnss",), "a histogram for each PID namespace", shows=("pidns",),
               sets="per_pidns"),
    ),
    examples=(
        ("runqlat", "trace until Ctrl-C, then print the waits in microseconds"),
        ("runqlat 1 10", "print ten times, once a second"),
        ("runqlat -c 0", "on one CPU"),
        ("runqlat -P --min 1000", "which processes waited for a millisecond or more"),
        ("runqlat --per-container", "the tasks of which container wait how long"),
        ("runqlat --cgroup /system.slice", "of the tasks of one cgroup"),
    ),
    overhead="a wake-up and the switch that follows cost 0.3 microseconds more.",
)  # fmt: skip

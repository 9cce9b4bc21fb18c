# SPDX-License-Identifier: BSD-2-Clause
"""Show how long threads wait for a CPU, as a histogram."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count, parse_cpu
from tracewheel.runtime.spec.shapes import SHOW, Histogram, Option


def _microseconds(text: str) -> int:
    return parse_count(text, 1) * 1000


tool = Histogram(
    histograms="waits",
    title="run queue latency",
    options=(
        Option(("--hist",), "print a histogram (the default)", group=SHOW),
        Option(
            ("-c", "--cpu"),
            "trace only waits that ended on this CPU",
            parse_cpu,
            "CPU",
            sets="filter_cpu",
        ),
        Option(
            ("--min",),
            "trace only waits of at least this many microseconds",
            _microseconds,
            "USEC",
            sets="least_ns",
        ),
        Option(
            ("-P", "--pids"),
            "show a histogram for each process",
            shows=("pid", "comm"),
            sets="per_process",
        ),
        Option(
            ("-L", "--tids"),
            "show a histogram for each thread",
            shows=("tid", "comm"),
            sets="per_thread",
        ),
        Option(
            ("-C", "--per-cpu"), "show a histogram for each CPU", shows=("cpu",), sets="per_cpu"
        ),
        Option(
            ("--pidnss",),
            "show a histogram for each PID namespace",
            shows=("pidns",),
            sets="per_pidns",
        ),
    ),
    examples=(
        ("runqlat", "trace until Ctrl-C, then print a histogram"),
        ("runqlat 1 10", "print ten reports, one each second"),
        ("runqlat -c 0", "trace one CPU"),
        ("runqlat -P --min 1000", "show which processes waited for 1 ms or more"),
        ("runqlat --per-container", "show a histogram for each container"),
        ("runqlat --cgroup /system.slice", "trace the tasks of one cgroup"),
    ),
    overhead="Each wake-up with the switch that follows it takes 0.3 microseconds longer.",
)

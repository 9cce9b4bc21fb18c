# SPDX-License-Identifier: BSD-2-Clause
"""Show how long threads are off the CPU, and by which stack they left it."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count
from tracewheel.runtime.spec.shapes import SHOW, Option, Stacks


def _microseconds(text: str) -> int:
    return parse_count(text, 1) * 1000


def _states(text: str) -> int:
    return parse_count(text, 0, 2**32 - 1)


tool = Stacks(
    sums="sleeps",
    begins="begins",
    title="off-CPU time by stack",
    options=(
        Option(
            ("-L", "--tids"),
            "show the threads of a process separately",
            sets="per_thread",
            group=SHOW,
        ),
        Option(("--user-threads-only",), "trace no kernel threads", sets="user_threads_only"),
        Option(
            ("-k", "--kernel-threads-only"), "trace only kernel threads", sets="kernel_threads_only"
        ),
        Option(
            ("--state",),
            "trace only threads that left the CPU in one of these states, given as a bit mask: "
            "1 is interruptible, 2 is uninterruptible; 0 selects threads that could have run on",
            _states,
            "MASK",
            sets="wanted_states",
        ),
        Option(
            ("-m", "--min"),
            "trace only times off the CPU of at least this many microseconds",
            _microseconds,
            "USEC",
            sets="least_ns",
        ),
        Option(
            ("-M", "--max"),
            "trace only times off the CPU of at most this many microseconds",
            _microseconds,
            "USEC",
            sets="most_ns",
        ),
    ),
    examples=(
        ("offcputime", "trace until Ctrl-C, then print kernel stacks and times"),
        ("offcputime 5", "trace for 5 seconds"),
        ("offcputime -p 1234", "trace one process"),
        ("offcputime -u", "print the user stacks as well"),
        ("offcputime --state 2 -m 1000", "trace uninterruptible sleeps of 1 ms or more"),
        ("offcputime -f -o stacks.txt 10", "write folded stacks, for flame graphs"),
    ),
    overhead="Each switch between threads takes 1.3 microseconds longer, or 1.8 with -u.",
)

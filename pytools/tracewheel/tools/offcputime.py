# SPDX-License-Identifier: BSD-2-Clause
"""Show how long threads are off the CPU, and by which stack they left it."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count
from tracewheel.runtime.spec.shapes import Option, Stacks


def _microseconds(text: str) -> int:
    return parse_count(text, 1) * 1000


def _states(text: str) -> int:
    return parse_count(text, 0, 2**32 - 1)


tool = Stacks(
    sums="sleeps",
    begins="begins",
    title="off-CPU time by stack",
    options=(
        Option(("-L", "--tids"), "tell the threads of a process apart", sets="per_thread"),
        Option(("--user-threads-only",), "no threads of the kernel", sets="user_threads_only"),
        Option(("-k", "--kernel-threads-only"), "only threads of the kernel",
               sets="kernel_threads_only"),
        Option(("--state",), "only threads that left in one of these states, a bit mask: "
               "1 interruptible, 2 uninterruptible; 0: could have run on", _states, "MASK",
               sets="wanted_states"),
        Option(("-m", "--min"), "only times of at least this many microseconds", _microseconds,
               "USEC", sets="least_ns"),
        Option(("-M", "--max"), "only times of at most this many microseconds", _microseconds,
               "USEC", sets="most_ns"),
    ),
    examples=(
        ("offcputime", "trace until Ctrl-C, then print kernel stacks and times"),
        ("offcputime 5", "trace for 5 seconds"),
        ("offcputime -p 1234", "of one process"),
        ("offcputime -u", "with the stacks of programs, too"),
        ("offcputime --state 2 -m 1000", "uninterruptible for a millisecond or more"),
        ("offcputime -f -o stacks.txt 10", "a line a stack, as flame graph programs read them"),
    ),
    overhead="a switch between threads costs 1.3 microseconds more, with -u 1.8.",
)  # fmt: skip

# SPDX-License-Identifier: BSD-2-Clause
"""Count system calls: by call, by process, by error."""

from __future__ import annotations

from tracewheel.runtime.host import syscalls
from tracewheel.runtime.spec.arguments import parse_error, parse_process
from tracewheel.runtime.spec.shapes import Column, Histogram, Option, Top

_KNOWN_MOST = 2048  # of syscount.bpf.c


def _wanted(calls: tuple[frozenset[int], ...]) -> dict[str, object]:
    bits = {call % 2**31 for same in calls for call in same}  # x32's are those of x86-64
    wanted = sum(1 << bit for bit in bits if bit < _KNOWN_MOST)
    return {"some_wanted": True, "wanted": wanted.to_bytes(_KNOWN_MOST // 8, "little")}


_SELECT = (
    Option(("-x", "--failed"), "only calls that failed", sets="failed_only", enables=("exit",),
           disables=("enter",)),
    Option(("-e", "--errno"), "only calls that failed with this error", parse_error,
           "ERRNO", sets="wanted_error", enables=("exit",), disables=("enter",)),
    Option(("--syscall",), "only this call; may be repeated", syscalls.parse, "NAME",
           sets=_wanted, repeat=True),
    Option(("--ppid",), "only children of this process", parse_process, "PPID",
           sets="wanted_ppid"),
)  # fmt: skip
_HIST = Option(("--hist",), "show how long calls took as histograms, with -m in milliseconds",
               sets=lambda _: {"timed": True, "as_histogram": True},
               enables=("exit", "enter", "gone"))  # fmt: skip
_OVERHEAD = "any system call costs 30 to 50 ns more, with -P or -B up to 170, with -L some 200."
_LATENCIES = Histogram(
    histograms="latencies",
    title="system call latency",
    options=(*_SELECT, _HIST._replace(shows=("syscall",))),
    overhead=_OVERHEAD,
)

tool = Top(
    sums="calls",
    indexed=("calls_only", "syscall"),
    title="system calls",
    top=10,
    columns=(
        Column("PID", "pid", 7, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("SYSCALL", "syscall", 24),
        Column("ERROR", "error", 16, kind="errno", hidden=True),
        Column("COUNT", "count", 12),
        Column("USECS", "lasted", 16, number=1_000, hidden=True),
        Column("MSECS", "lasted", 16, number=1_000_000, hidden=True),
    ),
    options=(
        Option(("-P", "--process"), "count by process, not by call", shows=("PID", "COMM"),
               hides=("SYSCALL",),
               sets=lambda _: {"per_process": True, "without_syscall": True}),
        Option(("-B", "--both"), "count by process and call", shows=("PID", "COMM"),
               sets=lambda _: {"per_process": True}),
        *_SELECT,
        Option(("--errors",), "only calls that failed, apart by their error", shows=("ERROR",),
               sets=lambda _: {"failed_only": True, "per_error": True}, enables=("exit",),
               disables=("enter",)),
        Option(("-L", "--latency"), "the microseconds that calls took, until they returned",
               sets="timed", shows=("USECS",), enables=("exit", "enter", "gone")),
        Option(("-m", "--milliseconds"), "the same in milliseconds", shows=("MSECS",),
               hides=("USECS",), sets=lambda _: {"timed": True}, enables=("exit", "enter", "gone")),
        _HIST._replace(as_shape=_LATENCIES),
        Option(("-l", "--list"), "list the calls that have a name, and exit",
               lists=syscalls.listed),
    ),
    short={"top": "-T"},
    examples=(
        ("syscount -i 1", "the ten most frequent calls, each second"),
        ("syscount -P", "which processes make the most calls, until Ctrl-C"),
        ("syscount -L -p 1234", "in which calls one process spends its time"),
        ("syscount --errors -T 20", "which calls fail, and why"),
        ("syscount --hist --syscall fsync --per-container", "how long fsync takes, and where"),
        ("syscount -B --syscall futex 5 3", "who calls futex, three times in 15 seconds"),
    ),
    overhead=_OVERHEAD,
)  # fmt: skip

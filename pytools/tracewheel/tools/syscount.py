# SPDX-License-Identifier: BSD-2-Clause
"""Count system calls: by call, by process, by error."""

from __future__ import annotations

from tracewheel.runtime.host import syscalls
from tracewheel.runtime.spec.arguments import parse_error, parse_process
from tracewheel.runtime.spec.shapes import DIAGNOSIS, SHOW, TRACE, Column, Histogram, Option, Top

_KNOWN_MOST = 2048  # KNOWN_MOST of syscount.bpf.c
_X32 = 1 << 31  # X32 of syscount.bpf.c: x32 calls are counted with those of x86-64


def _wanted(calls: tuple[frozenset[int], ...]) -> dict[str, object]:
    """Return a set of bits, one for each ev_syscall that is wanted."""
    wanted = 0
    for variants in calls:  # the native, 32-bit and x32 calls of one name
        for call in variants:
            bit = call % _X32
            if bit < _KNOWN_MOST:
                wanted |= 1 << bit
    return {"some_wanted": True, "wanted": wanted.to_bytes(_KNOWN_MOST // 8, "little")}


_SELECT = (
    Option(
        ("-x", "--failed"),
        "trace only calls that failed",
        sets="failed_only",
        enables=("exit",),
        disables=("enter",),
    ),
    Option(
        ("-e", "--errno"),
        "trace only calls that failed with this error, such as ENOENT",
        parse_error,
        "ERRNO",
        sets="wanted_error",
        enables=("exit",),
        disables=("enter",),
    ),
    Option(
        ("--syscall",),
        "trace only this system call; may be repeated",
        syscalls.parse,
        "NAME",
        sets=_wanted,
        repeat=True,
    ),
    Option(
        ("--ppid",),
        "trace only children of this process",
        parse_process,
        "PPID",
        sets="wanted_ppid",
    ),
)
_HIST = Option(
    ("--hist",),
    "show histograms of how long calls took; with -m, in milliseconds",
    sets=lambda _: {"timed": True, "as_histogram": True},
    enables=("exit", "enter", "gone"),
    group=SHOW,
)
_OVERHEAD = (
    "Each system call takes 30 to 50 ns longer, with -P or -B up to 170 ns, and with -L\n"
    "  about 200 ns."
)
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
        Option(
            ("-P", "--process"),
            "count by process instead of by call (PID, COMM)",
            shows=("PID", "COMM"),
            hides=("SYSCALL",),
            sets=lambda _: {"per_process": True, "without_syscall": True},
        ),
        Option(
            ("-B", "--both"),
            "count by process and by call (PID, COMM)",
            shows=("PID", "COMM"),
            sets=lambda _: {"per_process": True},
        ),
        *_SELECT,
        Option(
            ("--errors",),
            "trace only calls that failed, and count each error separately (ERROR)",
            shows=("ERROR",),
            sets=lambda _: {"failed_only": True, "per_error": True},
            enables=("exit",),
            disables=("enter",),
            group=TRACE,
        ),
        Option(
            ("-L", "--latency"),
            "show how many microseconds the calls took until they returned (USECS)",
            sets="timed",
            shows=("USECS",),
            enables=("exit", "enter", "gone"),
        ),
        Option(
            ("-m", "--milliseconds"),
            "show how many milliseconds the calls took until they returned (MSECS)",
            shows=("MSECS",),
            hides=("USECS",),
            sets=lambda _: {"timed": True},
            enables=("exit", "enter", "gone"),
        ),
        _HIST._replace(as_shape=_LATENCIES),
        Option(
            ("-l", "--list"),
            "print the number and name of each system call, and exit",
            lists=syscalls.listed,
            group=DIAGNOSIS,
        ),
    ),
    short={"top": "-T"},
    examples=(
        ("syscount -i 1", "print the ten most frequent calls each second"),
        ("syscount -P", "show which processes make the most calls"),
        ("syscount -L -p 1234", "show in which calls a process spends time"),
        ("syscount --errors -T 20", "show which calls fail, and their errors"),
        (
            "syscount --hist --syscall fsync --per-container",
            "show how long fsync takes in each container",
        ),
        ("syscount -B --syscall futex 5 3", "show who calls futex, 3 times every 5 s"),
    ),
    overhead=_OVERHEAD,
)

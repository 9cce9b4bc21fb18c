# SPDX-License-Identifier: BSD-2-Clause
"""Count system calls: by call, by process, by error."""

from __future__ import annotations

from collections.abc import Iterable

from tracewheel.runtime import kernel, meaning, syscalls
from tracewheel.runtime.errors import UsageError
from tracewheel.runtime.shapes import Column, Option, Top

_KNOWN_MOST = 2048  # of syscount.bpf.c


def _listed() -> Iterable[str]:
    return (f"{(known >> 1) % 2**30:>4} {name}" for known, name in syscalls.names().items())


def _call(text: str) -> str:
    if not any(name.rpartition(":")[2] == text for name in syscalls.names().values()):
        raise UsageError(f"no system call {text!r}: --list has them all")
    return text


def _wanted(calls: tuple[str, ...]) -> dict[str, object]:
    """Select calls by name, the 32-bit ones too."""
    every = syscalls.names().items()
    bits = {known % 2**31 for known, name in every if name.rpartition(":")[2] in calls}
    wanted = sum(1 << bit for bit in bits if bit < _KNOWN_MOST)
    return {"some_wanted": True, "wanted": wanted.to_bytes(_KNOWN_MOST // 8, "little")}


def _error(text: str) -> int:
    numbers = {name: number for number, name in meaning.error_names().items()}
    return numbers[text] if text in numbers else kernel.parse_count(text, 1, 4095)


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
        Option(("-x", "--failed"), "only calls that failed", sets="failed_only",
               enables=("exit",), spares=("enter",)),
        Option(("-e", "--errno"), "only calls that failed with this error", _error, "ERRNO",
               sets="wanted_error", enables=("exit",), spares=("enter",)),
        Option(("--errors",), "only calls that failed, apart by their error", shows=("ERROR",),
               sets=lambda _: {"failed_only": True, "per_error": True}, enables=("exit",),
               spares=("enter",)),
        Option(("-L", "--latency"), "the microseconds that calls took, until they returned",
               sets="timed", shows=("USECS",), enables=("exit", "enter")),
        Option(("-m", "--milliseconds"), "the same in milliseconds", shows=("MSECS",),
               hides=("USECS",), sets=lambda _: {"timed": True}, enables=("exit", "enter")),
        Option(("--syscall",), "only this call; may be repeated", _call, "NAME", sets=_wanted,
               repeat=True),
        Option(("--ppid",), "only children of this process", kernel.parse_process, "PPID",
               sets="wanted_ppid"),
        Option(("-l", "--list"), "list the calls that have a name, and exit", lists=_listed),
    ),
    short={"top": "-T"},
    examples=(
        ("syscount -i 1", "the ten most frequent calls, each second"),
        ("syscount -P", "which processes make the most calls, until Ctrl-C"),
        ("syscount -L -p 1234", "in which calls one process spends its time"),
        ("syscount --errors -T 20", "which calls fail, and why"),
        ("syscount -B --syscall futex 5 3", "who calls futex, three times in 15 seconds"),
    ),
    overhead="any system call costs some 80 ns more, with -L some 300.",
)  # fmt: skip

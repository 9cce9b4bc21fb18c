# SPDX-License-Identifier: BSD-2-Clause
"""Count file system operations: reads, writes, opens and the like."""

from __future__ import annotations

from tracewheel.runtime.spec.shapes import Column, Counts, Option

_APPROXIMATE = "approximate: system calls are counted, not the kernel's own operations"


def _rate(header: str, member: str, hidden: bool = False) -> Column:
    return Column(header, member, 8, kind="rate", hidden=hidden)


tool = Counts(
    sums="calls",
    title="file system operations",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        _rate("READ/s", "read"),
        _rate("WRITE/s", "write"),
        _rate("FSYNC/s", "fsync"),
        _rate("OPEN/s", "open"),
        _rate("CREATE/s", "create"),
        _rate("UNLINK/s", "unlink"),
        _rate("MKDIR/s", "mkdir"),
        _rate("RMDIR/s", "rmdir"),
        _rate("STAT/s", "stat", hidden=True),
        _rate("RENAME/s", "rename", hidden=True),
        _rate("LINK/s", "link", hidden=True),
        _rate("SYMLINK/s", "symlink", hidden=True),
        _rate("READDIR/s", "readdir", hidden=True),
    ),
    options=(
        Option(
            ("--extra",),
            "count stat, rename, link, symlink and readdir as well",
            enables=("extra",),
            shows=("STAT/s", "RENAME/s", "LINK/s", "SYMLINK/s", "READDIR/s"),
        ),
    ),
    examples=(
        ("vfsstat 1", "print the rates of each second"),
        ("vfsstat 10 3", "print the mean rates of ten seconds, 3 times"),
        ("vfsstat --extra -p 1234", "count more kinds, of one process"),
        ("vfsstat --per-container 1", "print the rates of each container"),
        ("vfsstat -j 1", "print counts instead of rates, as JSON"),
    ),
    overhead="Where the tool can attach to functions, only the operations that it counts take\n"
    "  longer. Where it has to count system calls, each of them takes about 25 ns longer.",
    rungs={
        f"{ladder}__{rung}": _APPROXIMATE
        for ladder in ("calls", "extra")
        for rung in ("tp_btf", "raw_tp")
    },
)

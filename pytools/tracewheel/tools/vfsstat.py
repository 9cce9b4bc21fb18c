# SPDX-License-Identifier: BSD-2-Clause
"""Count file system operations: reads, writes, opens and the like."""

from __future__ import annotations

from tracewheel.runtime.spec.shapes import Column, Counts, Option

_APPROXIMATE = "approximate: counts system calls, not what the kernel does by itself"


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
        Option(("--extra",), "also stat, rename, link, symlink and readdir", enables=("extra",),
               shows=("STAT/s", "RENAME/s", "LINK/s", "SYMLINK/s", "READDIR/s")),
    ),
    examples=(
        ("vfsstat 1", "the operations of each second"),
        ("vfsstat 10 3", "their mean rates over ten seconds, three times"),
        ("vfsstat --extra -p 1234", "those of one process until Ctrl-C, with more kinds"),
        ("vfsstat --per-container 1", "those of each container"),
        ("vfsstat -j 1", "as numbers, not as rates"),
    ),
    overhead="where it counts system calls, any of them costs some 25 ns more; attached to\n"
    "  functions it costs nothing but the operations that it counts.",
    rungs={
        f"{ladder}__{rung}": _APPROXIMATE
        for ladder in ("calls", "extra") for rung in ("tp_btf", "raw_tp")
    },
)  # fmt: skip

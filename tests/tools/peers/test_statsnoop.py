# SPDX-License-Identifier: BSD-2-Clause
"""Beside statsnoop of others ours shows the same calls, and those that they lack."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from tests.tools.peers.conftest import ME, script

if TYPE_CHECKING:
    from pathlib import Path

CALLS = 23
# What is done until a peer shows it, and when all else is done.
FIRST, LAST = "/first-of-all", "/last-of-all"
# As x86-64 has them.
NUMBERS = {"stat": 4, "fstat": 5, "lstat": 6, "newfstatat": 262, "statx": 332}
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Make a call by its number, with a buffer for "buffer"."""
    buffer = ctypes.create_string_buffer(4096)
    given = [buffer if a == "buffer" else a for a in arguments]
    LIBC.syscall(NUMBERS[name], *(ctypes.c_long(a) if isinstance(a, int) else a for a in given))


def knock(path: str) -> None:
    """Make a call that all show."""
    call("lstat", os.fsencode(path), "buffer")


def rows_since(rows: list[list[str]], path: str) -> list[list[str]]:
    """Return what comes behind the process and its name, from the first row of a path to LAST."""
    mine = [row[2:] for row in rows if row[:1] == [ME]]
    begin = next(at for at, row in enumerate(mine) if row[-1] == path)
    end = next(at for at, row in enumerate(mine) if row[-1] == LAST)
    return mine[begin:end]


def test_statsnoop(trace: Any, beside: Any, tmp_path: Path) -> None:
    """All show the same calls where they trace them.

    bpftrace traces neither newfstatat, which C libraries call, nor newfstat. bcc does not trace
    newfstat, and shows no path for a descriptor. libbpf-tools adds a slash to such a path if the
    call takes a path as well.
    """
    (tmp_path / "there").touch()
    there, missing = str(tmp_path / "there"), str(tmp_path / "missing")
    mine = ["-p", ME]
    peers = beside(
        ("statsnoop-libbpf", *mine),
        ("statsnoop-bpfcc", *mine),
        script("statsnoop.bt"),
        shows=FIRST,
        act=lambda: knock(FIRST),
    )
    ours = trace("statsnoop", *mine, "-F")
    fd = os.open(there, os.O_RDONLY)
    for _ in range(CALLS):
        for path in (there, missing):
            call("stat", os.fsencode(path), "buffer")
            call("statx", -100, os.fsencode(path), 0, 0x7FF, "buffer")
            call("newfstatat", -100, os.fsencode(path), "buffer", 0)
        call("fstat", fd, "buffer")
        call("newfstatat", fd, b"", "buffer", 0x1000)
    knock(LAST)
    for each in peers:
        each.wait_for(LAST)
    ours.end()
    os.close(fd)

    found, missed = ["0", "0", there], ["-1", "2", missing]
    by_path = [*[found] * 3, *[missed] * 3]
    ours_missed = ["-1", "ENOENT", missing]
    libbpf, bcc, bpftrace = (rows_since(each.rows(), there) for each in peers)
    assert CALLS * [*[found] * 3, *[ours_missed] * 3, found, found] == rows_since(ours.rows, there)
    assert CALLS * [*by_path, found, ["0", "0", f"{there}/"]] == libbpf
    assert CALLS * [*by_path, ["0", "0"]] == bcc
    assert CALLS * [*[["0", there]] * 2, *[["2", missing]] * 2] == bpftrace

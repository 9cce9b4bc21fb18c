# SPDX-License-Identifier: BSD-2-Clause
"""Beside syncsnoop of others ours shows the same calls, with their files and times."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Any

from tests.tools.peers.conftest import script

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 7
LIBC = ctypes.CDLL(None, use_errno=True)


def test_syncsnoop(trace: Any, beside: Any, called: Any, tmp_path: Path) -> None:
    """All show the same calls in the same order; only ours shows of which files, and how long."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, mmap.PAGESIZE)
    with called(b"sync-caller"):
        peers = beside(
            ("syncsnoop-libbpf",),
            ("syncsnoop-bpfcc",),
            script("syncsnoop.bt"),
            shows="sync-caller",
            act=lambda: os.fdatasync(fd),
        )
        ours = trace("syncsnoop", "--comm", "sync-caller", "--json")
        expected = []
        memory = mmap.mmap(fd, mmap.PAGESIZE)
        for _ in range(ROUNDS):
            os.fsync(fd)
            LIBC.syncfs(fd)
            LIBC.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 2)
            memory.flush()
            expected += ["fsync", "syncfs", "sync_file_range", "msync"]
        os.sync()
        expected.append("sync")
        for each in peers:
            each.wait_for(r"[ _]sync\s")
        ours.end()
        shown = [each.rows() for each in peers]

    assert expected == [row["syscall"] for row in ours.json]
    assert {str(tmp_path / "file"), None} == {row["path"] for row in ours.json}
    for rows in shown:
        # bpftrace shows the name of the tracepoint.
        calls = [row[-1].rpartition("sys_enter_")[2] for row in rows if "sync-caller" in row]
        assert expected == [name for name in calls if name != "fdatasync"]

# SPDX-License-Identifier: BSD-2-Clause
"""Beside bpftrace's writeback, the only other one."""

from __future__ import annotations

from typing import Any

from tests.tools.peers.conftest import script

PAGES = (53, 41, 7)


def test_writeback(trace: Any, beside: Any, file_system: Any) -> None:
    """Both show the rounds of each sync; only ours shows how many pages were written.

    bpftrace shows the low 16 bits of how many pages were still to be written, and names the disk
    by its number.
    """
    for pages in (*PAGES, 1):
        file_system.file(pages)

    def write(pages: int) -> None:
        file_system.dirty(pages)
        file_system.sync()

    ours = trace("writeback", "--all", "--disk", file_system.disk, "--json")
    (theirs,) = beside(script("writeback.bt"), shows=r" sync +\d", act=lambda: write(1))
    for pages in PAGES:
        write(pages)
    rows = [row for row in ours.end().json if row["reason"] == "sync"]
    pages_written = [row["pages"] for row in rows]
    last = rows[pages_written.index(PAGES[0]) :]
    shown = [row for row in theirs.rows() if len(row) == 5 and row[3] == "sync"]
    of_disk = [row for row in shown if row[1] == rows[0]["bdi"]]

    assert list(PAGES) == [row["pages"] for row in last if row["pages"]]
    assert len(last) <= len(of_disk) <= len(rows)
    assert not {str(pages) for pages in PAGES} & {row[2] for row in of_disk[-len(last) :]}

# SPDX-License-Identifier: BSD-2-Clause
"""Processes, threads and execs made here are counted, each once."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

FORKS, THREADS, EXECS = 23, 17, 13
MINE = ("--follow", "-p", str(os.getpid()), "--json")


def act() -> None:
    """Make them."""
    for number in range(FORKS):
        child = os.fork()
        if not child and number < EXECS:
            os.execv("/bin/true", ["true"])
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    for _ in range(THREADS):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def counts(tool: Any, *pids: int) -> tuple[int, int, int]:
    """Return the sums of all rows, or of those of some processes."""
    rows = [row for row in tool.json if not pids or row["pid"] in pids]
    pids_, threads, execs = (sum(r[k] for r in rows) for k in ("pids", "threads", "execs"))
    return pids_, threads, execs


@pytest.mark.parametrize("interval", [[], ["0.05"]])
def test_each_rung_counts_every_birth(trace: Any, rungs_of: Any, interval: list[str]) -> None:
    """Every way of tracing tells processes from threads, and all reports together have each."""
    rungs = rungs_of("pidpersec", "birth")
    assert ["tp_btf", "raw_tp"] == rungs
    for rung in rungs:
        tool = trace("pidpersec", *MINE, *interval, "--rung", f"birth={rung}")
        act()
        tool.end()

        assert (FORKS, THREADS, EXECS) == counts(tool)
        assert tool.summary["events"] == FORKS + THREADS + EXECS
        assert 0 == tool.summary["lost"]


def test_parents_apart(trace: Any) -> None:
    """-P tells who forked, and who executed."""
    tool = trace("pidpersec", *MINE, "-P")
    act()
    tool.end()

    assert (FORKS, THREADS, 0) == counts(tool, os.getpid())
    assert (FORKS, THREADS, EXECS) == counts(tool)
    assert {"true"} == {row["comm"] for row in tool.json if row["execs"]}

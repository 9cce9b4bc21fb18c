# SPDX-License-Identifier: BSD-2-Clause
"""killsnoop beside the tools of others that trace signals."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from typing import Any

from tests.tools.peers.conftest import ME, script
from tests.tools.test_killsnoop import CALLS, NOBODY, kill

PRIME = 11
SENT, FIRST, LAST = signal.SIGURG, signal.SIGWINCH, signal.SIGCONT  # a process ignores them


def test_killsnoop(trace: Any, beside: Any) -> None:
    """All show the same signals of kill(2); failures, threads, queues and pidfds only some.

    bcc traces kill() alone, bpftrace tkill() and tgkill() as well, but nothing that is sent to the
    own group, 0. libbpf-tools' sigsnoop shows signals by whatever call, but none that only asks
    whether a process exists, none that fails, and for a group each of its processes.
    """
    libc, me = ctypes.CDLL(None), os.getpid()
    info = ctypes.byref((ctypes.c_int * 32)(0, 0, -1))
    peers = beside(
        ("sigsnoop-libbpf", "-p", ME),
        ("killsnoop-bpfcc", "-p", ME),
        script("killsnoop.bt"),
        shows=rf"{ME}.*(SIGWINCH|\b{FIRST:d}\b)",
        act=lambda: kill(me, FIRST),
    )
    ours = trace("killsnoop", "-p", ME, "--json", "-s", "0,URG")
    kills: list[tuple[int, int, int]] = []
    for _ in range(PRIME):
        kills.append((SENT, me, kill(me, SENT)))
        kills.append((0, me, kill(me, 0)))
        kills.append((SENT, NOBODY, kill(NOBODY, SENT)))
        kills.append((0, 0, kill(0, 0)))
    libc.syscall(CALLS["tkill"], me, SENT)
    libc.syscall(CALLS["tgkill"], me, me, SENT)
    libc.syscall(CALLS["rt_sigqueueinfo"], me, SENT, info)
    pidfd = libc.syscall(CALLS["pidfd_open"], me, 0)
    libc.syscall(CALLS["pidfd_send_signal"], pidfd, SENT, None, 0)
    os.close(pidfd)
    kill(me, LAST)
    for each in peers:
        each.wait_for(rf"{ME}.*(SIGCONT|\b{LAST:d}\b)")
    ours.end()
    numbers = {"0": 0, "N/A": 0, "SIGURG": SENT, f"{SENT:d}": SENT}
    rows = [[row for row in each.rows() if ME in row[:3]] for each in peers]
    by_libbpf = [(row[-4], row[-3], row[-1]) for row in rows[0]]
    shown = [by_libbpf, *([(row[-3], row[-2], row[-1]) for row in each] for each in rows[1:])]
    found = [
        [(numbers[s], int(pid), int(ret)) for s, pid, ret in each if s in numbers] for each in shown
    ]

    one = (SENT, me, 0)
    assert {0, -errno.ESRCH} == {ret for *_, ret in kills}
    assert [*kills, *[one] * 4] == [
        (numbers[row["signal"]], row["tpid"], row["ret"]) for row in ours.json
    ]
    assert [one] * (PRIME + 4) == found[0]
    assert kills == found[1]
    assert [*(row for row in kills if row[1]), one, one] == found[2]

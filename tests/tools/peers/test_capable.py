# SPDX-License-Identifier: BSD-2-Clause
"""Beside tools of others ours shows the same checks, each with its process, thread and verdict."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

from tests.tools.peers.conftest import ME, of_me
from tests.tools.test_capable import (
    ALLOWED,
    CHROOT,
    DENIED,
    NOBODY,
    PTRACE,
    READS,
    SETUID,
    change_root,
)

SYS_SETRESUID = 117
FIRST, DRAINED, LAST = "first-of-all", "drained", "last-of-all"


def check() -> None:
    """Have capabilities checked in a thread that changes its user; others keep theirs."""
    for _ in range(ALLOWED):
        change_root()
    ctypes.CDLL(None).syscall(SYS_SETRESUID, NOBODY, NOBODY, NOBODY)
    for _ in range(DENIED):
        change_root()
    fd = os.open(f"/proc/{os.getppid()}/stat", os.O_RDONLY)
    for _ in range(READS):
        os.pread(fd, 4096, 0)


def test_capable(trace: Any, beside: Any, called: Any) -> None:
    """All show the same checks; the process, the thread and what is audited only ours tells right.

    bcc takes the thread for the process: its -p looks for the thread, and with -x each of the two
    is in the other's column. bpftrace shows the options of the check where it says AUDIT, which are
    0 for a check that is audited. libbpf-tools always shows checks that are not audited, too.
    bcc and bpftrace do not see the verdict.
    """

    def knock(name: str) -> None:
        with called(name.encode()):
            change_root()

    peers = beside(
        ("capable-libbpf", "-p", ME),
        ("capable-bpfcc", "-v", "-x"),
        of_me("capable.bt", "kprobe:cap_capable"),
        ("capable-bpfcc", "-p", ME, "-x"),
        shows=FIRST,
        act=lambda: knock(FIRST),
    )
    ours = trace("capable", "-p", ME, "-v", "--json")
    for each in peers:
        # What it has shown meanwhile may have filled its terminal.
        each.wait_for(DRAINED, lambda: knock(DRAINED))
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    for each in peers:
        each.wait_for(LAST, lambda: knock(LAST))
    ours.end()
    tid = str(thread.native_id)
    shown = [
        [row for row in each.rows() if {CHROOT, SETUID, PTRACE} & {*row} and {tid, ME} & {*row}]
        for each in peers
    ]
    libbpf, bcc, bpftrace, bcc_of_me = (
        [row[1:] for row in rows if not {FIRST, DRAINED, LAST} & {*row}] for rows in shown
    )

    # The name of the capability, the options of the check, whether it was allowed.
    checks = [
        *[(CHROOT, 0, True)] * ALLOWED,
        (SETUID, 4, True),
        *[(CHROOT, 0, False)] * DENIED,
        *[(PTRACE, 2, False)] * READS,
    ]
    found = [row for row in ours.json if row["tid"] == thread.native_id]
    assert {os.getpid()} == {row["pid"] for row in found}
    assert [(cap, int(opts != 2), int(opts == 4), allowed) for cap, opts, allowed in checks] == [
        (row["cap"], row["audit"], row["insetid"], row["ret"] == 0)
        for row in found
        if row["cap"] in (CHROOT, SETUID, PTRACE)
    ]
    assert [
        [ME, cap, str(int(opts != 2)), "allow" if ok else "deny"] for cap, opts, ok in checks
    ] == [[row[1], *row[-3:]] for row in libbpf]
    assert [
        [tid, ME, cap, str(int(opts != 2)), str(int(opts == 4))] for cap, opts, _ in checks
    ] == [[*row[1:3], *row[-3:]] for row in bcc]
    assert [[ME, cap, str(opts)] for cap, opts, _ in checks] == [
        [row[1], *row[-2:]] for row in bpftrace
    ]
    assert [] == bcc_of_me

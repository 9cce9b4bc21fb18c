# SPDX-License-Identifier: BSD-2-Clause
"""Processes and threads, as /proc and this PID namespace tell of them."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import (
    TargetGone,
)

_HOST_PIDS = 0xEFFFFFFC  # inode of the first PID namespace: PROC_PID_INIT_INO of Linux


def status_of(task: int | str, field: str) -> list[str]:
    """Return the words of a field of a task's status; none where there is no such task."""
    try:
        with open(f"/proc/{task}/status", errors="surrogateescape") as lines:
            return next((line.split()[1:] for line in lines if line.startswith(f"{field}:")), [])
    except OSError:
        return []


class TaskId(int):
    """The id of a process or thread as this PID namespace tells it."""


def in_pid_namespace() -> bool:
    """Tell whether ids of processes mean less here than on the host."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _HOST_PIDS
    except OSError:
        return False


def watch_process(pid: int) -> int:
    """Return a descriptor that is readable when a process has ended; -1 where there is none.

    Raises TargetGone if it has ended already.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise TargetGone(f"cannot trace process {pid}: it has ended") from None
    except OSError:
        return -1

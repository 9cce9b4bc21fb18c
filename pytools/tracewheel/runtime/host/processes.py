# SPDX-License-Identifier: BSD-2-Clause
"""Processes and threads, as /proc shows them in this PID namespace."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import TargetGone

_HOST_PIDS = 0xEFFFFFFC  # inode of the first PID namespace: PROC_PID_INIT_INO of Linux


def status_of(task: int | str, field: str) -> list[str]:
    """Return the words of a field in /proc/TASK/status; none if the task or field is missing."""
    try:
        with open(f"/proc/{task}/status", errors="surrogateescape") as lines:
            for line in lines:
                if line.startswith(f"{field}:"):
                    return line.split()[1:]
    except OSError:
        pass
    return []


class TaskId(int):
    """The id of a process or thread in the PID namespace of this process."""


def in_pid_namespace() -> bool:
    """Tell whether this process has a PID namespace with other ids than the host's."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _HOST_PIDS
    except OSError:
        return False


def watch_process(pid: int) -> int:
    """Return a descriptor that becomes readable when a process ends.

    Returns -1 if the kernel has no such descriptors. Raises TargetGone if it has ended already.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise TargetGone(f"cannot trace process {pid}: it has ended") from None
    except OSError:
        return -1

# SPDX-License-Identifier: BSD-2-Clause
"""Errors that are shown to users as one line, without a traceback, and their exit codes."""

from __future__ import annotations

import contextlib
import os


class BpfError(Exception):
    """Tracing failed at run time."""

    code = 1


class UsageError(BpfError):
    """An option, its argument or a combination of options is wrong."""

    code = 2


class NotPermitted(BpfError):
    """A capability is missing."""

    code = 3


class NotSupported(BpfError):
    """The kernel lacks what the tool needs."""

    code = 4


class TargetGone(BpfError):
    """The process, disk, CPU or cgroup asked for does not exist."""

    code = 5


def say(line: str) -> None:
    """Print a line on standard error; if it cannot be written, ignore that."""
    with contextlib.suppress(OSError):
        os.write(2, (line + "\n").encode("utf-8", "backslashreplace"))

# SPDX-License-Identifier: BSD-2-Clause
"""What can go wrong, and the exit code of each: one line for the user, no traceback."""

from __future__ import annotations

import contextlib
import os


class BpfError(Exception):
    """Tracing failed at run time."""

    code = 1


class UsageError(BpfError):
    """An option or a combination of options makes no sense."""

    code = 2


class NotPermitted(BpfError):
    """A capability is missing."""

    code = 3


class NotSupported(BpfError):
    """The kernel lacks what the tool needs."""

    code = 4


class TargetGone(BpfError):
    """The process, disk, CPU or cgroup asked for is not there."""

    code = 5


def say(line: str) -> None:
    """Print a line on standard error; if nobody listens, let it be."""
    with contextlib.suppress(OSError):
        os.write(2, (line + "\n").encode("utf-8", "backslashreplace"))

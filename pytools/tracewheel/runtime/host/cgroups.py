# SPDX-License-Identifier: BSD-2-Clause
"""The cgroups of the unified hierarchy."""

from __future__ import annotations

import contextlib
import os

from tracewheel.runtime.host.errors import (
    NotSupported,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def cgroup_root() -> str:
    """Return where the unified cgroup hierarchy is mounted."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return fields.split()[4]
    raise NotSupported("cannot select a cgroup: cgroup2 is needed, and none is mounted")


def cgroups(root: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the id of each cgroup, parents first."""
    for path, _, _ in os.walk(root):
        with contextlib.suppress(FileNotFoundError):  # it has gone while we looked
            yield path, os.stat(path).st_ino


def cgroup_at(path: str, root: str) -> tuple[int, int]:
    """Return (id, depth below the root) of a cgroup."""
    return os.stat(path).st_ino, 0 if path == root else os.path.relpath(path, root).count("/") + 1

# SPDX-License-Identifier: BSD-2-Clause
"""The cgroups of the unified hierarchy."""

from __future__ import annotations

import contextlib
import os

from tracewheel.runtime.host.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def cgroup_root() -> str:
    """Return where the unified cgroup hierarchy is mounted; raise NotSupported if nowhere."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return fields.split()[4]
    raise NotSupported(
        "cannot select a cgroup: no cgroup2 file system is mounted: "
        "mount -t cgroup2 none /sys/fs/cgroup"
    )


def cgroups(root: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the id of each cgroup, parents first."""
    for path, _, _ in os.walk(root):
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            yield path, os.stat(path).st_ino


def cgroup_at(path: str, root: str) -> tuple[int, int]:
    """Return the id of a cgroup and its depth below the root, which itself has depth 0."""
    depth = 0 if path == root else len(os.path.relpath(path, root).split("/"))
    return os.stat(path).st_ino, depth

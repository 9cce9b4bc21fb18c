# SPDX-License-Identifier: BSD-2-Clause
"""Arrays of disks, made by writing to sysfs, as mdadm makes them."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

# Each array has another name: the kernel takes its time to remove one.
_NUMBERS = itertools.count()
_KIB = 8192 // 2  # of each disk


def has_module(name: str) -> bool:
    """Load a module of the kernel, and tell whether it is there; guests have all but NVMe's."""
    name = name.replace("-", "_")
    loaded = subprocess.run(["modprobe", "-q", name], check=False)
    return not loaded.returncode or Path("/sys/module", name).exists()


def load_module(name: str) -> None:
    """Load a module of the kernel, or skip the test."""
    if not has_module(name):
        assert not os.environ.get("TRACEWHEEL_GUEST") or name == "nvme-loop", f"no module {name}"
        pytest.skip(f"needs the kernel module {name}")


def unused_name() -> str:
    """Return a name for an array, which no other has had."""
    return f"md_test{os.getpid()}_{next(_NUMBERS)}"


def start_array(level: str, disks: Sequence[str], name: str = "") -> str:
    """Make an array of these disks, which are given by their names; return its name."""
    name = name or unused_name()
    Path("/sys/module/md_mod/parameters/new_array").write_text(name)
    md = Path("/sys/block", name, "md")
    (md / "metadata_version").write_text("none")
    (md / "level").write_text(level)
    if level != "raid1":
        (md / "chunk_size").write_text("65536")
    if level == "raid10":
        (md / "layout").write_text("258")  # two copies, near each other
    if level != "raid0":
        (md / "component_size").write_text(str(_KIB))
        (md / "resync_start").write_text("none")  # the disks agree already
    (md / "raid_disks").write_text(str(len(disks)))
    for slot, disk in enumerate(disks):
        (md / "new_dev").write_text(Path("/sys/block", disk, "dev").read_text())
        member = md / f"dev-{disk}"
        (member / "size").write_text(str(_KIB))
        (member / "slot").write_text(str(slot))
    (md / "array_state").write_text("active")
    return name


def stop_array(name: str) -> None:
    """Take an array apart."""
    with contextlib.suppress(FileNotFoundError):
        Path("/sys/block", name, "md/array_state").write_text("clear")

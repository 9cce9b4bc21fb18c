# SPDX-License-Identifier: BSD-2-Clause
"""The command lines that users of such tools know, which every tool must understand."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from tracewheel.runtime.spec.catalogue import tool_names

from tests.events import IN_GUEST

_LINES = Path(__file__).with_name("guide.txt").read_text().splitlines()
LINES = [line for line in _LINES if line.split()[0] in tool_names()]


def words_of(line: str) -> list[str]:
    """Split a line into words, with a process and a disk of this machine for PID and DISK."""
    return [_here(word) for word in shlex.split(line)]


def _here(word: str) -> str:
    if word == "PID":
        return str(os.getpid())
    return _disk() if word == "DISK" else word


def _disk() -> str:
    disks = [path for path in Path("/sys/class/block").iterdir() if (path / "queue").exists()]
    if not disks:
        assert not IN_GUEST, "no block device"
        pytest.skip("needs a block device")
    return disks[0].name

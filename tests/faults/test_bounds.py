# SPDX-License-Identifier: BSD-2-Clause
"""Tools take no more memory than promised, in the kernel and for themselves, at any time."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tracewheel.runtime.spec.catalogue import tool_names

CHURN = 499
# What the README promises for the defaults, in bytes.
MOST = {"offcputime": 32 << 20}
MOST_OF_OTHERS = 8 << 20


def in_the_kernel(pid: int) -> int:
    """Return the bytes of all maps that a process holds."""
    found = {}  # by id, because a map may have several descriptors
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            for held, number in re.findall(r"memlock:\s*(\d+)\nmap_id:\s*(\d+)", info.read_text()):
                found[number] = int(held)
    return sum(found.values())


def resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def churn() -> None:
    """Let processes come, and end in the middle of what they do."""
    for _ in range(CHURN):
        process = subprocess.Popen(["/bin/sleep", "1000"])
        process.kill()
        process.wait()


def test_maps_have_bounds(trace: Any, tool_name: str) -> None:
    """By default the maps of a tool fit into what the README says."""
    tool = trace(tool_name)
    held = in_the_kernel(tool.pid)
    tool.end()

    assert 0 < held <= MOST.get(tool_name, MOST_OF_OTHERS)


@pytest.mark.parametrize("options", [(), ("--max-entries", "64")], ids=str)
def test_processes_without_an_end(trace: Any, options: tuple[str, ...]) -> None:
    """Events that begin and never end do not make maps or readers grow without limit."""
    tools = [trace(name, "--json", *options, stdout=subprocess.DEVNULL) for name in tool_names()]
    churn()
    before = [(in_the_kernel(tool.pid), resident(tool.pid)) for tool in tools]
    for _ in range(2):
        churn()
    after = [(in_the_kernel(tool.pid), resident(tool.pid)) for tool in tools]
    for tool in tools:
        tool.end()

    assert {0} == {tool.code for tool in tools}
    for (maps, memory), (more_maps, more_memory) in zip(before, after):
        assert more_maps <= maps + (1 << 20)  # maps that are not allocated beforehand
        assert more_memory <= memory + (1 << 20)

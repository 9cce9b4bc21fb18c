# SPDX-License-Identifier: BSD-2-Clause
"""CPUs are told as the kernel tells them."""

from __future__ import annotations

from pathlib import Path

from tracewheel.runtime.host.cpus import online_cpus


def test_online_cpus(tmp_path: Path) -> None:
    """They are those that /proc/stat has a line of; the file tells ranges and single ones."""
    words = (line.split()[0] for line in Path("/proc/stat").read_text().splitlines())
    file = tmp_path / "online"
    file.write_text("0-2,5,8-9\n")

    assert [int(word[3:]) for word in words if word[:3] == "cpu" < word] == online_cpus()
    assert [0, 1, 2, 5, 8, 9] == online_cpus(str(file))

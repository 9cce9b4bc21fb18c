# SPDX-License-Identifier: BSD-2-Clause
"""The list of CPUs is that of the kernel."""

from __future__ import annotations

from pathlib import Path

from tracewheel.runtime.host.cpus import online_cpus


def test_online_cpus(tmp_path: Path) -> None:
    """CPUs online are those with a line in /proc/stat; the file lists ranges and single CPUs."""
    words = (line.split()[0] for line in Path("/proc/stat").read_text().splitlines())
    file = tmp_path / "online"
    file.write_text("0-2,5,8-9\n")

    assert [int(word[3:]) for word in words if word[:3] == "cpu" < word] == online_cpus()
    assert [0, 1, 2, 5, 8, 9] == online_cpus(str(file))

# SPDX-License-Identifier: BSD-2-Clause
"""Opens made here show as they were made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

PRIME = 23


def test_each_rung_shows_every_open(trace: Any, tmp_path: Path, rungs_of: Any) -> None:
    """Every way of tracing gives the same rows: each open once, with its descriptor."""
    rungs = rungs_of("opensnoop", "open")
    assert len(rungs) >= 2
    for rung in rungs:
        tool = trace("opensnoop", "-p", str(os.getpid()), "--json", "--rung", f"open={rung}")
        expected = []
        for number in range(PRIME):
            path = str(tmp_path / f"{rung}-{number}")
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            os.close(fd)
            expected.append((path, fd, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        tool.end()

        shown = [(e["path"], e["ret"], e["flags"], e["mode"]) for e in tool.json]
        assert expected == [open_ for open_ in shown if str(tmp_path) in open_[0]]
        assert tool.summary["lost"] == 0


@pytest.mark.parametrize("glob", ["*.log", "app*", "*mid*", "a?p.log", "app.log"])
def test_globs(trace: Any, tmp_path: Path, glob: str) -> None:
    """A glob shows the names that fnmatch matches, and no others."""
    import fnmatch

    names = ["app.log", "app.txt", "amidst", "x.log", "axp.log", "unrelated"]
    tool = trace("opensnoop", "-p", str(os.getpid()), "-n", glob, "--json")
    for name in names:
        (tmp_path / name).touch()
    tool.end()

    assert fnmatch.filter(names, glob) == [Path(e["path"]).name for e in tool.json]


def test_full_path_of_dirfd(trace: Any, tmp_path: Path) -> None:
    """A path relative to a descriptor is completed from that descriptor."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").touch()
    fd = os.open(tmp_path / "deep", os.O_RDONLY)
    tool = trace("opensnoop", "-p", str(os.getpid()), "-F", "--json", "-n", "file")
    os.close(os.open("file", os.O_RDONLY, dir_fd=fd))
    tool.end()
    os.close(fd)

    assert [str(tmp_path / "deep/file")] == [e["path"] for e in tool.json]

# SPDX-License-Identifier: BSD-2-Clause
"""A tool stays small, and says nothing that another one has said."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
MOST = {".c": 200, ".py": 80}  # lines of a tool's BPF program, of its module
MOST_BELOW = 5000  # of runtime and shim
RUN = 6  # as many equal lines in a row are a copy
SOURCES = [
    *sorted(CHECKOUT.glob("bpf_src/*.bpf.c")),
    *sorted(CHECKOUT.glob("pytools/tracewheel/tools/[a-z]*.py")),
]


def lines_of(source: Path) -> list[str]:
    """Return the lines that are neither blank nor comment."""
    text = source.read_text()
    text = re.sub(r"(?s)/\*.*?\*/" if source.suffix == ".c" else r"(?m)^\s*#.*$", "", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_tools_are_small(source: Path) -> None:
    """A tool's program has up to 200 lines, its module up to 80."""
    assert len(lines_of(source)) <= MOST[source.suffix]


def test_runtime_and_shim_are_small() -> None:
    """Runtime and shim have up to 5,000 lines of code, as cloc counts."""
    folders = [str(CHECKOUT / name) for name in ("pytools/tracewheel/runtime", "libbpf_shim")]
    counted = subprocess.run(["cloc", "--json", *folders], check=True, stdout=subprocess.PIPE)

    assert 0 < json.loads(counted.stdout)["SUM"]["code"] <= MOST_BELOW


def test_tools_share_no_lines() -> None:
    """Of all lines of tools, fewer than 5 % stand in a run that another tool has, too."""
    every = {source: lines_of(source) for source in SOURCES}
    places: dict[tuple[str, ...], set[tuple[Path, int]]] = {}
    for source, lines in every.items():
        for at in range(len(lines) - RUN + 1):
            places.setdefault(tuple(lines[at : at + RUN]), set()).add((source, at))
    shared = {
        (source, at + step)
        for found in places.values()
        if len({source for source, _ in found}) > 1
        for source, at in found
        for step in range(RUN)
    }

    assert len(shared) < 0.05 * sum(map(len, every.values()))

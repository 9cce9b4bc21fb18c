# SPDX-License-Identifier: BSD-2-Clause
"""A tool says nothing that another one has said."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
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

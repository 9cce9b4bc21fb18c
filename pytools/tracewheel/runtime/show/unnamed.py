# SPDX-License-Identifier: BSD-2-Clause
"""Frames without a name: in a picture, those of a stack that follow each other are one frame."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

Frames = tuple[str, ...]  # the outermost first

# What the symbolizer calls an address outside all files. The address differs from run to run.
_UNNAMED = re.compile(r"(\[(?:unknown|anon))(?:\+0x[0-9a-f]+)?\]")


@functools.lru_cache(1 << 16)
def without_address(name: str) -> str:
    """Return what a frame without a name is called for short; of any other frame, nothing."""
    found = _UNNAMED.fullmatch(name)
    return f"{found[1]}]" if found else ""


def join(stack: Frames) -> list[tuple[str, int]]:
    """Return the frames of a stack, each with the number of frames that it stands for."""
    joined: list[tuple[str, int]] = []
    for name in stack:
        short = without_address(name)
        if short and joined and joined[-1][0] == short:
            joined[-1] = (short, joined[-1][1] + 1)
        else:
            joined.append((short or name, 1))
    return joined


class JoinedStacks:
    """Stacks and their weights, with runs of unnamed frames joined.

    Stacks that differ only in the lengths of such runs become one. ``lengths`` has the least and
    the most frames that a joined frame stands for, by the frames from the outermost up to it.
    """

    def __init__(self, stacks: Mapping[Frames, int]) -> None:
        self.weights: dict[Frames, int] = {}
        self.lengths: dict[Frames, tuple[int, int]] = {}
        for stack, weight in stacks.items():
            joined = join(stack)
            frames = tuple(name for name, _ in joined)
            self.weights[frames] = self.weights.get(frames, 0) + weight
            for depth, (name, length) in enumerate(joined, 1):
                if without_address(name):
                    self._note(frames[:depth], length)

    def _note(self, frames: Frames, length: int) -> None:
        least, most = self.lengths.get(frames, (length, length))
        self.lengths[frames] = min(least, length), max(most, length)

    def describe(self, frames: Frames) -> str:
        """Return the name of the innermost of these frames, and for how many it stands."""
        least, most = self.lengths.get(frames, (1, 1))
        if most == 1:
            return frames[-1]
        count = f"{most}" if least == most else f"{least} to {most}"
        return f"{frames[-1]} ({count} frames)"

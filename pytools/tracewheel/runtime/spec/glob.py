# SPDX-License-Identifier: BSD-2-Clause
"""Globs, compiled twice.

A program in the kernel matches a glob by a table of states (a DFA). User space matches it by a
regular expression, for globs whose table would be too large.
"""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

from tracewheel.runtime.host.errors import UsageError

STATES, CLASSES = 64, 32  # GLOB_STATES, GLOB_CLASSES of glob.bpf.h
_LETTERS = [chr(byte) for byte in range(256)]
# A step of a glob: a set of characters in brackets, or any single character.
_STEP = re.compile(r"\[(?:!.|[^!])[^]]*\]|.", re.DOTALL)


class Glob(NamedTuple):
    """A compiled glob."""

    regex: re.Pattern[bytes]
    base_name: bool  # it is matched against what is behind the last slash
    variables: dict[str, object]  # of glob.bpf.h; empty if the table would be too large

    def matches(self, text: bytes) -> bool:
        """Tell whether a path matches, or a list of arguments, in which NUL counts as a blank."""
        text = text.removesuffix(b"\0").replace(b"\0", b" ")
        if self.base_name:
            text = text.rpartition(b"/")[2]
        return bool(self.regex.match(text))


def compile_glob(pattern: str, whole: bool = False) -> Glob:
    """Compile a glob. Raises UsageError.

    A glob without a slash is matched against base names, unless ``whole`` is true.
    """
    if "\0" in pattern:
        raise UsageError("a glob cannot have a NUL byte, because no name has one")
    if not pattern:
        raise UsageError("a glob cannot be empty, because no name is")
    text = pattern.encode("utf-8", "surrogateescape").decode("latin-1")
    base_name = not whole and "/" not in pattern
    regex = re.compile(fnmatch.translate(text).encode("latin-1"))
    return Glob(regex, base_name, _dfa(_STEP.findall(text), base_name))


def _dfa(steps: list[str], base_name: bool) -> dict[str, object]:
    """Build the tables of glob.bpf.h by subset construction; return {} if they are too large.

    A state of the DFA is a set of positions in the glob: those at which the text so far may end.
    A set of positions is a number, whose bit n stands for the position behind the first n steps.
    """
    fits = _fitting_steps(steps)
    # Letters that fit the same steps are of one class.
    kinds = []
    for letter in _LETTERS:
        matched_as = " " if letter == "\0" else letter  # arguments are joined by blanks
        kinds.append((fits[matched_as], letter == "/"))
    classes = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    if len(classes) > CLASSES:
        return {}
    stars = [at for at, step in enumerate(steps) if step == "*"]
    before_stars = sum(1 << at for at in stars)
    start = _past_stars(1, stars)
    numbers = {start: 0}  # of the states, in the order in which they are found
    table = bytearray()
    states = [start]
    for positions in states:  # the loop adds the states that it finds
        row = []
        for fitting, is_slash in classes:
            matched = positions & fitting
            # A letter takes a position to the next one; a star may take more letters as well.
            reached = _past_stars(matched << 1 | matched & before_stars, stars)
            if is_slash and base_name:
                reached = start  # the text so far was a directory
            if reached not in numbers:
                numbers[reached] = len(numbers)
                states.append(reached)
            row.append(numbers[reached])
        table += bytes(row).ljust(CLASSES, b"\0")
        if len(states) > STATES:
            return {}
    end = 1 << len(steps)
    accepts = bytes(1 if positions & end else 0 for positions in states)
    return {
        "glob_wanted": True,
        "glob_classes": bytes(classes[kind] for kind in kinds),
        "glob_next": bytes(table).ljust(STATES * CLASSES, b"\0"),
        "glob_accepts": accepts.ljust(STATES, b"\0"),
    }


def _fitting_steps(steps: list[str]) -> dict[str, int]:
    """Return the steps that each letter fits: a number whose bit n stands for step n."""
    fitting = dict.fromkeys(_LETTERS, 0)
    for at, step in enumerate(steps):
        is_pattern = len(step) > 1 or step in "*?"
        letters = fnmatch.filter(_LETTERS, step) if is_pattern else [step]
        for letter in letters:
            fitting[letter] |= 1 << at
    return fitting


def _past_stars(positions: int, stars: list[int]) -> int:
    """Return a set of positions, and with each one before a star the one behind it.

    They belong together because a star may stand for nothing. ``stars`` are the positions of the
    stars, in ascending order.
    """
    for star in stars:
        if positions & 1 << star:
            positions |= 1 << star + 1
    return positions

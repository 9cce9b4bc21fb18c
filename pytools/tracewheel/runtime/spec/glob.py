# SPDX-License-Identifier: BSD-2-Clause
"""Globs: as a DFA for the kernel, and as a regular expression for what the DFA cannot hold."""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

from tracewheel.runtime.host.errors import UsageError

STATES, CLASSES = 64, 32  # GLOB_STATES, GLOB_CLASSES of glob.bpf.h
_LETTERS = [chr(byte) for byte in range(256)]
_STEP = re.compile(r"\[(?:!.|[^!])[^]]*\]|.", re.DOTALL)


class Glob(NamedTuple):
    """A glob in both forms; ``variables`` is empty where the DFA would be too large."""

    regex: re.Pattern[bytes]
    base_name: bool
    variables: dict[str, object]

    def matches(self, text: bytes) -> bool:
        """Tell whether a path matches, or a list of arguments, in which NUL counts as a blank."""
        text = text.removesuffix(b"\0").replace(b"\0", b" ")
        return bool(self.regex.match(text.rpartition(b"/")[2] if self.base_name else text))


def compile_glob(pattern: str, whole: bool = False) -> Glob:
    """Compile a glob; without ``whole``, one that has no slash is matched against base names."""
    if "\0" in pattern:
        raise UsageError("cannot match a glob with a NUL byte: no name has one")
    if not pattern:
        raise UsageError("cannot match an empty glob: it matches no name")
    text = pattern.encode("utf-8", "surrogateescape").decode("latin-1")
    base_name = not whole and "/" not in pattern
    regex = re.compile(fnmatch.translate(text).encode("latin-1"))
    return Glob(regex, base_name, _dfa(_STEP.findall(text), base_name))


def _dfa(steps: list[str], base_name: bool) -> dict[str, object]:
    """Build the tables of glob.bpf.h by subset construction; nothing where they do not fit.

    A set of positions is a number: its bit n tells that the first n steps may be done.
    """
    fits = _fitting_steps(steps)
    # Letters that fit the same steps are of one class.
    kinds = [(fits[" " if letter == "\0" else letter], letter == "/") for letter in _LETTERS]
    classes = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    if len(classes) > CLASSES:
        return {}
    stars = [step == "*" for step in steps]
    repeating = sum(1 << at for at, is_star in enumerate(stars) if is_star)
    start = _past_stars(1, stars)
    states = {start: 0}  # sets of positions, and their numbers
    table = bytearray()
    todo = [start]
    for positions in todo:  # grows meanwhile
        row = []
        for fitting, is_slash in classes:
            moved = positions & fitting
            reached = _past_stars(moved << 1 | moved & repeating, stars)
            if is_slash and base_name:
                reached = start  # what was before is a directory
            if reached not in states:
                states[reached] = len(states)
                todo.append(reached)
            row.append(states[reached])
        table += bytes(row).ljust(CLASSES, b"\0")
        if len(todo) > STATES:
            return {}
    return {
        "glob_wanted": True,
        "glob_classes": bytes(classes[kind] for kind in kinds),
        "glob_next": bytes(table).ljust(STATES * CLASSES, b"\0"),
        "glob_accepts": bytes(each >> len(steps) & 1 for each in todo).ljust(STATES, b"\0"),
    }


def _fitting_steps(steps: list[str]) -> dict[str, int]:
    """Return the steps that each letter may be, as a set of bits."""
    fitting = dict.fromkeys(_LETTERS, 0)
    for at, step in enumerate(steps):
        is_pattern = len(step) > 1 or step in "*?"
        for letter in fnmatch.filter(_LETTERS, step) if is_pattern else step:
            fitting[letter] |= 1 << at
    return fitting


def _past_stars(positions: int, stars: list[bool]) -> int:
    """Return a set of positions with those behind a star, which may be nothing."""
    for at, is_star in enumerate(stars):
        if is_star and positions >> at & 1:
            positions |= 1 << at + 1
    return positions

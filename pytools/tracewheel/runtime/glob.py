# SPDX-License-Identifier: BSD-2-Clause
"""Globs: as a DFA for the kernel, and as a regular expression for what the DFA cannot hold."""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

from tracewheel.runtime.errors import UsageError

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
    """Build the tables of glob.bpf.h by subset construction.

    A set of positions is a number: its bit n tells that the first n steps may be done.
    """
    stars = [step == "*" for step in steps]
    repeating = sum(1 << at for at, star in enumerate(stars) if star)
    fitting = dict.fromkeys(_LETTERS, 0)  # by letter: the steps that it may be
    for at, step in enumerate(steps):
        own = fnmatch.filter(_LETTERS, step) if step[1:] or step in "*?" else step
        for letter in own:
            fitting[letter] |= 1 << at

    def closed(positions: int) -> int:
        for at, star in enumerate(stars):  # which may be nothing
            positions |= (star and positions >> at & 1) << at + 1
        return positions

    kinds = [(fitting[" " if letter == "\0" else letter], letter == "/") for letter in _LETTERS]
    classes = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    if len(classes) > CLASSES:
        return {}
    numbers = {closed(1): 0}
    table = bytearray()
    todo = [*numbers]
    for positions in todo:
        row = []
        for fit, is_slash in classes:
            moved = positions & fit
            reached = closed(moved << 1 | moved & repeating)
            if is_slash and base_name:
                reached = todo[0]  # what was before is a directory
            if reached not in numbers:
                numbers[reached] = len(numbers)
                todo.append(reached)
            row.append(numbers[reached])
        table += bytes(row).ljust(CLASSES, b"\0")
        if len(todo) > STATES:
            return {}
    return {
        "glob_wanted": True,
        "glob_classes": bytes(classes[kind] for kind in kinds),
        "glob_next": bytes(table).ljust(STATES * CLASSES, b"\0"),
        "glob_accepts": bytes(each >> len(steps) & 1 for each in todo).ljust(STATES, b"\0"),
    }

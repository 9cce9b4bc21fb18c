# SPDX-License-Identifier: BSD-2-Clause
"""Globs: as a DFA for the kernel, and as a regular expression for what the DFA cannot hold."""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

from tracewheel.runtime.errors import UsageError

STATES, CLASSES = 64, 32  # GLOB_STATES, GLOB_CLASSES of glob.bpf.h

_ANY = frozenset(range(256))
_SLASH, _BLANK = b"/ "


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
    text = pattern.encode("utf-8", "surrogateescape")
    base_name = not whole and "/" not in pattern
    regex = fnmatch.translate(text.decode("latin-1")).encode("latin-1")
    return Glob(re.compile(regex), base_name, _dfa(_steps(text, base_name), base_name))


def _steps(pattern: bytes, base_name: bool) -> list[tuple[frozenset[int], bool]]:
    """Split into (bytes that match, repeats): a star is a step that repeats."""
    allowed = _ANY - {_SLASH} if base_name else _ANY
    steps = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        end = pattern.find(b"]", at + 1 + (pattern[at : at + 1] == b"!")) if char == b"[" else -1
        if char == b"*":
            steps.append((allowed, True))
        elif char == b"?":
            steps.append((allowed, False))
        elif end > 0:
            one = re.compile(fnmatch.translate(pattern[at - 1 : end + 1].decode("latin-1")))
            steps.append((frozenset(b for b in allowed if one.match(chr(b))), False))
            at = end + 1
        else:
            steps.append((frozenset(char), False))
    return steps


def _dfa(steps: list[tuple[frozenset[int], bool]], base_name: bool) -> dict[str, object]:
    """Build the tables of glob.bpf.h by subset construction.

    A position counts the steps done; -1, for base names, is anywhere in the directories before.
    """
    classes, members = _classes(steps)
    if len(members) > CLASSES:
        return {}

    def closed(positions: set[int]) -> frozenset[int]:
        for at in sorted(positions):
            while 0 <= at < len(steps) and steps[at][1]:
                at += 1
                positions.add(at)
        return frozenset(positions)

    start = closed({-1, 0} if base_name else {0})
    numbers = {start: 0}
    todo = [start]
    table = bytearray(STATES * CLASSES)
    for state in todo:
        for number, byte in enumerate(members):
            reached = {-1} if -1 in state else set()
            if -1 in state and byte == _SLASH:
                reached.add(0)
            for at in state:
                if 0 <= at < len(steps) and byte in steps[at][0]:
                    reached.add(at if steps[at][1] else at + 1)
            following = closed(reached)
            if following not in numbers:
                if len(numbers) == STATES:
                    return {}
                numbers[following] = len(numbers)
                todo.append(following)
            table[numbers[state] * CLASSES + number] = numbers[following]
    return {
        "glob_wanted": True,
        "glob_classes": classes,
        "glob_next": bytes(table),
        "glob_accepts": bytes(len(steps) in state for state in todo).ljust(STATES, b"\0"),
    }


def _classes(steps: list[tuple[frozenset[int], bool]]) -> tuple[bytes, list[int]]:
    """Return each byte's class, alike where no step tells them apart, and a byte of each class."""
    seen: dict[tuple[bool, ...], int] = {}
    members: list[int] = []
    classes = bytearray(256)
    for byte in range(256):
        counts_as = byte or _BLANK
        signature = (byte == _SLASH, *(counts_as in step[0] for step in steps))
        if signature not in seen:
            seen[signature] = len(members)
            members.append(counts_as)
        classes[byte] = seen[signature] % 256
    return bytes(classes), members

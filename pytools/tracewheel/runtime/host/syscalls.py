# SPDX-License-Identifier: BSD-2-Clause
"""The names of system calls, as the kernel's headers define them."""

from __future__ import annotations

import functools
import os

from tracewheel.runtime.host.errors import UsageError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_DEFINITIONS = os.path.join(_PACKAGE, "bpf", "syscalls.h")
_SHOWN = {"SYS": "", "COMPAT": "compat:", "X32": "x32:"}


@functools.lru_cache(None)
def names() -> dict[int, str]:
    """Return the names by what an ev_syscall holds."""
    found = {}
    with open(_DEFINITIONS) as definitions:
        for line in definitions:
            what, name, number = line.split(None, 2)
            if what == "#define" and number[0] != "(":
                prefix, _, call = name.partition("_")
                found[int(number) << 1 | (prefix == "COMPAT")] = _SHOWN[prefix] + call
    return found


def name(syscall: int) -> str:
    """Return the name of a system call, its number where the headers have none."""
    number, compat = divmod(syscall, 2)
    if number >= (1 << 31) - 4096:  # below 0, which no call is
        number -= 1 << 31
    return names().get(syscall) or f"{_SHOWN['COMPAT'] if compat else ''}syscall_{number}"


def parse(text: str) -> frozenset[int]:
    """Return what an ev_syscall holds for the calls of a name, native and 32-bit."""
    found = {key for key, name in names().items() if name.rpartition(":")[2] == text}
    if not found:
        raise UsageError(f"no system call {text!r}: --list has them all")
    return frozenset(found)


def listed() -> list[str]:
    """Return a line for each call: number and name."""
    return [f"{(key >> 1) % 2**30:>4} {name}" for key, name in names().items()]

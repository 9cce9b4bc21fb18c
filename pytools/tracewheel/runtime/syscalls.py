# SPDX-License-Identifier: BSD-2-Clause
"""The names of system calls, as the kernel's headers define them."""

from __future__ import annotations

import functools
import os

_DEFINITIONS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "bpf", "syscalls.h")
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

# SPDX-License-Identifier: BSD-2-Clause
"""The names of system calls, as the kernel's headers define them."""

from __future__ import annotations

import functools
import os

from tracewheel.runtime.host.errors import UsageError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_DEFINITIONS = os.path.join(_PACKAGE, "bpf", "syscalls.h")
_SHOWN = {"SYS": "", "COMPAT": "compat:", "X32": "x32:"}
_NUMBERS = 1 << 31  # the numbers that an ev_syscall can hold
_NO_SYSCALL = 0x7FFFFFFE  # EV_NO_SYSCALL of record.bpf.h
_NEGATIVE_MOST = 4096  # numbers from -4096 on are shown as such, though no call has them
_X32_BIT = 1 << 30  # __X32_SYSCALL_BIT


@functools.lru_cache(None)
def names() -> dict[int, str]:
    """Return the names of system calls by the values of an ev_syscall."""
    found = {}
    with open(_DEFINITIONS) as definitions:
        for line in definitions:
            what, name, number = line.split(None, 2)
            is_number = number[0] != "("  # else a negative one, of a call that this machine lacks
            if what == "#define" and is_number:
                prefix, _, call = name.partition("_")
                found[_ev_syscall(int(number), prefix == "COMPAT")] = _SHOWN[prefix] + call
    return found


def _ev_syscall(number: int, is_compat: bool) -> int:
    """Return the value of an ev_syscall, whose lowest bit is set for 32-bit calls."""
    return number << 1 | int(is_compat)


def name(syscall: int) -> str:
    """Return the name of a system call, given as an ev_syscall; syscall_N if it has none.

    It is "-" where there is no call.
    """
    if syscall == _NO_SYSCALL:
        return "-"
    if syscall in names():
        return names()[syscall]
    number, is_compat = divmod(syscall, 2)
    if number >= _NUMBERS - _NEGATIVE_MOST:  # a negative number, cut to 31 bits
        number -= _NUMBERS
    return f"{_SHOWN['COMPAT'] if is_compat else ''}syscall_{number}"


def parse(text: str) -> frozenset[int]:
    """Return the values of an ev_syscall for all calls of a name: native, 32-bit and x32."""
    found = {key for key, name in names().items() if name.rpartition(":")[2] == text}
    if not found:
        raise UsageError(f"no system call {text!r}: --list prints all of them")
    return frozenset(found)


def listed() -> list[str]:
    """Return a line for each system call: its number and name."""
    return [f"{(key >> 1) % _X32_BIT:>4} {name}" for key, name in names().items()]

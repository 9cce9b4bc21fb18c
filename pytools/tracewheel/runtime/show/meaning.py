# SPDX-License-Identifier: BSD-2-Clause
"""What a member of a record means, by the name of its type in BTF: one renderer for each."""

from __future__ import annotations

import functools
import os

from tracewheel.runtime.host.disks import disk_name
from tracewheel.runtime.host.errnos import error_names
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.host.terminal import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tracewheel.runtime.trace.btf import Member


class Meaning(Record):
    """The kinds (enum shim_kind) that show a type in a table and in JSON."""

    text: str
    json: str
    number: int = 0


# Types of record.bpf.h. Any other integer is shown as a plain number.
MEANINGS = {
    "ev_time": Meaning("seconds", "epoch"),
    "ev_duration": Meaning("span", "span", 1_000_000),
    "ev_ret": Meaning("result", "result"),
    "ev_exit": Meaning("exit", "exit"),
    "ev_dev": Meaning("disk", "disk"),
    "ev_disk": Meaning("chars", "chars"),
    "ev_operation": Meaning("operation", "operation"),
    "ev_request_flags": Meaning("request_flags", "request_flags"),
    "ev_open_flags": Meaning("open_flags", "unsigned"),
    "ev_mode": Meaning("octal", "unsigned"),
    "ev_syscall": Meaning("syscall", "syscall"),
    "ev_addr": Meaning("address", "address"),
    "ev_comm": Meaning("chars", "chars"),
    "ev_text": Meaning("text", "text"),
    "ev_path": Meaning("path", "path"),
    "ev_dir": Meaning("", ""),  # shown as part of the path behind it
    "ev_args": Meaning("args", "args"),
    "ev_stack": Meaning("stack", "stack"),
    "ev_user_stack": Meaning("user_stack", "user_stack"),
}
# Names of open flags that have the same bits as a better known one: O_NONBLOCK, O_SYNC.
_LESS_KNOWN = ("O_NDELAY", "O_RSYNC", "O_FSYNC")


def open_flags() -> dict[int, str]:
    """Return the names of the access modes and of the flags of an open, on this machine."""
    names = sorted(name for name in dir(os) if name.startswith("O_") and name != "O_ACCMODE")
    flags = {os.O_RDONLY: "O_RDONLY"}
    for name in sorted(names, key=_LESS_KNOWN.__contains__):
        flags.setdefault(getattr(os, name), name)
    return flags


def _operations() -> dict[int, str]:
    from tracewheel.runtime.host.errors import NotSupported
    from tracewheel.runtime.trace.btf import kernel_enum

    try:
        operations = kernel_enum("req_op")
    except NotSupported:
        # Linux commit ff07a02e9e8e ("treewide: Rename enum req_opf into enum req_op") (in v6.0)
        operations = kernel_enum("req_opf")
    return {value: name[len("REQ_OP_") :] for name, value in operations.items()}


def _request_flags(flags: int) -> str:
    from tracewheel.runtime.trace.btf import kernel_enum

    bits = {bit: name[len("__REQ_") :] for name, bit in kernel_enum("req_flag_bits").items()}
    names = [bits.get(bit, hex(1 << bit)) for bit in range(8, 32) if flags >> bit & 1]
    return "|".join(names) or "-"


def _request_letters(flags: int) -> str:
    """Return operation and flags of a block request as the kernel's own tracing writes them.

    Zeroes as on v7.2: older kernels write N, as for what has no letter.
    """
    names = name_of("request_flags", flags).split("|")
    letters = {"READ": "R", "WRITE": "W", "WRITE_ZEROES": "WZ", "DISCARD": "D",
               "SECURE_ERASE": "DE", "FLUSH": "F"}  # fmt: skip
    operation = letters.get(name_of("operation", flags & 0xFF), "N")
    flagged = {"FUA": "F", "RAHEAD": "A", "SYNC": "S", "META": "M", "ATOMIC": "U"}
    tail = "".join(letter for name, letter in flagged.items() if name in names)
    return "F" * ("PREFLUSH" in names) + operation + tail


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _signals() -> dict[int, str]:
    import signal

    return {each.value: each.name for each in signal.Signals}


def _syscalls() -> dict[int, str]:
    from tracewheel.runtime.host import syscalls

    return syscalls.names()


def _syscall(number: int) -> str:
    from tracewheel.runtime.host import syscalls

    return syscalls.name(number)


def _container(cgroup: int) -> str:
    from tracewheel.runtime.host import containers

    return containers.label(cgroup)


class Table(Record):
    """A table of names: what is known beforehand, and how to find what is not."""

    kind: str  # enum shim_kind
    known: Callable[[], dict[int, str]] = dict
    find: Callable[[int], str] = str


TABLES = {
    "errno": Table("errno", error_names),
    "open_flags": Table("flags", open_flags),
    "exit": Table("exit", _signals),
    "disk": Table("name", find=disk_name),
    "operation": Table("name", _operations),
    "request_flags": Table("name", find=_request_flags),
    "rwbs": Table("name", find=_request_letters),
    "user": Table("name", find=user_name),
    "syscall": Table("name", _syscalls, _syscall),
    "container": Table("name", find=_container),
}


@functools.cache
def _known(kind: str) -> dict[int, str]:
    return TABLES[kind].known()


@functools.lru_cache(maxsize=1 << 16)
def name_of(kind: str, key: int) -> str:
    """Return the name of a number in a table; it is looked for once."""
    return _known(kind).get(key) or TABLES[kind].find(key)


# The member that a kind needs beside its own, where there is one: what it measures a sum by, the
# directory that a path is joined to, the process that addresses are of.
BESIDE = {"rate": "interval", "share": "total", "bar": "most", "path": "dir", "user_stack": "pid"}


def meaning_of(member: Member) -> Meaning:
    """Return how a member is shown."""
    plain = "signed" if member.is_signed else "unsigned"
    return MEANINGS.get(member.meaning, Meaning(plain, plain))


def describe_key(key: Mapping[str, Any], ascii_only: bool) -> str:
    """Return what a histogram is of, as a terminal may show it."""
    return ", ".join(
        f"{name} = {escape(os.fsencode(str(value)), ascii_only)}"
        for name, value in key.items()
        if name != "cgroup"  # the container says more
    )

# SPDX-License-Identifier: BSD-2-Clause
"""How the members of records are shown, by the names of their types in BTF."""

from __future__ import annotations

import functools
import os

from tracewheel.runtime.host import lookups
from tracewheel.runtime.host.errnos import error_names
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.host.terminal import escape
from tracewheel.runtime.show.kernel_names import (
    at_flags,
    names_in_enum,
    real_time_signal,
    signal_code,
    signal_outcomes,
    signals,
    tcp_flags,
    tcp_states,
    user_namespaces,
    writeback_reasons,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tracewheel.runtime.trace.btf import Member


class Meaning(Record):
    """How a type is shown: by a kind, which is in enum shim_kind or in TABLES."""

    text: str  # the kind in a table
    json: str  # the kind in JSON
    number: int = 0  # of the kind; for a span, the number of ns in its unit


# The types of record.bpf.h. Integers of other types are shown as plain numbers.
MEANINGS = {
    "ev_time": Meaning("seconds", "epoch"),
    "ev_duration": Meaning("span", "span", 1_000_000),
    "ev_ret": Meaning("result", "result"),
    "ev_longest": Meaning("span", "span", 1_000_000),
    "ev_bytes": Meaning("span", "span", 1 << 20),  # shown in MB
    "ev_exit": Meaning("exit", "exit"),
    "ev_number": Meaning("optional", "optional"),
    "ev_disk": Meaning("chars", "chars"),
    "ev_name": Meaning("chars", "chars"),
    "ev_operation": Meaning("operation", "operation"),
    "ev_request_flags": Meaning("request_flags", "request_flags"),
    "ev_open_flags": Meaning("open_flags", "unsigned"),
    "ev_at_flags": Meaning("at_flags", "unsigned"),
    "ev_mode": Meaning("octal", "unsigned"),
    "ev_syscall": Meaning("syscall", "syscall"),
    "ev_signal": Meaning("signal", "signal"),
    "ev_signal_code": Meaning("signal_code", "signal_code"),
    "ev_signal_outcome": Meaning("signal_outcome", "signal_outcome"),
    "ev_signal_call": Meaning("signal_call", "signal_call"),
    "ev_tcp_state": Meaning("tcp_state", "tcp_state"),
    "ev_writeback_reason": Meaning("writeback_reason", "writeback_reason"),
    "ev_ca_state": Meaning("ca_state", "ca_state"),
    "ev_retransmit": Meaning("retransmit_letter", "retransmit"),
    "ev_tcp_flags": Meaning("tcp_flags", "tcp_flags"),
    "ev_drop_reason": Meaning("drop_reason", "drop_reason"),
    "ev_capability": Meaning("capability", "capability"),
    "ev_user_ns": Meaning("user_ns", "unsigned"),
    "ev_oom_constraint": Meaning("oom_constraint", "oom_constraint"),
    "ev_gfp": Meaning("gfp", "gfp"),
    "ev_load": Meaning("load", "load"),
    "ev_lookup_function": Meaning("lookup_function", "lookup_function"),
    "ev_lookup_result": Meaning("lookup_result", "lookup_result"),
    "ev_addr": Meaning("address", "address"),
    "ev_comm": Meaning("chars", "chars"),
    "ev_text": Meaning("text", "text"),
    "ev_path": Meaning("path", "path"),
    "ev_dir": Meaning("", ""),  # shown as part of the path behind it
    "ev_args": Meaning("args", "args"),
    "ev_stack": Meaning("stack", "stack"),
    "ev_user_stack": Meaning("user_stack", "user_stack"),
}
_NO_REASON = 2**32 - 1  # EV_NO_REASON of record.bpf.h
# Open flags with the same bits as better known ones, O_NONBLOCK and O_SYNC.
_LESS_KNOWN = ("O_NDELAY", "O_RSYNC", "O_FSYNC")


_OPERATION_BITS = 8  # REQ_OP_BITS: the operation of a block request; its flags are above
_OPERATION_LETTERS = {
    "READ": "R",
    "WRITE": "W",
    "WRITE_ZEROES": "WZ",
    "DISCARD": "D",
    "SECURE_ERASE": "DE",
    "FLUSH": "F",
}
# By enum retransmit_type of tcpretrans.bpf.c.
_RETRANSMITS = ("RETRANS", "LOSS", "PROBE", "SYNACK")
_FLAG_LETTERS = {"FUA": "F", "RAHEAD": "A", "SYNC": "S", "META": "M", "ATOMIC": "U"}


def open_flags() -> dict[int, str]:
    """Return the names of the access modes and of the flags of an open, on this machine."""
    names = sorted(name for name in dir(os) if name.startswith("O_") and name != "O_ACCMODE")
    flags = {os.O_RDONLY: "O_RDONLY"}
    for name in sorted(names, key=lambda name: name in _LESS_KNOWN):  # these come last
        flags.setdefault(getattr(os, name), name)
    return flags


def _operations() -> dict[int, str]:
    from tracewheel.runtime.host.errors import NotSupported
    from tracewheel.runtime.host.kernel_types import kernel_enum

    try:
        operations = kernel_enum("req_op")
    except NotSupported:
        # Linux commit ff07a02e9e8e ("treewide: Rename enum req_opf into enum req_op") (in v6.0)
        operations = kernel_enum("req_opf")
    return {value: name.removeprefix("REQ_OP_") for name, value in operations.items()}


def _request_flags(flags: int) -> str:
    """Return the names of the flags of a block request, without its operation."""
    from tracewheel.runtime.host.kernel_types import kernel_enum

    values = kernel_enum("req_flag_bits")
    name_of_bit = {bit: name.removeprefix("__REQ_") for name, bit in values.items()}
    names = []
    for bit in range(_OPERATION_BITS, 32):
        if flags & 1 << bit:
            names.append(name_of_bit.get(bit, hex(1 << bit)))
    return "|".join(names) or "-"


def _request_letters(flags: int) -> str:
    """Return the letters for a block request that the kernel's tracepoints print, such as WS.

    WRITE_ZEROES is WZ, as on v7.2; older kernels print N, as for all operations without letters.
    """
    names = name_of("request_flags", flags).split("|")
    operation = name_of("operation", flags % (1 << _OPERATION_BITS))
    letters = ["F"] if "PREFLUSH" in names else []
    letters.append(_OPERATION_LETTERS.get(operation, "N"))
    letters += [letter for name, letter in _FLAG_LETTERS.items() if name in names]
    return "".join(letters)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has no name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _syscalls() -> dict[int, str]:
    from tracewheel.runtime.host import syscalls

    return syscalls.names()


def _syscall(number: int) -> str:
    from tracewheel.runtime.host import syscalls

    return syscalls.name(number)


def _drop_reasons() -> dict[int, str]:
    from tracewheel.runtime.host import drop_reasons

    return {**drop_reasons.names(), _NO_REASON: "-"}


def _drop_reason(number: int) -> str:
    from tracewheel.runtime.host import drop_reasons

    return drop_reasons.name(number)


def _capabilities() -> dict[int, str]:
    from tracewheel.runtime.host import capabilities

    return capabilities.names()


def _verdict(ret: int) -> str:
    """Return the verdict of a check that returns 0 or an error."""
    return "denied" if ret else "allowed"


def _load_averages(_: int) -> str:
    """Return the load averages of the last 1, 5 and 15 minutes."""
    with open("/proc/loadavg") as averages:
        return " ".join(averages.read().split()[:3])


def _allocation_flags(number: int) -> str:
    from tracewheel.runtime.host import allocations

    return allocations.flags(number)


def _container(cgroup: int) -> str:
    from tracewheel.runtime.host import containers

    return containers.label(cgroup)


class Table(Record):
    """A table of names of numbers."""

    kind: str  # of enum shim_kind
    known: Callable[[], dict[int, str]] = dict  # returns names that are known beforehand
    find: Callable[[int], str] = str  # returns the name of any other number


TABLES = {
    "errno": Table("errno", error_names),
    "open_flags": Table("flags", open_flags),
    "at_flags": Table("flags", at_flags),
    "exit": Table("exit", signals),
    "signal": Table("name", signals, real_time_signal),
    "signal_code": Table("optional_name", find=signal_code),
    "signal_outcome": Table("optional_name", signal_outcomes),
    "signal_call": Table("optional_name", _syscalls, _syscall),
    "tcp_state": Table("name", tcp_states),
    "writeback_reason": Table("name", writeback_reasons),
    "ca_state": Table("name", names_in_enum("tcp_ca_state", "TCP_CA_"), lambda _: "-"),
    "retransmit": Table("name", lambda: dict(enumerate(_RETRANSMITS))),
    "retransmit_letter": Table("name", lambda: dict(enumerate("RLPS"))),
    "tcp_flags": Table("name", find=tcp_flags),
    "drop_reason": Table("name", _drop_reasons, _drop_reason),
    "capability": Table("name", _capabilities),
    "user_ns": Table("name", user_namespaces),
    "verdict": Table("name", find=_verdict),
    "oom_constraint": Table("optional_name", names_in_enum("oom_constraint", "CONSTRAINT_")),
    "gfp": Table("optional_name", find=_allocation_flags),
    "load": Table("name", find=_load_averages),
    "lookup_function": Table("name", lookups.functions),
    "lookup_result": Table("name", lookups.results, lookups.other_result),
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
    """Return the name of a number in the table of that kind. Each name is found only once."""
    return _known(kind).get(key) or TABLES[kind].find(key)


# The second member that a kind needs, the first of these that the record has: what a sum is divided
# by, the directory of a relative path, the process that has the addresses of a stack.
BESIDE = {
    "rate": ("interval",),
    "share": ("total",),
    "bar": ("most",),
    "path": ("dir",),
    "user_stack": ("trigger_pid", "pid"),
}


def beside(kind: str, members: Mapping[str, Member]) -> Member | None:
    """Return the second member that a kind needs, None if the record has none."""
    found = [members[name] for name in BESIDE.get(kind, ()) if name in members]
    return found[0] if found else None


def meaning_of(member: Member) -> Meaning:
    """Return how a member is shown."""
    plain = "signed" if member.is_signed else "unsigned"
    return MEANINGS.get(member.meaning, Meaning(plain, plain))


def describe_key(key: Mapping[str, Any], ascii_only: bool) -> str:
    """Return the key of a histogram as text that is safe on a terminal."""
    return ", ".join(
        f"{name} = {escape(os.fsencode(str(value)), ascii_only)}"
        for name, value in key.items()
        if name != "cgroup"  # the container says more
    )

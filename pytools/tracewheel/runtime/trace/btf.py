# SPDX-License-Identifier: BSD-2-Clause
"""Types of BPF objects, and what the types of the kernel tell of tracepoints."""

from __future__ import annotations

import errno

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.kernel_types import kernel_btf, name_at, type_named
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Member(Record):
    """A member of a struct, or a global variable, as BTF describes it. Sizes are in bytes."""

    name: str
    meaning: str  # the name of its type, such as ev_time
    section: str  # of a variable: .rodata, .bss or .data
    offset: int  # in the struct or section
    size: int
    elements: int  # of an array; 0 for anything else
    is_signed: bool
    is_bool: bool

    def pack(self, value: Any) -> bytes:
        """Return a value as the bytes of the member. Raises BpfError if bytes do not fit."""
        if self.elements or isinstance(value, bytes):
            raw = bytes(value)
            if len(raw) != self.size:
                raise BpfError(f"cannot set {self.name}: it has {self.size} bytes, not {len(raw)}")
            return raw
        return int(value).to_bytes(self.size, "little", signed=self.is_signed)

    def unpack(self, data: Any, offset: int = 0) -> int:
        """Return the value of an integer member, from a record that is at OFFSET in the data."""
        at = offset + self.offset
        return int.from_bytes(data[at : at + self.size], "little", signed=self.is_signed)

    def chars(self, data: Any) -> bytes:
        """Return the text of a member that is an array of char, up to its NUL byte."""
        return bytes(data[self.offset : self.offset + self.size]).split(b"\0")[0]


def resolve(btf: Any, number: int) -> tuple[Any, str]:
    """Return the type behind typedefs and qualifiers, and the name of the outermost typedef."""
    name = ""
    while True:
        found = lib.btf__type_by_id(btf, number)
        name = name or name_at(btf, found)
        if not lib.btf_is_mod(found) and not lib.btf_is_typedef(found):
            return found, name
        number = found.type


def describe_member(btf: Any, member: Any, section: str, offset: int) -> Member:
    """Describe a member of a struct, or a global variable."""
    found, meaning = resolve(btf, member.type)
    count = 0
    if lib.btf_is_array(found):
        array = lib.btf_array(found)
        count = array.nelems
        found, _ = resolve(btf, array.type)
    encoding = lib.btf_int_encoding(found) if lib.btf_is_int(found) else 0
    is_signed = bool(encoding & lib.BTF_INT_SIGNED)
    is_bool = bool(encoding & lib.BTF_INT_BOOL)
    size = lib.btf__resolve_size(btf, member.type)
    return Member(name_at(btf, member), meaning, section, offset, size, count, is_signed, is_bool)


def take_log() -> str:
    """Return what libbpf has said since the last call."""
    buffer = ffi.new("char[]", 1 << 16)
    length = lib.shim_log_take(buffer, len(buffer))
    return bytes(ffi.buffer(buffer, length)).decode("utf-8", "replace")


def preempts_programs() -> bool:
    """Tell whether programs at tracepoints can be preempted.

    See ON_TRACEPOINT_THRICE of read.bpf.h for what follows from it.
    """
    return bool(type_named(kernel_btf(), "class_srcu_fast_notrace_t", lib.BTF_KIND_TYPEDEF))


def tracepoint_args(name: str) -> int:
    """Return how many arguments a tracepoint of the running kernel has. Raises BpfError."""
    btf = kernel_btf()
    found = type_named(btf, f"btf_trace_{name}", lib.BTF_KIND_TYPEDEF)
    if not found:
        what = f"cannot find the tracepoint {name}"
        raise explain_failure(what, -errno.ENOENT, take_log())
    pointer, _ = resolve(btf, found.type)
    prototype, _ = resolve(btf, pointer.type)
    return int(lib.btf_vlen(prototype)) - 1  # the first is the tracepoint's own data

# SPDX-License-Identifier: BSD-2-Clause
"""Types, as BTF describes them: of a BPF object, and of the running kernel."""

from __future__ import annotations

import errno
import functools

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError, NotSupported
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Member(Record):
    """A member of a struct, or a global variable, as BTF describes it."""

    name: str
    meaning: str
    section: str
    offset: int
    size: int
    elements: int
    is_signed: bool
    is_bool: bool

    def pack(self, value: Any) -> bytes:
        """Return the value's bytes, whatever the width of the member."""
        if self.elements or isinstance(value, bytes):
            raw = bytes(value)
            if len(raw) != self.size:
                raise BpfError(f"cannot set {self.name}: {len(raw)} bytes for {self.size}")
            return raw
        return int(value).to_bytes(self.size, "little", signed=self.is_signed)

    def unpack(self, data: Any, offset: int = 0) -> int:
        """Return an integer member of the record at an offset."""
        at = offset + self.offset
        return int.from_bytes(data[at : at + self.size], "little", signed=self.is_signed)

    def chars(self, data: Any) -> bytes:
        """Return the text of an array of char, up to its NUL."""
        return bytes(data[self.offset : self.offset + self.size]).split(b"\0")[0]


def text(pointer: Any) -> str:
    """Return a C string, or nothing for NULL."""
    return ffi.string(pointer).decode() if pointer else ""


def name_at(btf: Any, named: Any) -> str:
    """Return the name of a type or member; nothing where it has none."""
    return text(lib.btf__name_by_offset(btf, named.name_off))


def type_named(btf: Any, name: str, kind: int) -> Any:
    """Return the type of a name and kind (lib.BTF_KIND_...), or None."""
    number = lib.btf__find_by_name_kind(btf, name.encode(), kind) if btf else 0
    return lib.btf__type_by_id(btf, number) if number > 0 else None


def resolve(btf: Any, number: int) -> tuple[Any, str]:
    """Return the type under typedefs and qualifiers, which have no name, and the outermost name."""
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
    is_signed, is_bool = (bool(encoding & bit) for bit in (lib.BTF_INT_SIGNED, lib.BTF_INT_BOOL))
    size = lib.btf__resolve_size(btf, member.type)
    return Member(name_at(btf, member), meaning, section, offset, size, count, is_signed, is_bool)


def take_log() -> str:
    """Return what libbpf has said since the last call."""
    buffer = ffi.new("char[]", 1 << 16)
    length = lib.shim_log_take(buffer, len(buffer))
    return bytes(ffi.buffer(buffer, length)).decode("utf-8", "replace")


@functools.cache
def kernel_btf() -> Any:
    """Return the types of the running kernel; NULL where they are missing."""
    return lib.btf__load_vmlinux_btf()


def preempts_programs() -> bool:
    """Tell whether programs at tracepoints may be preempted: see ON_TRACEPOINT_THRICE."""
    return bool(type_named(kernel_btf(), "class_srcu_fast_notrace_t", lib.BTF_KIND_TYPEDEF))


def tracepoint_args(name: str) -> int:
    """Return how many arguments a tracepoint of the running kernel has."""
    btf = kernel_btf()
    found = type_named(btf, f"btf_trace_{name}", lib.BTF_KIND_TYPEDEF)
    if not found:
        what = f"cannot find the tracepoint {name}"
        raise explain_failure(what, -errno.ENOENT, take_log())
    pointer, _ = resolve(btf, found.type)
    prototype, _ = resolve(btf, pointer.type)
    return int(lib.btf_vlen(prototype)) - 1  # the first is the tracepoint's own data


def kernel_enum(name: str) -> dict[str, int]:
    """Return an enum of the running kernel; raise NotSupported where there is none."""
    btf = kernel_btf()
    found = type_named(btf, name, lib.BTF_KIND_ENUM)
    if not found:
        raise NotSupported(f"the kernel has no enum {name}")
    return {name_at(btf, each): each.val
            for each in ffi.unpack(lib.btf_enum(found), lib.btf_vlen(found))}  # fmt: skip

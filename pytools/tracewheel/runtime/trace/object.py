# SPDX-License-Identifier: BSD-2-Clause
"""A BPF object: its programs, maps and variables, and how its programs are attached."""

from __future__ import annotations

import importlib
import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.kernel_types import name_at, text, type_named
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.trace.btf import (
    Member,
    describe_member,
    resolve,
    take_log,
)
from tracewheel.runtime.trace.sampling import Clocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_OBJECTS = os.path.join(_PACKAGE, "bpf")


class Map(Record):
    """A map as its definition describes it. Sizes are in bytes."""

    name: str
    record: str  # struct of the records of a ring; empty for other maps
    key: str  # struct of a key; empty if it is no struct
    value: str  # struct of a value; empty if it is no struct
    type: int  # enum bpf_map_type
    key_size: int
    value_size: int
    max_entries: int


class Program(Record):
    """A program, named LADDER__RUNG or LADDER__RUNG__PART.

    The part of an uprobe's name is the function that it is for; without it, it is for all of them.
    """

    name: str
    section: str
    optional: bool
    ladder: str  # what it helps to trace
    rung: str  # the way in which it does
    part: str  # what tells it from the other programs of the rung; "" for one of them
    is_uprobe: bool  # attached to functions of files, by the session's prober
    attempt: int  # 1, or 2 and 3 for stand-ins, which do what a skipped program has not done

    @property
    def function(self) -> str:
        """What the program is attached to: the part of the section behind the slash."""
        return self.section.partition("/")[2]


def _sha256(data: bytes) -> str:
    # CPython's own module, if it has one: hashlib loads OpenSSL, which takes 3 MB and 3 ms.
    for module in ("_sha2", "_sha256", "hashlib"):
        try:
            return str(importlib.import_module(module).sha256(data).hexdigest())
        except ImportError:
            continue
    raise AssertionError


def read_object(name: str) -> bytes:
    """Return the bytes of a tool's BPF object.

    Raises BpfError if it cannot be read, or if its checksum is not that of the manifest.
    """
    path = os.path.join(_OBJECTS, f"{name}.bpf.o")
    try:
        with open(path, "rb") as file:
            data = file.read()
        with open(os.path.join(_OBJECTS, "manifest")) as file:
            pairs = [line.split() for line in file]
        digests = {file_name: digest for digest, file_name in pairs}
    except OSError as error:
        raise BpfError(
            f"cannot read {error.filename}: {error.strerror}: install tracewheel again"
        ) from None
    if _sha256(data) != digests.get(f"{name}.bpf.o"):
        raise BpfError(f"cannot trust {path}: it is damaged: install tracewheel again")
    return data


class BpfObject:
    """A BPF object that is opened, and perhaps loaded. To load it needs privileges."""

    def __init__(self, data: bytes) -> None:
        self._types = os.memfd_create("types")  # those of the kernel, until it is loaded
        self.handle = lib.shim_open(data, len(data), self._types)
        if not self.handle:
            self._forget_types()
            raise explain_failure("cannot open the BPF object", -ffi.errno, take_log())
        self.clocks: Clocks | None = None
        self._btf = lib.bpf_object__btf(self.handle)
        self._links: list[Any] = []
        self._uprobes: list[int] = []  # descriptors of links

    def load(self) -> int:
        """Load the programs that are to be loaded; return 0 or a negative errno."""
        error = lib.shim_load(self.handle, self._types)
        self._forget_types()
        return int(error)

    def _forget_types(self) -> None:
        if self._types >= 0:
            os.close(self._types)
            self._types = -1

    def detach(self) -> None:
        """Detach all programs."""
        if self.clocks:
            self.clocks.end()
        while self._links:
            lib.bpf_link__destroy(self._links.pop())
        lib.shim_close_links(self._uprobes, len(self._uprobes))
        self._uprobes = []

    def close(self) -> None:
        """Detach and unload everything."""
        self.detach()
        self._forget_types()
        lib.bpf_object__close(self.handle)
        self.handle = ffi.NULL

    def programs(self) -> list[Program]:
        """Return the programs that trace, in the order of the source."""
        found = []
        for each in self._each(lib.bpf_object__next_program):
            name = text(lib.bpf_program__name(each))
            section = text(lib.bpf_program__section_name(each))
            if not section.startswith("iter/"):
                optional = not lib.bpf_program__autoload(each)
                is_uprobe = section.startswith(("uprobe", "uretprobe"))
                ladder, rung, *parts = name.split("__")
                part = parts[0] if parts else ""
                attempt = int(parts[-1]) if parts and parts[-1].isdigit() else 1
                program = Program(name, section, optional, ladder, rung, part, is_uprobe, attempt)
                found.append(program)
        return found

    def maps(self) -> list[Map]:
        """Return the maps that the source declares."""
        return [
            self._map(text(lib.bpf_map__name(each)), each)
            for each in self._each(lib.bpf_object__next_map)
            if not lib.bpf_map__is_internal(each)
        ]

    def _map(self, name: str, found: Any) -> Map:
        return Map(
            name,
            record=self._struct_of(name, "record"),
            key=self._struct_of(name, "key"),
            value=self._struct_of(name, "value"),
            type=lib.bpf_map__type(found),
            key_size=lib.bpf_map__key_size(found),
            value_size=lib.bpf_map__value_size(found),
            max_entries=lib.bpf_map__max_entries(found),
        )

    def _each(self, following: Any) -> Iterator[Any]:
        each = following(self.handle, ffi.NULL)
        while each:
            yield each
            each = following(self.handle, each)

    def _struct_of(self, map_name: str, member: str) -> str:
        """Return the struct of a member (key, value, record) of a map's definition, "" if none."""
        variable = type_named(self._btf, map_name, lib.BTF_KIND_VAR)
        definition, _ = resolve(self._btf, variable.type)
        for m in ffi.unpack(lib.btf_members(definition), lib.btf_vlen(definition)):
            pointer = lib.btf__type_by_id(self._btf, m.type)
            if name_at(self._btf, m) == member and lib.btf_is_ptr(pointer):
                struct, name = resolve(self._btf, pointer.type)
                return name if lib.btf_is_struct(struct) else ""
        return ""

    def variables(self) -> list[Member]:
        """Return the global variables, with the offsets that libbpf fills in when it opens."""
        found = []
        for section in (".rodata", ".bss", ".data"):
            kind = type_named(self._btf, section, lib.BTF_KIND_DATASEC)
            if not kind:
                continue
            for v in ffi.unpack(lib.btf_var_secinfos(kind), lib.btf_vlen(kind)):
                variable = lib.btf__type_by_id(self._btf, v.type)
                found.append(describe_member(self._btf, variable, section, v.offset))
        return found

    def members(self, struct_name: str) -> list[Member]:
        """Return the members of a struct."""
        struct = type_named(self._btf, struct_name, lib.BTF_KIND_STRUCT)
        return [
            describe_member(self._btf, m, "", lib.btf_member_bit_offset(struct, index) // 8)
            for index, m in enumerate(ffi.unpack(lib.btf_members(struct), lib.btf_vlen(struct)))
        ]

    def size(self, struct_name: str) -> int:
        """Return the size of a struct in bytes."""
        return int(type_named(self._btf, struct_name, lib.BTF_KIND_STRUCT).size)

    def set(self, variable: Member, value: bytes) -> None:
        """Set a global variable of an object that is not loaded yet."""
        area = find_map(self.handle, variable.section)
        start = ffi.cast("char *", lib.bpf_map__initial_value(area, ffi.new("size_t *")))
        ffi.memmove(start + variable.offset, value, variable.size)

    def get(self, variable: Member) -> int:
        """Return the value of a global variable, 0 if the object is not loaded yet."""
        # By a look-up, because libbpf maps .bss only from 1.5 on, except in skeletons.
        area = find_map(self.handle, variable.section)
        values = ffi.new("char[]", lib.bpf_map__value_size(area))
        lib.bpf_map_lookup_elem(lib.bpf_map__fd(area), ffi.new("uint32_t *"), values)
        return variable.unpack(ffi.buffer(values))

    def missed(self, program: Program) -> int:
        """Return how often the kernel has skipped a program, 0 on kernels that do not count."""
        # Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented")
        # (in v5.12).
        info = ffi.new("struct bpf_prog_info *")
        size = ffi.new("uint32_t *", ffi.sizeof(info[0]))
        fd = lib.bpf_program__fd(find_program(self.handle, program.name))
        lib.bpf_obj_get_info_by_fd(fd, info, size)
        return int(info.recursion_misses)

    def attach(self, program: Program) -> int:
        """Attach a program as its section says; return 0 or a negative errno."""
        found = find_program(self.handle, program.name)
        is_pattern = "*" in program.function or "?" in program.function
        if not program.section.startswith("kprobe.multi/") or is_pattern:
            return self._keep(lib.bpf_program__attach(found))
        # By the name of the one function, because libbpf would look for patterns in kallsyms.
        name = ffi.new("char[]", program.function.encode())
        names = ffi.new("const char *[]", [name])
        options = ffi.new("struct bpf_kprobe_multi_opts *", {"syms": names, "cnt": 1})
        options.sz = ffi.sizeof(options[0])
        return self._keep(lib.bpf_program__attach_kprobe_multi_opts(found, ffi.NULL, options))

    def attach_uprobe(self, program: Program, fd: int, offsets: list[int]) -> int:
        """Probe the functions at some offsets in a file, or their returns.

        Returns 0 or a negative errno.
        """
        found = find_program(self.handle, program.name)
        path = b"/proc/self/fd/%d" % fd
        returns = program.section.startswith("uret")
        if program.section.endswith(".multi"):
            program_fd = lib.bpf_program__fd(found)
            link: int = lib.shim_link_uprobe(program_fd, path, offsets, len(offsets), returns)
            if link >= 0:
                self._uprobes.append(link)
            return min(link, 0)
        for offset in offsets:
            error = self._keep(lib.bpf_program__attach_uprobe(found, returns, -1, path, offset))
            if error:
                return error
        return 0

    def attach_clocks(self, program: Program, frequency: int, cpu: int | None) -> int:
        """Run a program so many times a second, on every CPU that is online or on one.

        Returns 0 or a negative errno: -ENODEV where it runs on none.
        """
        fd = lib.bpf_program__fd(find_program(self.handle, program.name))
        self.clocks = Clocks(fd, frequency, cpu)
        # On all possible CPUs, because some containers do not see all that are online.
        return self.clocks.start(range(lib.libbpf_num_possible_cpus()))

    def _keep(self, link: Any) -> int:
        if not link:
            return int(-ffi.errno)
        self._links.append(link)
        return 0


def find_program(handle: Any, name: str) -> Any:
    """Return a program of an object. Raises BpfError, because libbpf crashes with NULL."""
    found = lib.bpf_object__find_program_by_name(handle, name.encode())
    if not found:
        raise BpfError(f"cannot find program {name} in the BPF object: install tracewheel again")
    return found


def find_map(handle: Any, name: str) -> Any:
    """Return a map or a section of an object. Raises BpfError, because libbpf crashes with NULL."""
    found = lib.bpf_object__find_map_by_name(handle, name.encode())
    if not found:
        raise BpfError(f"cannot find map {name} in the BPF object: install tracewheel again")
    return found


def write_map(handle: Any, name: str, key: bytes, value: bytes) -> int:
    """Set an element of a map; return 0 or a negative errno."""
    fd = lib.bpf_map__fd(find_map(handle, name))
    return int(lib.bpf_map_update_elem(fd, key, value, lib.BPF_ANY))


def delete_key(handle: Any, name: str, key: bytes) -> None:
    """Delete an element of a map, if it is there."""
    lib.bpf_map_delete_elem(lib.bpf_map__fd(find_map(handle, name)), key)


def autoload(handle: Any, program: str, wanted: bool) -> None:
    """Choose whether a program is loaded with its object."""
    lib.bpf_program__set_autoload(find_program(handle, program), wanted)

# SPDX-License-Identifier: BSD-2-Clause
"""Types of the running kernel and of its modules, as their BTF describes them."""

from __future__ import annotations

import functools

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def text(pointer: Any) -> str:
    """Return a C string, "" for NULL."""
    return ffi.string(pointer).decode() if pointer else ""


def name_at(btf: Any, named: Any) -> str:
    """Return the name of a type or member, "" if it has none."""
    return text(lib.btf__name_by_offset(btf, named.name_off))


def type_named(btf: Any, name: str, kind: int) -> Any:
    """Return the type of a name and kind (lib.BTF_KIND_...), or None."""
    number = lib.btf__find_by_name_kind(btf, name.encode(), kind) if btf else 0
    return lib.btf__type_by_id(btf, number) if number > 0 else None


@functools.cache
def kernel_btf() -> Any:
    """Return the types of the running kernel, NULL if the kernel does not tell them."""
    return lib.btf__load_vmlinux_btf()


@functools.cache
def module_btf(module: str) -> Any:
    """Return the types of a module with those of the kernel; NULL if the module is not loaded."""
    return lib.btf__load_module_btf(module.encode(), kernel_btf()) if kernel_btf() else ffi.NULL


def kernel_enum(name: str, module: str = "") -> dict[str, int]:
    """Return the values of an enum of the running kernel, or of a module. Raises NotSupported."""
    btf = module_btf(module) if module else kernel_btf()
    found = type_named(btf, name, lib.BTF_KIND_ENUM)
    if not found:
        raise NotSupported(f"cannot find the enum {name}: use a kernel that has it")
    return _values_of(btf, found)


def kernel_enum_with(name: str) -> dict[str, int]:
    """Return the values of the enum without a name that has this value. Raises NotSupported."""
    btf = kernel_btf()
    for each in _types_of(btf):
        if lib.btf_is_enum(each) and not each.name_off and name in _values_of(btf, each):
            return _values_of(btf, each)
    raise NotSupported(f"cannot find an enum with {name}: use a kernel that has it")


def _types_of(btf: Any) -> Iterator[Any]:
    number = 1
    found = lib.btf__type_by_id(btf, number) if btf else ffi.NULL
    while found:
        yield found
        number += 1
        found = lib.btf__type_by_id(btf, number)


def _values_of(btf: Any, enum: Any) -> dict[str, int]:
    values = ffi.unpack(lib.btf_enum(enum), lib.btf_vlen(enum))
    return {name_at(btf, each): each.val for each in values}

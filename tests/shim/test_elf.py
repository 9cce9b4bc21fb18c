# SPDX-License-Identifier: BSD-2-Clause
"""Whatever a file contains, its symbols are read without harm and within bounds."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracewheel._shim import ffi, lib

SOURCE = "".join(f"int function_{number}(int x) {{ return x + {number}; }}" for number in range(23))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give a shared library of 23 functions, with the name of a debug file."""
    path = tmp_path_factory.mktemp("elf") / "library.so"
    command = ["cc", "-x", "c", "-", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=0x12345678"]
    subprocess.run([*command, "-o", path], input=SOURCE, text=True, check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={path}", path], check=True)
    return path.read_bytes()


def look_at(content: bytes) -> tuple[Any, list[str]]:
    """Open a file of that content, return its facts and the names of all its places."""
    fd = os.memfd_create("elf")
    os.write(fd, content)
    ret = ffi.new("shim_elf **")
    error = lib.shim_elf_open(fd, ret)
    os.close(fd)
    if error:
        assert -8 == error
        return None, []
    facts = ffi.new("shim_elf *", ret[0][0])
    name, distance = ffi.new("char **"), ffi.new("uint64_t *")
    names = []
    for offset in [*range(0, len(content), 8), 2**32, 2**63, 2**64 - 1]:
        if not lib.shim_elf_find(ret[0], ret[0], offset, name, distance):
            names.append(ffi.string(name[0]).decode("utf-8", "replace"))
    lib.shim_elf_close(ret[0])
    return facts, names


def test_good_file(library: bytes) -> None:
    """All facts of a good file are found."""
    facts, names = look_at(library)

    assert {f"function_{number}" for number in range(23)} <= set(names)
    assert b"\x12\x34\x56\x78" == bytes(facts.build_id)[: facts.build_id_size]
    assert (1, b"library.so") == (facts.has_symtab, ffi.string(facts.debug_link))


@settings(max_examples=1000)
@given(data=st.data())
def test_any_damage(library: bytes, data: st.DataObject) -> None:
    """A file with wrong bytes anywhere, and perhaps without its end, gives names or none."""
    content = bytearray(library)
    header = st.integers(0, 63)
    program_headers = st.integers(64, 64 + 56 * 10)
    section_headers = st.integers(int.from_bytes(library[40:48], "little"), len(library) - 8)
    places = header | program_headers | section_headers | st.integers(0, len(library) - 8)
    values = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
    for place, value, size in data.draw(
        st.lists(st.tuples(places, values, st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=8)
    ):
        content[place : place + size] = value.to_bytes(8, "little")[:size]
    end = data.draw(st.none() | st.integers(0, len(library)))
    facts, _ = look_at(bytes(content[:end]))

    assert facts is None or facts.bytes < 1 << 20


@given(st.binary(max_size=300), st.binary(max_size=64))
def test_any_noise(content: bytes, magic: bytes) -> None:
    """A file that is not an ELF file is refused, or has no symbols."""
    for start in (b"", b"\x7fELF", b"\x7fELF\x02\x01\x01"):
        _, names = look_at(start + magic + content)
        assert [] == names


def test_huge_sections(library: bytes) -> None:
    """Sections that claim gigabytes of a file full of holes are left out, at once."""
    content = bytearray(library)
    at = int.from_bytes(library[40:48], "little")
    for header in range(at, len(library), 64):
        content[header + 32 : header + 40] = (60 << 30).to_bytes(8, "little")
    fd = os.memfd_create("elf")
    os.write(fd, content)
    os.truncate(fd, 64 << 30)
    ret = ffi.new("shim_elf **")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    assert 0 == lib.shim_elf_open(fd, ret)
    os.close(fd)
    lib.shim_elf_close(ret[0])

    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def names_of_lines(
    text: bytes, *addresses: int, kallsyms: bool = False
) -> list[tuple[bytes, int] | None]:
    """Return what is at some addresses by the lines of a JIT compiler, or of the kernel."""
    ret, name, distance = ffi.new("shim_elf **"), ffi.new("char **"), ffi.new("uint64_t *")
    lines = ffi.new("char[]", text)
    assert 0 == lib.shim_elf_of_lines(lines, len(text), kallsyms, ret)
    found = [
        None
        if lib.shim_elf_find(ret[0], ret[0], address, name, distance)
        else (ffi.string(name[0]), distance[0])
        for address in addresses
    ]
    lib.shim_elf_close(ret[0])
    return found


def test_lines() -> None:
    """The last line for an address is used; half a line and other texts are not."""
    text = b"1000 10 first\n0x2000 20 a b c\nx y z\n\n \n1000\n1000 8\n1000 10 second\n3000 10 ha"

    assert [(b"second", 15), None, (b"a b c", 0), None] == names_of_lines(
        text, 0x100F, 0x1011, 0x2000, 0x3000
    )


def test_lines_of_the_kernel() -> None:
    """Only code near a symbol has a name; a module is not part of the name."""
    text = b"0 T zero\n1000 T first\n1010 D data\n3000 t third\t[module]\n2000 W second\n3010 T\n"
    addresses = (0x10, 0x1018, 0x2001, 0x3018, 0x3000 + (1 << 20))
    found = names_of_lines(text, *addresses, kallsyms=True)

    assert [None, (b"first", 0x18), (b"second", 1), (b"third", 0x18), None] == found


@given(
    st.lists(st.binary(max_size=40) | st.from_regex(rb"[0-9a-f]{1,17} [0-9a-fTt]{1,17} .{0,9}")),
    st.booleans(),
)
def test_any_lines(lines: list[bytes], kallsyms: bool) -> None:
    """Any text is read to its end and not beyond."""
    text = b"\n".join(lines)
    assert 3 == len(names_of_lines(text, 0, 1 << 40, 2**64 - 1, kallsyms=kallsyms))


def demangled(name: bytes) -> str | None:
    """Return a C++ name, or None."""
    out = ffi.new("char[]", 100)
    return None if lib.shim_demangle(name, out, 100) else ffi.string(out).decode()


def test_demangle() -> None:
    """A name is written as in the source and cut where the room ends; no name is left alone."""
    if demangled(b"_Z1fv") is None:
        pytest.skip("needs libstdc++.so.6")

    assert "house::door(int, char const*)" == demangled(b"_ZN5house4doorEiPKc")
    assert "x" * 99 == demangled(b"_Z500" + b"x" * 500 + b"v")
    assert None is demangled(b"_Z")
    assert None is demangled(b"_Z3f")


def test_demangle_a_bomb() -> None:
    """A name of 250 bytes that stands for 500 MB is left alone."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name = "_Z1fPi"
    for number in range(-1, 48, 2):
        place = "" if number < 0 else digits[number // 36] * (number > 35) + digits[number % 36]
        name += f"PFvS{place}_S{place}_E"
    begin = time.process_time()

    assert None is demangled(name.encode())
    assert time.process_time() - begin < 0.1


PARTS = ["N", "E", "I", "S_", "S0_", "T_", "Dp", "J", "St", "Sa", "1a", "3foo", "i", "P", "K", "F",
         "v", "C1", "D0", "L", "sp", "X"]  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PARTS)))
def test_demangle_anything(parts: list[str]) -> None:
    """No name takes long."""
    begin = time.process_time()
    demangled(f"_Z{''.join(parts)}".encode())

    assert time.process_time() - begin < 1

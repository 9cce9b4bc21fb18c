# SPDX-License-Identifier: BSD-2-Clause
"""Functions are found where other programs find them, and forged files do no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tracewheel import _shim
from tracewheel.runtime.host.symbols import find_functions

BASH = Path("/bin/bash")
SOURCE = """
int lone(void) { return 1; }
static int __attribute__((used, noinline)) local(void) { return 2; }
int before_lone(void) { return local(); }
static int (*choose(void))(void) { return local; }
int chosen(void) __attribute__((ifunc("choose")));
extern int missing(void);
int value = 3;
int caller(void) { return missing(); }
"""


def found_in(path: Path, *names: str) -> dict[str, int]:
    """Return the functions that are found."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return find_functions(fd, names)
    finally:
        os.close(fd)


def listed_in(path: Path, option: str) -> dict[str, int]:
    """Return the functions that nm lists; code lies here at the offset that is its address."""
    listed = subprocess.run(["nm", option, "--defined-only", path], capture_output=True, text=True)
    words = (line.split() for line in listed.stdout.splitlines())
    return {name: int(address, 16) for address, kind, name in words if kind in "tT"}


@pytest.mark.parametrize("path", [BASH, Path(str(_shim.__file__))])
def test_exported_functions(path: Path) -> None:
    """All that a program or library exports is found at the address that nm tells."""
    listed = listed_in(path, "-D")

    assert listed
    assert listed == found_in(path, *listed)


def test_kinds_of_symbols(tmp_path: Path) -> None:
    """The functions that a file defines are found; other symbols and functions are not."""
    (tmp_path / "x.c").write_text(SOURCE)
    library = tmp_path / "x.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "x.c"], check=True)
    listed = listed_in(library, "-B")
    names = ("lone", "local", "before_lone", "caller")
    others = ("none", "missing", "value", "ne", "chosen")

    assert {name: listed[name] for name in names} == found_in(library, *names, *others)
    subprocess.run(["objcopy", "--strip-symbol=lone", library], check=True)
    assert "lone" not in listed_in(library, "-B")
    assert {"lone": listed["lone"], "local": listed["local"]} == found_in(library, "lone", "local")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01", b"x" * 5000])
def test_no_elf(tmp_path: Path, content: bytes) -> None:
    """A file that is not an ELF file has no functions."""
    (tmp_path / "x").write_bytes(content)

    assert {} == found_in(tmp_path / "x", "readline")


@given(
    st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), max_size=20), st.booleans()
)
@example([(at, 255) for at in range(40, 64)], True)
def test_forged(changes: list[tuple[int, int]], near_the_end: bool) -> None:
    """Whatever a file contains, looking into it ends soon and finds offsets or nothing."""
    with tempfile.TemporaryFile() as file:
        data = bytearray(Path(str(_shim.__file__)).read_bytes())
        for at, byte in changes:
            data[-1 - at if near_the_end and at > 64 else at] = byte
        file.write(data)
        file.flush()
        found = find_functions(file.fileno(), ("PyInit__shim",))

    assert all(0 <= offset < sys.maxsize for offset in found.values())

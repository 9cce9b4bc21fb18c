# SPDX-License-Identifier: BSD-2-Clause
"""The types that an object is given are all that it asks for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import tracewheel
from tracewheel.runtime.spec.catalogue import tool_names

SHIM = Path(__file__).parents[2] / "libbpf_shim"
OBJECTS = Path(tracewheel.__file__).parent / "bpf"


@pytest.fixture(scope="module")
def relocate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the program that prints relocations."""
    program = tmp_path_factory.mktemp("types") / "relocations"
    sources = [str(Path(__file__).with_name("relocations.c")), str(SHIM / "types.c")]
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "libbpf"], text=True)
    command = ["cc", "-Wall", "-Werror", f"-I{SHIM}", *sources, "-o", str(program), *flags.split()]
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize("name", tool_names())
def test_relocations(relocate: Path, name: str) -> None:
    """A program is relocated as libbpf relocates it by all of the kernel's types."""
    by = {
        types: subprocess.run(
            [relocate, OBJECTS / f"{name}.bpf.o", types], check=True, capture_output=True, text=True
        ).stdout
        for types in ("all", "chosen")
    }

    assert "patched insn" in by["all"]
    assert by["all"] == by["chosen"]


def test_nothing_else_is_asked() -> None:
    """No program asks what cannot be told by types whose pointers point to nothing."""
    sources = SHIM.parent.glob("bpf_src/**/*.[ch]")
    text = "".join(path.read_text() for path in sources)

    for name in ("bpf_core_type_exists", "bpf_core_type_matches", "bpf_core_type_id_kernel"):
        assert name not in text

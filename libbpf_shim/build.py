# SPDX-License-Identifier: BSD-2-Clause
"""Describe the extension tracewheel._shim to cffi."""

import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
GENERATED = HERE.parent / "build" / "shim"


def unprintable() -> str:
    """Return a C table of the code points from U+0080 on that str.isprintable() denies."""
    ranges: list[tuple[int, int]] = []
    for point in range(0x80, sys.maxunicode + 1):
        if chr(point).isprintable():
            continue
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1] = (ranges[-1][0], point)
        else:
            ranges.append((point, point))
    rows = ",\n".join(f"\t{{ {first:#x}, {last:#x} }}" for first, last in ranges)
    return f"static const struct {{ uint32_t first, last; }} unprintable[] = {{\n{rows}\n}};\n"


def flags(*options: str) -> list[str]:
    """Ask pkg-config for the flags of libbpf, and of libelf, which libbpf needs anyway."""
    return subprocess.check_output(["pkg-config", *options, "libbpf", "libelf"], text=True).split()


GENERATED.mkdir(parents=True, exist_ok=True)
(GENERATED / "unprintable.h").write_text(unprintable())

header = (HERE / "shim.h").read_text()
ffibuilder = FFI()
ffibuilder.cdef("\n".join(line for line in header.splitlines() if not line.startswith("#")))
ffibuilder.set_source(
    "tracewheel._shim",
    '#include "shim.h"',
    sources=[f"libbpf_shim/{name}.c" for name in ("shim", "ring", "render", "elf")],
    include_dirs=["libbpf_shim", "build/shim"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", *flags("--cflags")],
    extra_link_args=flags("--libs"),
    py_limited_api=True,
)

# SPDX-License-Identifier: BSD-2-Clause
"""Describe the extension tracewheel._shim to cffi."""

import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
GENERATED = HERE.parent / "build" / "shim"


def printable() -> str:
    """Return a C table with a bit for each code point that str.isprintable() grants."""
    words = (
        sum(chr(first + bit).isprintable() << bit for bit in range(64))
        for first in range(0, sys.maxunicode + 1, 64)
    )
    return "static const uint64_t printable[] = {\n" + ",\n".join(map(hex, words)) + "\n};\n"


def flags(*options: str) -> list[str]:
    """Ask pkg-config for the flags of libbpf, and of libelf, which libbpf needs anyway."""
    return subprocess.check_output(["pkg-config", *options, "libbpf", "libelf"], text=True).split()


GENERATED.mkdir(parents=True, exist_ok=True)
(GENERATED / "printable.h").write_text(printable())

header = (HERE / "shim.h").read_text()
ffibuilder = FFI()
ffibuilder.cdef("\n".join(line for line in header.splitlines() if not line.startswith("#")))
ffibuilder.cdef((HERE / "bindings.h").read_text())
ffibuilder.set_source(
    "tracewheel._shim",
    '#include <bpf/bpf.h>\n#include <bpf/btf.h>\n#include <bpf/libbpf.h>\n#include "shim.h"',
    sources=[
        f"libbpf_shim/{name}.c" for name in ("shim", "types", "uprobes", "ring", "render", "elf")
    ],
    include_dirs=["libbpf_shim", "build/shim"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", *flags("--cflags")],
    extra_link_args=flags("--libs"),
    py_limited_api=True,
)

# SPDX-License-Identifier: BSD-2-Clause
"""BPF programs show the path to an NVMe disk by the name of the disk."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

CHECKOUT = Path(__file__).parents[2]
DISK_LEN = 32
SOURCE = """
typedef unsigned long long __u64;
typedef unsigned int __u32;
typedef unsigned char __u8;
#define __always_inline inline __attribute__((always_inline))
#define barrier_var(x) asm volatile("" : "+r"(x))
#include "nvme.bpf.h"
void cut(char *name) { cut_nvme_path(name); }
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the function of the header, compiled for this machine."""
    folder = tmp_path_factory.mktemp("nvme")
    (folder / "cut.c").write_text(SOURCE)
    library = folder / "cut.so"
    include = CHECKOUT / "bpf_src/include"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-I", include, "-o", library, folder / "cut.c"],
        check=True,
    )
    function = ctypes.CDLL(str(library)).cut

    def call(name: str) -> str:
        buffer = ctypes.create_string_buffer(name.encode(), DISK_LEN)
        function(buffer)
        return buffer.value.decode()

    return call


@given(*[st.integers(0, 9999)] * 3)
def test_paths_become_disks(cut: Callable[[str], str], disk: int, path: int, space: int) -> None:
    """The number of the controller is cut out, and a disk's own name stays."""
    assert f"nvme{disk}n{space}" == cut(f"nvme{disk}c{path}n{space}")
    assert f"nvme{disk}n{space}" == cut(f"nvme{disk}n{space}")


@given(st.from_regex(r"[a-z][a-z0-9!-]{0,30}", fullmatch=True))
def test_other_names_stay(cut: Callable[[str], str], name: str) -> None:
    """Names of other disks stay as they are."""
    if not re.match("nvme", name):
        assert name == cut(name)

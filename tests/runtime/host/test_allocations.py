# SPDX-License-Identifier: BSD-2-Clause
"""Flags of allocations have the names that the kernel tells."""

from __future__ import annotations

import re
import subprocess

import pytest
from tracewheel.runtime.host import allocations

# As kernels print them that have macros, and as those that have an enum of the bits.
MACROS = (
    'print fmt: (REC->gfp_flags) ? __print_flags(REC->gfp_flags, "|", '
    '{(unsigned long)(((( gfp_t)(0x400u|0x800u)) | (( gfp_t)0x40u)) & ~(( gfp_t)0x800u)), "GFP_A"},'
    ' {(unsigned long)(( gfp_t)0x01u), "GFP_DMA"} ) : "none"'
)
BITS = '{(unsigned long)(((( gfp_t)((((1UL))) << (10)))|(( gfp_t)((((1UL))) << (6))))), "GFP_A"}'


def test_formats() -> None:
    """The numbers are those of the expressions, and what is not understood has no names."""
    assert ((0x440, "GFP_A"), (1, "GFP_DMA")) == allocations.parse_format(MACROS)
    assert ((0x440, "GFP_A"),) == allocations.parse_format(BITS)
    assert () == allocations.parse_format('{(unsigned long)sizeof(long), "GFP_A"}')
    assert () == allocations.parse_format('{(unsigned long)(1, "GFP_A"}')


def test_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tracefs cannot be read, each bit has the name that the kernel's types tell."""
    types = ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux"]
    dump = subprocess.run(types, capture_output=True, text=True, check=True).stdout
    bits = {int(bit): name for name, bit in re.findall(r"'_(__GFP_\w+)_BIT' val=(\d+)", dump)}
    bits = {bit: name for bit, name in bits.items() if name != "__GFP_LAST"}  # their bound
    if not bits:
        pytest.skip("needs a kernel with an enum of the flags' bits")
    monkeypatch.setattr(allocations, "_FORMAT", "/nonexistent")
    allocations._names.cache_clear()
    shown = {bit: allocations.flags(1 << bit) for bit in bits}
    beyond = allocations.flags(1 | 1 << 31)
    allocations._names.cache_clear()

    assert len(bits) > 20
    assert bits == shown
    assert f"{bits[0]}|0x80000000" == beyond
    assert "0x0" == allocations.flags(0)

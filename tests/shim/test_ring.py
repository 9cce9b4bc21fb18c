# SPDX-License-Identifier: BSD-2-Clause
"""The reader of a ring takes what is submitted, and nothing beyond."""

from __future__ import annotations

import errno
from typing import Any

from tracewheel._shim import ffi, lib

SIZE = 256


def read_ring(content: bytes, producer: int) -> tuple[int, bytes, int]:
    """Read a ring of that content; return the error, what was read, and where it ended."""
    data = ffi.new("char[]", content.ljust(SIZE, b"\0"))
    consumer, end = ffi.new("uint64_t *"), ffi.new("uint64_t *", producer)
    ring = ffi.new("struct shim_ring *", (consumer, end, data, SIZE - 1))
    buffer: Any = ffi.new("char[]", 4096)
    used = ffi.new("size_t *")
    error = lib.shim_read(ring, buffer, 4096, used)
    return error, bytes(ffi.buffer(buffer, used[0])), consumer[0]


def test_record_beyond_the_end() -> None:
    """A record that claims to be longer than what was written is an error behind the good ones."""
    good = (5).to_bytes(8, "little") + b"hello\0\0\0"
    for length in (9, SIZE, 4000, 2**30 - 1):
        claims = length.to_bytes(8, "little") + bytes(8)

        assert (0, good, 16) == read_ring(good + claims, 32)
        assert (-errno.EBADMSG, b"", 0) == read_ring(claims, 16)

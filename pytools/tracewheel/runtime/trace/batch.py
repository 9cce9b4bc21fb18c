# SPDX-License-Identifier: BSD-2-Clause
"""Batches of records: before each record stands its length, behind it padding to 8 bytes."""

from __future__ import annotations

import struct

from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracewheel.runtime.trace.btf import Member

# enum ev_state of record.bpf.h
ABSENT = 3
ADDRESS = 4
_PART = struct.Struct("<IHH")  # struct ev_part


class Layout(Record):
    """The members of a record, and those of them that --json and the library show."""

    members: list[Member]
    shown: list[Member]
    size: int  # bytes, without the parts behind the struct


def framed(records: Iterable[bytes | memoryview]) -> bytes:
    """Return a batch of records."""
    parts: list[bytes | memoryview] = []
    for record in records:
        padding = bytes(padded(len(record)) - len(record))
        parts += [len(record).to_bytes(8, "little"), record, padding]
    return b"".join(parts)


def padded(size: int) -> int:
    """Return a number of bytes rounded up to a multiple of 8."""
    return (size + 7) // 8 * 8


def records_of(batch: memoryview) -> Iterator[memoryview]:
    """Yield the records of a batch."""
    at = 0
    while at < len(batch):
        length = int.from_bytes(batch[at : at + 8], "little")
        start = at + 8
        yield batch[start : start + length]
        at = start + padded(length)


def part_of(record: memoryview, member: Member, size: int) -> tuple[bytes, int]:
    """Return the bytes that a member of type struct ev_part stands for, and its enum ev_state.

    ``size`` is that of the record's struct, behind which the bytes are.
    """
    offset, length, state = _PART.unpack_from(record, member.offset)
    start = size + offset
    return bytes(record[start : start + length]), state

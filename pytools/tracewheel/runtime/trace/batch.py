# SPDX-License-Identifier: BSD-2-Clause
"""Records, as they lie in a batch: each behind its length, padded to 8 bytes."""

from __future__ import annotations

import struct

from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracewheel.runtime.trace.btf import Member

ABSENT = 3  # EV_ABSENT of record.bpf.h
_PART = struct.Struct("<IHH")  # struct ev_part


class Layout(Record):
    """What a record consists of, and which of its members are shown to programs (--json)."""

    members: list[Member]
    shown: list[Member]
    size: int  # bytes, without the parts behind the struct


def framed(records: Iterable[bytes | memoryview]) -> bytes:
    """Return records as they lie in a batch."""
    return b"".join(
        len(record).to_bytes(8, "little") + bytes(record) + bytes(-len(record) % 8)
        for record in records
    )


def records_of(batch: memoryview) -> Iterator[memoryview]:
    """Yield the records of a batch."""
    at = 0
    while at < len(batch):
        length = int.from_bytes(batch[at : at + 8], "little")
        yield batch[at + 8 : at + 8 + length]
        at += 8 + (length + 7) // 8 * 8


def part_of(record: memoryview, member: Member, size: int) -> tuple[bytes, int]:
    """Return the bytes of a struct ev_part and its state, of enum ev_state."""
    at, length, state = _PART.unpack_from(record, member.offset)
    return bytes(record[size + at : size + at + length]), state

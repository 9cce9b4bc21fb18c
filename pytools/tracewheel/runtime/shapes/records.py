# SPDX-License-Identifier: BSD-2-Clause
"""Read the records of a ring, in batches, until the tracing is over."""

from __future__ import annotations

import functools
import math
import os
import time

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.shapes.intervals import TARGET_ENDED, wait
from tracewheel.runtime.show.lines import new_buffer
from tracewheel.runtime.show.meaning import meaning_of
from tracewheel.runtime.show.output import Stop
from tracewheel.runtime.trace.batch import ABSENT, Layout, framed, part_of, records_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from tracewheel.runtime.show.output import Output
    from tracewheel.runtime.spec.glob import Glob
    from tracewheel.runtime.spec.shapes import Stream
    from tracewheel.runtime.trace.btf import Member
    from tracewheel.runtime.trace.ring import Ring
    from tracewheel.runtime.trace.session import Session

_BATCH = 1 << 19  # bytes
# Seconds between reads while records keep coming: a wake-up each would cost more than they do.
# Where the ring fills by more than this share meanwhile, it is read sooner, before it is full.
_PACE = 0.008
_HURRY = 0.002
_MANY = 1 / 8


class Reader:
    """Read batches of records from the session's ring, dropping what the globs do not match."""

    def __init__(self, session: Session, tool: Stream) -> None:
        self.session = session
        record = session.maps[tool.ring].record
        members = session.object.members(record)
        shown = [member for member in members if self._is_shown(member)]
        self.layout = Layout(members, shown, session.object.size(record))
        self._pending = tool.pending
        self._pending_records: Iterator[bytes] = iter(())
        self.buffer = new_buffer("char[]", _BATCH)
        self._used = ffi.new("size_t *")
        self._globs = [
            (next(m for m in members if m.name == name), compiled)
            for name, compiled in session.request.globs
        ]

    def _is_shown(self, member: Member) -> bool:
        """Tell what JSON and the library show: not padding, directories, or what none asked for."""
        kind = meaning_of(member).json
        if member.name.startswith("_") or not kind:
            return False
        if "stack" in kind:
            return bool(self.session.request.stack)
        if member.meaning == "ev_cgroup":
            return bool(self.session.request.variables().get("with_cgroup"))
        return True

    def read(self) -> int:
        """Fill the buffer, return how many bytes of it are used; 0: there are no more."""
        used = self._read_ring()
        while used:
            kept = self._without_arrivals(used)
            for member, compiled in self._globs:
                kept = self._keep(kept, functools.partial(self._matches, member, compiled))
            if kept:
                return kept
            used = self._read_ring()
        pending = next(self._pending_records, b"")
        return self._fill([pending]) if pending else 0

    def records(self, used: int) -> Iterator[memoryview]:
        """Return the records of the buffer."""
        return records_of(memoryview(ffi.buffer(self.buffer, used)))

    def finish(self) -> None:
        """End the tracing; behind what is left in the ring, read what has begun and not ended."""
        self.session.detach()
        self._pending_records = self._read_pending()

    def _read_ring(self) -> int:
        assert self.session.ring
        error = lib.shim_read(self.session.ring.memory, self.buffer, _BATCH, self._used)
        if error:
            raise BpfError(f"cannot read the ring buffer: {os.strerror(-error)}")
        return int(self._used[0])

    def _read_pending(self) -> Iterator[bytes]:
        """Yield records of what has begun, in the order of their times, with their tails."""
        found = [dict(self.session.read_map(name)) for name in self._pending]
        if not found:
            return
        records, *tails = found
        time_of = self.layout.members[0].unpack
        for key, record in sorted(records.items(), key=lambda item: time_of(item[1])):
            yield record + b"".join(tail.get(key, b"") for tail in tails)

    def _fill(self, records: Iterable[Any]) -> int:
        """Lay records out in the buffer, where they may come from; return their bytes."""
        batch = framed(records)
        ffi.buffer(self.buffer, len(batch))[:] = batch
        return len(batch)

    def _keep(self, used: int, is_wanted: Callable[[memoryview], bool]) -> int:
        return self._fill(filter(is_wanted, self.records(used)))

    def _without_arrivals(self, used: int) -> int:
        """Tell the prober what ON_ARRIVAL of uprobe.bpf.h puts between records; drop it."""
        prober = self.session.prober
        if not prober:
            return used
        for record in self.records(used):
            if len(record) < self.layout.size:
                prober.arrived(int.from_bytes(record, "little"))
        return self._keep(used, lambda record: len(record) >= self.layout.size)

    def _matches(self, member: Member, compiled: Glob, record: memoryview) -> bool:
        """Tell whether a record's text matches, or is absent: then another record's did."""
        if meaning_of(member).json == "chars":
            return compiled.matches(member.chars(record))
        text, state = part_of(record, member, self.layout.size)
        return state == ABSENT or compiled.matches(text)


def batches(reader: Reader, output: Output | None, stop: Stop) -> Iterator[int]:
    """Yield how many bytes of the reader's buffer each batch has, until the tracing is over."""
    session = reader.session
    assert session.ring
    end = time.monotonic() + (session.request.duration or math.inf)
    status = 0
    pace = math.inf  # idle: the ring wakes us
    while not stop.asked and status != TARGET_ENDED and time.monotonic() < end:
        left = min(end - time.monotonic(), pace)
        status = wait(session, output, stop, left, for_records=pace == math.inf)
        pace = _pace_after(session.ring)
        used = reader.read()
        while used:
            yield used
            used = reader.read() if used > _BATCH // 2 and not stop.asked else 0
    reader.finish()
    used = reader.read()
    while used:
        yield used
        used = reader.read()


def _pace_after(ring: Ring) -> float:
    """Return how long to wait, in seconds, behind the read of what a ring holds now."""
    unread = ring.unread()
    if not unread:
        return math.inf
    return _HURRY if unread > ring.size * _MANY else _PACE

# SPDX-License-Identifier: BSD-2-Clause
"""Read the records of a ring in batches, until the tracing is over."""

from __future__ import annotations

import functools
import math
import os
import time

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.shapes.intervals import TARGET_ENDED, say_ended, wait
from tracewheel.runtime.show.lines import new_buffer
from tracewheel.runtime.show.meaning import meaning_of
from tracewheel.runtime.show.output import Stop
from tracewheel.runtime.trace.batch import ABSENT, ADDRESS, Layout, framed, part_of, records_of

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
# Seconds between reads while records keep coming. To be woken by each record would cost more than
# the record itself. If the ring fills by more than the share _MANY meanwhile, it is read sooner.
_PACE = 0.008
_HURRY = 0.002
_MANY = 1 / 8
_IPV4_PREFIX = b"\0" * 10 + b"\xff\xff"  # of an address of IPv4, as IPv6 writes it


class Reader:
    """Read batches of the records from the session's ring that the globs match."""

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
        """Tell whether JSON and the library show a member.

        They do not show padding, directories, which are part of paths, and stacks and cgroups that
        were not asked for.
        """
        kind = meaning_of(member).json
        if member.name.startswith("_") or not kind:
            return False
        if "stack" in kind:
            return member.name in self.session.request.stacks
        if member.meaning == "ev_cgroup":
            return bool(self.session.request.variables().get("with_cgroup"))
        return True

    def read(self) -> int:
        """Fill the buffer; return how many bytes of it are used, 0 if there are no records."""
        used = self._read_next()
        while used:
            kept = self._without_arrivals(used)
            for member, compiled in self._globs:
                kept = self._keep(kept, functools.partial(self._matches, member, compiled))
            if kept:
                return kept
            used = self._read_next()
        return 0

    def _read_next(self) -> int:
        """Fill the buffer from the ring, or else with a pending record; return how many bytes."""
        used = self._read_ring()
        pending = b"" if used else next(self._pending_records, b"")
        return self._fill([pending]) if pending else used

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
        """Yield the records of what has begun and not ended, with their tails, by their times."""
        if not self._pending:
            return
        name, *tail_names = self._pending
        records = dict(self.session.read_map(name))
        tails = [dict(self.session.read_map(tail_name)) for tail_name in tail_names]
        time_member = self.layout.members[0]
        for key in sorted(records, key=lambda key: time_member.unpack(records[key])):
            tail = b"".join(each.get(key, b"") for each in tails)
            yield records[key] + tail

    def _fill(self, records: Iterable[Any]) -> int:
        """Put records into the buffer, in which they may be already; return how many bytes."""
        batch = framed(records)
        ffi.buffer(self.buffer, len(batch))[:] = batch
        return len(batch)

    def _keep(self, used: int, is_wanted: Callable[[memoryview], bool]) -> int:
        return self._fill(filter(is_wanted, self.records(used)))

    def _without_arrivals(self, used: int) -> int:
        """Drop what ON_ARRIVAL of uprobe.bpf.h puts between records: ids of new processes.

        The prober is told of them.
        """
        prober = self.session.prober
        if not prober:
            return used
        for record in self.records(used):
            if len(record) < self.layout.size:
                prober.arrived(int.from_bytes(record, "little"))
        return self._keep(used, lambda record: len(record) >= self.layout.size)

    def _matches(self, member: Member, compiled: Glob, record: memoryview) -> bool:
        """Tell whether a record's text matches a glob, or is absent.

        A text is absent from a record that belongs to an earlier one, which has matched.
        """
        if meaning_of(member).json == "chars":
            return compiled.matches(member.chars(record))
        text, state = part_of(record, member, self.layout.size)
        if state == ADDRESS:
            text = _written_address(text)
        return state == ABSENT or compiled.matches(text)


def _written_address(address: bytes) -> bytes:
    """Return the text of an address in IPv6's form, as the shim shows it."""
    import socket

    if address.startswith(_IPV4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[len(_IPV4_PREFIX) :]).encode()
    return socket.inet_ntop(socket.AF_INET6, address).encode()


def batches(reader: Reader, output: Output | None, stop: Stop) -> Iterator[int]:
    """Yield the size of each batch in the reader's buffer, in bytes, until the tracing is over."""
    session = reader.session
    assert session.ring
    end = time.monotonic() + (session.request.duration or math.inf)
    status = 0
    pace = math.inf  # without records, the ring itself ends the wait
    while not stop.asked and status != TARGET_ENDED and time.monotonic() < end:
        left = min(end - time.monotonic(), pace)
        status = wait(session, output, stop, left, for_records=pace == math.inf)
        pace = _pace_after(session.ring)
        used = reader.read()
        while used:
            yield used
            may_be_more = used > _BATCH // 2
            used = reader.read() if may_be_more and not stop.asked else 0
        if status != TARGET_ENDED:
            say_ended(session, output)
    reader.finish()
    used = reader.read()
    while used:
        yield used
        used = reader.read()
    say_ended(session, output)


def _pace_after(ring: Ring) -> float:
    """Return how long to wait, in seconds, behind the read of what a ring holds now."""
    unread = ring.unread()
    if not unread:
        return math.inf
    return _HURRY if unread > ring.size * _MANY else _PACE

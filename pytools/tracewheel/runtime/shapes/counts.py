# SPDX-License-Identifier: BSD-2-Clause
"""The shapes Counts and Top: sums since the last report, as rows or as a table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.clocks import boot_time_ns
from tracewheel.runtime.shapes.intervals import reports
from tracewheel.runtime.show.lines import Lines, Objects, header, style_of
from tracewheel.runtime.spec.shapes import Top
from tracewheel.runtime.trace.batch import Layout, framed, padded
from tracewheel.runtime.trace.btf import Member
from tracewheel.runtime.trace.object import find_map, write_map

if TYPE_CHECKING:
    from tracewheel.runtime.show.output import Output, Stop
    from tracewheel.runtime.spec.shapes import Counts, Digest
    from tracewheel.runtime.trace.session import Session


def _number(name: str, meaning: str, offset: int) -> Member:
    return Member(
        name,
        meaning,
        section="",
        offset=offset,
        size=8,
        elements=0,
        is_signed=False,
        is_bool=False,
    )


# The members that each row begins with: when the interval ended, how long it was, and the total and
# the maximum of the sums that the rows of the interval are sorted by.
WHEN = (
    _number("time", "ev_time", 0),
    _number("interval", "ev_duration", 8),
    _number("total", "", 16),
    _number("most", "", 24),
)
_WHEN_BYTES = 32
_REPORT = ".data.report"  # the map of top_report in count.bpf.h


class Reader:
    """Read a session's sums since the last reading, as records.

    A record is made of the members of WHEN, those of the key, and the sums.
    """

    def __init__(self, session: Session, tool: Counts | Top) -> None:
        self.session = session
        self._map = session.maps[tool.sums]
        self._array = self._map.name  # the map whose sums only grow
        self._sums = session.object.members(self._map.value)
        self._struct = self._map.value  # the struct that rows are named after
        key: list[Member] = []
        self._index: Member | None = None
        self._key_size = 0
        if isinstance(tool, Top):
            struct, self._report = session.object.members(self._map.key)
            self._struct = struct.meaning
            key = session.object.members(self._struct)
            self._key_size = struct.size
            self._container_key = session.key_by_container(key)
            if tool.indexed:
                self._array, index_name = tool.indexed
                self._index = next(m for m in key if m.name == index_name)
        sums_offset = _WHEN_BYTES + padded(self._key_size)
        key_members = [m._replace(offset=_WHEN_BYTES + m.offset) for m in key]
        sum_members = [m._replace(offset=sums_offset + m.offset) for m in self._sums]
        members = [*WHEN, *key_members, *sum_members]
        columns = session.request.columns()
        wanted = {"time", "interval", *(column.member for column in columns)}
        shown = [m for m in members if m.name in wanted]
        self.layout = Layout(members, shown, sums_offset + self._map.value_size)
        sums = {m.name: m for m in self._sums}
        order = [sums[c.member] for c in columns if c.member in sums]
        self._order = order[getattr(tool, "by", slice(-1, None))]
        self._report_number = 0
        self._earlier: dict[bytes, bytes] = {}
        self._since = session.started

    def read(self, since_last: bool = True) -> list[Any]:
        """Return the rows as objects of a class of tracewheel.events.

        They are always of the time since the last reading, whatever ``since_last`` says.
        """
        return self.objects(self.rows())

    def objects(self, rows: list[bytes]) -> list[Any]:
        """Return records as objects of a class of tracewheel.events."""
        style = style_of(self.session.request, self.session.started, ascii_only=False)
        style = style._replace(as_json=True)
        objects = Objects(self.session.name, self._struct, self.layout, style)
        batch = framed(rows)
        return list(objects.of(ffi.from_buffer(batch), len(batch)))

    def rows(self) -> list[bytes]:
        """Return the records, those with the greatest sums first."""
        found = self._take() if self._key_size else []
        if self._index or not self._key_size:
            found += self._subtract()
        now = boot_time_ns()
        found.sort(key=self._place)
        sorted_by = [self._sorted_by(sums) for _, sums in found]
        when = [now, now - self._since, sum(sorted_by), max(sorted_by, default=0)]
        self._since = now
        begin = b"".join(number.to_bytes(8, "little") for number in when)
        padding = bytes(padded(self._key_size) - self._key_size)
        return [begin + key + padding + sums for key, sums in found]

    def _place(self, row: tuple[bytes, bytes]) -> tuple[int, bytes]:
        """Return what a row, of key and sums, is sorted by: great sums first, then by key."""
        key, sums = row
        return -self._sorted_by(sums), key

    def _sorted_by(self, sums: bytes) -> int:
        return sum(m.unpack(sums) for m in self._order)

    def _add(self, sums: bytes, more: bytes) -> bytes:
        added = (
            max(m.unpack(sums), m.unpack(more))
            if m.meaning == "ev_longest"
            else m.unpack(sums) + m.unpack(more)
            for m in self._sums
        )
        return b"".join(each.to_bytes(8, "little") for each in added)

    def _growth(self, sums: bytes, earlier: bytes) -> bytes:
        grown = (m.unpack(sums) - m.unpack(earlier) for m in self._sums)
        return b"".join(each.to_bytes(8, "little") for each in grown)

    def _subtract(self) -> list[tuple[bytes, bytes]]:
        """Return the keys and sums of an array: what its sums have grown by."""
        nothing = bytes(self._map.value_size)
        rows = []
        for index, sums in self.session.read_map(self._array, summed=True):
            earlier = self._earlier.get(index, nothing)
            if sums == earlier and self._index:
                continue
            self._earlier[index] = sums
            rows.append((self._key_of(index), self._growth(sums, earlier)))
        return rows

    def _key_of(self, index: bytes) -> bytes:
        """Return a key whose members are all 0, but for the one that is the index of the array."""
        if not self._index:
            return bytes(self._key_size)
        key = bytearray(self._key_size)
        key[self._index.offset : self._index.offset + len(index)] = index
        return bytes(key)

    def _take(self) -> list[tuple[bytes, bytes]]:
        """Return the keys and sums of this report, and take them out of the map.

        The programs are told to count for the next report first, so that nothing is added to a row
        after it has been read.
        """
        handle = self.session.handle
        number = self._report_number
        self._report_number += 1
        write_map(handle, _REPORT, bytes(4), self._report_number.to_bytes(4, "little"))
        lib.shim_settle()
        every = self.session.read_map(self._map.name, summed=True)
        rows = [(key, sums) for key, sums in every if self._report.unpack(key) == number]
        fd = lib.bpf_map__fd(find_map(handle, self._map.name))
        count = ffi.new("uint32_t *", len(rows))
        lib.bpf_map_delete_batch(fd, b"".join(key for key, _ in rows), count, ffi.NULL)
        found: dict[bytes, bytes] = {}
        for key, more in rows:
            key = self._container_key(key[: self._key_size])
            found[key] = self._add(found[key], more) if key in found else more
        return list(found.items())

    def merge(self, rows: list[bytes]) -> list[bytes]:
        """Return records of several intervals with the sums of equal keys added up."""
        sums_at = self.layout.size - self._map.value_size
        found: dict[bytes, bytes] = {}
        begins = {}
        for row in rows:
            begin, sums = row[:sums_at], row[sums_at:]
            key = begin[_WHEN_BYTES:]
            begins[key] = begin
            found[key] = self._add(found[key], sums) if key in found else sums
        return [begins[key] + sums for key, sums in found.items()]

    def count(self, rows: list[bytes]) -> int:
        """Return how many events the rows are made of."""
        counts = [m for m in self.layout.members if m.meaning == "ev_count"]
        return sum(m.unpack(row) for row in rows for m in counts)


def run(session: Session, tool: Counts | Top, output: Output, stop: Stop) -> dict[str, int]:
    """Print a row or a table at each interval, or at the end; return what to say at the end."""
    request = session.request
    sums = Reader(session, tool)
    columns = request.columns()
    style = style_of(request, session.started, output.ascii)
    lines = Lines(sums.layout, columns, style, output)
    is_table = isinstance(tool, Top)
    rows_most = request.top if is_table and not request.json else None
    needs_header = not request.no_header and not request.json
    events = 0
    all_rows: list[bytes] = []  # of all intervals, if they are needed
    digest = getattr(tool, "digest", None)
    for number in reports(session, output, stop):
        rows = sums.rows()
        events += sums.count(rows)
        if digest:
            all_rows = sums.merge(all_rows + rows)
        if is_table and request.interval and not request.json:
            blank_line = "\n" if number else ""
            output.text(blank_line + time.strftime("%H:%M:%S\n"))
        if needs_header:
            output.text(header(columns))
            needs_header = is_table  # every table has one; rows have one above the first of them
        batch = framed(rows[:rows_most] if rows_most else rows)
        lines.render(ffi.from_buffer(batch), len(batch))
    if digest:
        _print_digest(digest(sums.objects(all_rows)), session, output)
    return {"events": events, "unfinished": _pending(session, tool), "output": lines.unwritten}


def _print_digest(digest: Digest, session: Session, output: Output) -> None:
    if session.request.json:
        import json

        output.text(json.dumps(digest.json) + "\n")
    else:
        output.text(digest.text)


def _pending(session: Session, tool: Counts | Top) -> int:
    """Return how many events have begun but not ended, so that they are not counted."""
    if not isinstance(tool, Top) or not tool.pending:
        return 0
    return len(list(session.read_map(tool.pending)))

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
from tracewheel.runtime.trace.batch import Layout, framed
from tracewheel.runtime.trace.btf import Member
from tracewheel.runtime.trace.object import find_map, write_map

if TYPE_CHECKING:
    from tracewheel.runtime.show.output import Output, Stop
    from tracewheel.runtime.spec.shapes import Counts
    from tracewheel.runtime.trace.session import Session


# What each row begins with: when the interval ended, how long it was, and of all its rows the total
# and the greatest of the sums that they are sorted by.
WHEN = tuple(
    Member(name, meaning, "", 8 * number, 8, 0, False, False)
    for number, (name, meaning) in enumerate(
        [("time", "ev_time"), ("interval", "ev_duration"), ("total", ""), ("most", "")]
    )
)
_REPORT = ".data.report"  # the map of top_report in count.bpf.h


class Reader:
    """Read a session's sums since the last reading, as records: time, interval, key, sums."""

    def __init__(self, session: Session, tool: Counts | Top) -> None:
        self.session = session
        self._map = session.maps[tool.sums]
        self._growing = self._map.name
        self._sums = session.object.members(self._map.value)
        self._struct = self._map.value  # what a row is called after
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
                self._growing = tool.indexed[0]
                self._index = next(m for m in key if m.name == tool.indexed[1])
        before = 8 * len(WHEN) + -(-self._key_size // 8) * 8
        members = [
            *WHEN,
            *(m._replace(offset=8 * len(WHEN) + m.offset) for m in key),
            *(m._replace(offset=before + m.offset) for m in self._sums),
        ]
        columns = session.request.columns()
        wanted = {"time", "interval", *(column.member for column in columns)}
        shown = [m for m in members if m.name in wanted]
        self.layout = Layout(members, shown, before + self._map.value_size)
        sums = {m.name: m for m in self._sums}
        order = [sums[c.member] for c in columns if c.member in sums]
        self._order = order[getattr(tool, "by", slice(-1, None))]
        self._number = 0
        self._earlier: dict[bytes, bytes] = {}
        self._since = session.started

    def read(self, since_last: bool = True) -> list[Any]:
        """Return the rows as objects: always those since the last reading."""
        style = style_of(self.session.request, self.session.started, ascii_only=False)
        objects = Objects(self.session.name, self._struct, self.layout, style)
        batch = framed(self.rows())
        return list(objects.of(ffi.from_buffer(batch), len(batch)))

    def rows(self) -> list[bytes]:
        """Return the records, the greatest first."""
        found = self._take() if self._key_size else []
        if self._index or not self._key_size:
            found += self._subtract()
        now = boot_time_ns()
        pad = bytes(-self._key_size % 8)
        found.sort(key=lambda row: (-self._greatness(row[1]), row[0]))
        sorted_by = [self._greatness(sums) for _, sums in found]
        ahead = (now, now - self._since, sum(sorted_by), max(sorted_by, default=0))
        self._since = now
        when = b"".join(number.to_bytes(8, "little") for number in ahead)
        return [when + key + pad + sums for key, sums in found]

    def _greatness(self, sums: bytes) -> int:
        return sum(m.unpack(sums) for m in self._order)

    def _add(self, sums: bytes, more: bytes, times: int = 1) -> bytes:
        added = (m.unpack(sums) + times * m.unpack(more) for m in self._sums)
        return b"".join(each.to_bytes(8, "little") for each in added)

    def _subtract(self) -> list[tuple[bytes, bytes]]:
        """Return the rows of an array, whose sums only grow."""
        nothing = bytes(self._map.value_size)
        rows = []
        for index, sums in self.session.read_map(self._growing, summed=True):
            earlier = self._earlier.get(index, nothing)
            if sums == earlier and self._index:
                continue
            self._earlier[index] = sums
            at = self._index.offset if self._index else 0
            key = (bytes(at) + index).ljust(self._key_size, b"\0")[: self._key_size]
            rows.append((key, self._add(sums, earlier, -1)))
        return rows

    def _take(self) -> list[tuple[bytes, bytes]]:
        """Return the rows of this report, and take them out of the map.

        The programs are sent on to the next report first, so that nothing is added to a row
        between its reading and its end.
        """
        handle = self.session.handle
        number = self._number.to_bytes(4, "little")
        self._number += 1
        write_map(handle, _REPORT, bytes(4), self._number.to_bytes(4, "little"))
        lib.shim_settle()
        at = self._report.offset
        sums = self.session.read_map(self._map.name, summed=True)
        rows = [row for row in sums if row[0][at : at + 4] == number]
        fd = lib.bpf_map__fd(find_map(handle, self._map.name))
        count = ffi.new("uint32_t *", len(rows))
        lib.bpf_map_delete_batch(fd, b"".join(key for key, _ in rows), count, ffi.NULL)
        found: dict[bytes, bytes] = {}
        for key, more in rows:
            key = self._container_key(key[: self._key_size])
            found[key] = self._add(found[key], more) if key in found else more
        return list(found.items())

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
    table = isinstance(tool, Top)
    top = request.top if table and not request.json else None
    headed = bool(request.no_header or request.json)
    events = 0
    for number in reports(session, output, stop):
        rows = sums.rows()
        events += sums.count(rows)
        if table and request.interval and not request.json:
            output.text(("\n" if number else "") + time.strftime("%H:%M:%S\n"))
        if not headed:
            output.text(header(columns))
            headed = not table
        batch = framed(rows[: top or None])
        lines.render(ffi.from_buffer(batch), len(batch))
    return {"events": events, "unfinished": _pending(session, tool), "output": lines.unwritten}


def _pending(session: Session, tool: Counts | Top) -> int:
    """Return how many events have begun and are not counted, as they have not ended."""
    if not isinstance(tool, Top) or not tool.pending:
        return 0
    return len(list(session.read_map(tool.pending)))

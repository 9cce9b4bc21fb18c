# SPDX-License-Identifier: BSD-2-Clause
"""The plan by which the shim renders the records of one struct."""

from __future__ import annotations

import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.clocks import boot_to_epoch_ns
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.show.meaning import BESIDE, TABLES, beside, meaning_of
from tracewheel.runtime.trace.batch import part_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.host.symbols import Frames
    from tracewheel.runtime.spec.shapes import Column
    from tracewheel.runtime.trace.batch import Layout
    from tracewheel.runtime.trace.btf import Member

_FRAMES = 2**32 - 1  # in place of the number of a table: names of frames are missing


class Style(Record):
    """The style of rows."""

    as_json: bool
    ascii_only: bool
    started: int  # where TIME(s) begins, in ns of CLOCK_BOOTTIME
    frames: Frames | None = None  # names of frames, if stacks are shown


class Tables:
    """The tables of names of a plan, with sorted keys, as the shim reads them."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, str]] = {}  # by kind
        self.pointer: Any = ffi.NULL
        self._referenced: list[Any] = []  # memory that the tables point to

    def number_of(self, kind: str) -> int:
        """Return the number of a kind's table. A new table has the names that are known."""
        if kind not in self._known:
            self._known[kind] = dict(TABLES[kind].known())
            self._build()
        return list(self._known).index(kind)

    def find(self, number: int, key: int) -> None:
        """Add the name of a key to the table of that number."""
        kind = list(self._known)[number]
        self._known[kind][key] = TABLES[kind].find(key)
        self._build()

    def _build(self) -> None:
        self.pointer = ffi.new("struct shim_table[]", len(self._known))
        self._referenced = []
        for number, known in enumerate(self._known.values()):
            keys = sorted(known)
            names = [ffi.new("char[]", os.fsencode(known[key])) for key in keys]
            key_array = ffi.new("uint64_t[]", keys)
            name_array = ffi.new("char *[]", names)
            self._referenced += [names, key_array, name_array]
            self.pointer[number] = (key_array, name_array, len(keys))


class Plan:
    """What the shim needs in order to render the records of one struct."""

    def __init__(self, layout: Layout, columns: tuple[Column, ...], style: Style) -> None:
        self._members = {member.name: member for member in layout.members}
        self._tables = Tables()
        self._referenced: list[Any] = []  # memory that the columns point to
        self._frames = style.frames
        cgroups = [m for m in layout.shown if m.meaning == "ev_cgroup"]
        # Of each member of a JSON object: the member of the record, the kind and the name.
        in_json = [(m, meaning_of(m).json, m.name) for m in layout.shown]
        in_json += [(m, "container", "container") for m in cgroups]
        if style.as_json:
            shown = [self._column(member, kind, name) for member, kind, name in in_json]
        else:
            shown = [self._column_of_table(column) for column in columns]
        self.columns = ffi.new("struct shim_column[]", shown)
        self.plan = ffi.new("struct shim_plan *")
        self.plan.columns = self.columns
        self.plan.column_count = len(shown)
        self.plan.tables = self._tables.pointer
        self.plan.record_size = layout.size
        self.plan.as_json = style.as_json
        self.plan.ascii = style.ascii_only
        self.plan.start = style.started
        self.plan.to_epoch = boot_to_epoch_ns()
        if self._frames:
            self.plan.frames = self._frames.pointer

    def _column_of_table(self, column: Column) -> dict[str, Any]:
        member = self._members[column.member]
        kind = column.kind or meaning_of(member).text
        return self._column(member, kind, "", column.width, column.number)

    def _column(
        self, member: Member, kind: str, name: str, width: int = 0, number: int = 0
    ) -> dict[str, Any]:
        """Return the struct shim_column of a member."""
        table = unit = 0
        shown_as = kind
        if kind in TABLES:
            table = self._tables.number_of(kind)
            shown_as = TABLES[kind].kind
        if kind in BESIDE:
            unit = number
            number = (beside(kind, self._members) or member).offset
        key = ffi.new("char[]", name.encode())
        self._referenced.append(key)
        return {
            "name": key,
            "kind": getattr(lib, f"SHIM_{shown_as.upper()}"),
            "offset": member.offset,
            "size": member.size,
            "width": width,
            "table": table,
            "number": number or meaning_of(member).number,
            "unit": unit,
        }

    def refresh(self) -> None:
        """Forget names that may have changed."""
        if self._frames:
            self._frames.refresh()

    def find_name(self, table: int, key: int, at: Any) -> None:
        """Find the name that the rendering lacked, for a record that is behind its length at AT."""
        if table == _FRAMES and self._frames:
            self._name_frames(key, at)
            return
        self._tables.find(table, key)
        self.plan.tables = self._tables.pointer

    def _name_frames(self, pid: int, at: Any) -> None:
        from tracewheel.runtime.host.symbols import KERNEL

        assert self._frames
        length = ffi.cast("uint64_t *", at)[0]
        record = memoryview(ffi.buffer(at + 8, length))
        member = self._members["stack" if pid == KERNEL else "user_stack"]
        stack, _ = part_of(record, member, self.plan.record_size)
        self._frames.find(pid, stack)

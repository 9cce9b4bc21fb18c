# SPDX-License-Identifier: BSD-2-Clause
"""How the shim renders the records of one struct."""

from __future__ import annotations

import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.clocks import boot_to_epoch_ns
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.show.meaning import BESIDE, TABLES, meaning_of
from tracewheel.runtime.trace.batch import part_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.host.symbols import Frames
    from tracewheel.runtime.spec.shapes import Column
    from tracewheel.runtime.trace.batch import Layout
    from tracewheel.runtime.trace.btf import Member

_FRAMES = 2**32 - 1  # instead of a table: the frames of a process have no names yet


class Style(Record):
    """How rows look."""

    as_json: bool
    ascii_only: bool
    started: int  # CLOCK_BOOTTIME, ns: the zero of TIME(s)
    frames: Frames | None = None  # names of stacks, where they are shown


class Tables:
    """The name tables of a plan: sorted keys and texts that the shim reads."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, str]] = {}  # by kind
        self.pointer: Any = ffi.NULL
        self._alive: list[Any] = []

    def number_of(self, kind: str) -> int:
        """Return the table's number; a new one is filled with what is known."""
        if kind not in self._known:
            self._known[kind] = dict(TABLES[kind].known())
            self._build()
        return list(self._known).index(kind)

    def find(self, number: int, key: int) -> None:
        """Find the name that the rendering missed."""
        kind = list(self._known)[number]
        self._known[kind][key] = TABLES[kind].find(key)
        self._build()

    def _build(self) -> None:
        self.pointer = ffi.new("struct shim_table[]", len(self._known))
        self._alive = []
        for number, known in enumerate(self._known.values()):
            keys = sorted(known)
            texts = [ffi.new("char[]", os.fsencode(known[key])) for key in keys]
            arrays = ffi.new("uint64_t[]", keys), ffi.new("char *[]", texts)
            self._alive += [arrays, texts]
            self.pointer[number] = (*arrays, len(keys))


class Plan:
    """What the shim needs in order to render the records of one struct."""

    def __init__(self, layout: Layout, columns: tuple[Column, ...], style: Style) -> None:
        self._members = {member.name: member for member in layout.members}
        self._tables = Tables()
        self._alive: list[Any] = []
        self._frames = style.frames
        named = [(m, meaning_of(m).json, m.name) for m in layout.shown]
        named += [(m, "container", "container") for m in layout.shown if m.meaning == "ev_cgroup"]
        if style.as_json:
            shown = [self._column(member, kind, name) for member, kind, name in named]
        else:
            shown = [self._column_of_table(column) for column in columns]
        self.columns = ffi.new("struct shim_column[]", shown)
        self.plan = ffi.new("struct shim_plan *")
        self.plan.columns, self.plan.column_count = self.columns, len(shown)
        self.plan.tables = self._tables.pointer
        self.plan.record_size = layout.size
        self.plan.as_json, self.plan.ascii = style.as_json, style.ascii_only
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
        table = 0
        shown_as = kind
        if kind in TABLES:
            table = self._tables.number_of(kind)
            shown_as = TABLES[kind].kind
        if kind in BESIDE:
            number = self._members.get(BESIDE[kind], member).offset
        key = ffi.new("char[]", name.encode())
        self._alive.append(key)
        return {
            "name": key,
            "kind": getattr(lib, f"SHIM_{shown_as.upper()}"),
            "offset": member.offset,
            "size": member.size,
            "width": width,
            "table": table,
            "number": number or meaning_of(member).number,
        }

    def refresh(self) -> None:
        """Forget names that may have changed."""
        if self._frames:
            self._frames.refresh()

    def find_name(self, table: int, key: int, at: Any) -> None:
        """Resolve what the rendering stopped at, in the record behind its length at AT."""
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

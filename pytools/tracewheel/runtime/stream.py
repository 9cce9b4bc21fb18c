# SPDX-License-Identifier: BSD-2-Clause
"""The shape Stream: a line, or a Python object, for each record of a ring."""

from __future__ import annotations

import collections
import errno
import functools
import math
import os
import struct
import time
from typing import TYPE_CHECKING, Any

from tracewheel._shim import ffi, lib
from tracewheel.runtime import kernel
from tracewheel.runtime.errors import BpfError
from tracewheel.runtime.intervals import TARGET_ENDED, wait
from tracewheel.runtime.meaning import BESIDE, MEANINGS, TABLES, Meaning
from tracewheel.runtime.output import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tracewheel.runtime import counts
    from tracewheel.runtime.glob import Glob
    from tracewheel.runtime.output import Output
    from tracewheel.runtime.session import Member, Session
    from tracewheel.runtime.shapes import Column, Stream
    from tracewheel.runtime.symbols import Frames

_BATCH = 1 << 19
# Between reads while records keep coming, few or many: a wake-up each would cost more than they
# do, but a full ring would lose them.
_PACE_S, _HURRY_S, _MANY = 0.008, 0.002, _BATCH // 4
_ABSENT = 3  # EV_ABSENT of record.bpf.h
_ENOKEY, _ENOSPC = -errno.ENOKEY, -errno.ENOSPC
_FRAMES = 2**32 - 1  # instead of a table: the frames of a process have no names yet


_new = ffi.new_allocator(should_clear_after_alloc=False)


class Tables:
    """The name tables of a plan: sorted keys and texts that the shim reads."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, str]] = {}  # by kind
        self.pointer: Any = ffi.NULL
        self._alive: list[Any] = []

    def number_of(self, kind: str) -> int:
        """Return the table's number; a new one is filled with what is known."""
        if kind not in self._known:
            self._known[kind] = dict(TABLES[kind][1].known())
            self._build()
        return list(self._known).index(kind)

    def find(self, number: int, key: int) -> None:
        """Find the name that the rendering missed."""
        kind = list(self._known)[number]
        self._known[kind][key] = TABLES[kind][1].find(key)
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

    def __init__(
        self, reader: Reader | counts.Reader, columns: tuple[Column, ...], ascii_only: bool
    ) -> None:
        as_json = bool(reader.session.request.json)
        members = reader.members
        self._members = {member.name: member for member in members}
        self._tables = Tables()
        self._alive: list[Any] = []
        named = [(m, meaning_of(m).json, m.name) for m in reader.shown]
        named += [(m, "container", "container") for m in reader.shown if m.meaning == "ev_cgroup"]
        self.names = [name for _, _, name in named]
        if as_json:
            shown = [self._column(*each) for each in named]
        else:
            shown = []
            for column in columns:
                member = self._members[column.member]
                kind = column.kind or meaning_of(member).text
                shown.append(self._column(member, kind, "", column.width, column.number))
        self.columns = ffi.new("struct shim_column[]", shown)
        self.plan = ffi.new("struct shim_plan *")
        self.plan.columns, self.plan.column_count = self.columns, len(shown)
        self.plan.tables = self._tables.pointer
        self.plan.record_size = reader.size
        self.plan.as_json, self.plan.ascii = as_json, ascii_only
        self.plan.start = reader.session.started
        self.plan.to_epoch = kernel.boot_to_epoch_ns()
        self._frames: Frames | None = None
        if reader.session.request.stack:
            from tracewheel.runtime.symbols import Frames

            self._frames = Frames(reader.session.request.pid)
            self.plan.frames = self._frames.pointer

    def _column(
        self, member: Member, kind: str, name: str, width: int = 0, number: int = 0
    ) -> dict[str, Any]:
        table = self._tables.number_of(kind) if kind in TABLES else 0
        if kind in BESIDE:
            number = self._members.get(BESIDE[kind], member).offset
        key = ffi.new("char[]", name.encode())
        self._alive.append(key)
        shown_as = getattr(lib, "SHIM_" + (TABLES[kind][0] if kind in TABLES else kind).upper())
        return {"name": key, "kind": shown_as, "offset": member.offset, "size": member.size,
                "width": width, "table": table,
                "number": number or meaning_of(member).number}  # fmt: skip

    def refresh(self) -> None:
        """Forget names that may have changed."""
        if self._frames:
            self._frames.refresh()

    def find_name(self, table: int, key: int, at: Any) -> None:
        """Resolve what the rendering stopped at, in the record behind its length at AT."""
        if table == _FRAMES and self._frames:
            from tracewheel.runtime.symbols import KERNEL

            record = memoryview(ffi.buffer(at + 8, ffi.cast("uint64_t *", at)[0]))
            member = self._members["stack" if key == KERNEL else "user_stack"]
            stack, _ = part_of(record, member, self.plan.record_size)
            self._frames.find(key, stack)
            return
        self._tables.find(table, key)
        self.plan.tables = self._tables.pointer


def meaning_of(member: Member) -> Meaning:
    """Return how a member is shown."""
    plain = "signed" if member.is_signed else "unsigned"
    return MEANINGS.get(member.meaning, Meaning(plain, plain))


class Reader:
    """Read batches of records from the session's ring, dropping what the globs do not match."""

    def __init__(self, session: Session, tool: Stream) -> None:
        assert session.opened
        self.session = session
        record = session.maps[tool.ring].record
        self.members = session.opened.members(record)
        self.size = session.opened.size(record)
        # What JSON and the library show: all but padding, directories, and what is unasked for.
        self.with_cgroup = bool(session.request.variables().get("with_cgroup"))
        self.shown = [
            member
            for member in self.members
            if member.name[0] != "_"
            and meaning_of(member).json
            and (session.request.stack or "stack" not in meaning_of(member).json)
            and (self.with_cgroup or member.meaning != "ev_cgroup")
        ]
        self._unended = tool.unended
        self._rest: Iterator[bytes] = iter(())
        self.buffer = _new("char[]", _BATCH)
        self._used = ffi.new("size_t *")
        self._globs = [
            (next(m for m in self.members if m.name == name), compiled)
            for name, compiled in session.request.globs
        ]

    def read(self) -> int:
        """Fill the buffer, return how many bytes of it are used; 0: the ring is empty."""
        while True:
            assert self.session.ring
            error = lib.shim_read(self.session.ring.memory, self.buffer, _BATCH, self._used)
            if error:
                raise BpfError(f"cannot read the ring buffer: {os.strerror(-error)}")
            used: int = self._used[0]
            if not used:
                rest = next(self._rest, b"")
                return self._fill([rest]) if rest else 0
            if self.session.prober:
                used = self._fill(filter(self._is_whole, self.records(used)))
            for member, compiled in self._globs:
                matches = functools.partial(self._matches, member, compiled)
                used = self._fill(filter(matches, self.records(used)))
            if used:
                return used

    def records(self, used: int) -> Iterator[memoryview]:
        """Return the records of the buffer."""
        view = memoryview(ffi.buffer(self.buffer, used))
        at = 0
        while at < used:
            length = int.from_bytes(view[at : at + 8], "little")
            yield view[at + 8 : at + 8 + length]
            at += 8 + (length + 7) // 8 * 8

    def finish(self) -> None:
        """End the tracing; behind what is left in the ring, read what has begun and not ended."""
        self.session.detach()
        self._rest = self._begun()

    def _begun(self) -> Iterator[bytes]:
        found = [dict(self.session.read_map(name)) for name in self._unended]
        time_of = self.members[0].unpack
        records, *tails = found or [{}]
        for key, record in sorted(records.items(), key=lambda item: time_of(item[1])):
            yield record + b"".join(tail.get(key, b"") for tail in tails)

    def _fill(self, records: Iterable[Any]) -> int:
        """Lay records out in the buffer, where they may come from; return their bytes."""
        framed = b"".join(map(frame, records))
        ffi.buffer(self.buffer, len(framed))[:] = framed
        return len(framed)

    def _is_whole(self, record: memoryview) -> bool:
        """Tell a record from what ON_ARRIVAL of uprobe.bpf.h puts between records."""
        if len(record) < self.size:
            assert self.session.prober
            self.session.prober.arrived(int.from_bytes(record, "little"))
        return len(record) >= self.size

    def _matches(self, member: Member, compiled: Glob, record: memoryview) -> bool:
        """Tell whether a record's text matches, or is absent: then another record's did."""
        if meaning_of(member).json == "chars":
            return compiled.matches(member.chars(record))
        text, state = part_of(record, member, self.size)
        return state == _ABSENT or compiled.matches(text)


def frame(record: bytes | memoryview) -> bytes:
    """Return a record as it lies in a batch."""
    return len(record).to_bytes(8, "little") + bytes(record) + b"\0" * (-len(record) % 8)


def part_of(record: memoryview, member: Member, size: int) -> tuple[bytes, int]:
    """Return the bytes of a struct ev_part and its state, of enum ev_state."""
    at, length, state = struct.unpack_from("<IHH", record, member.offset)
    return bytes(record[size + at : size + at + length]), state


def batches(reader: Reader, output: Output | None, stop: Stop) -> Iterator[int]:
    """Yield how many bytes of the reader's buffer each batch has, until the tracing is over."""
    session = reader.session
    end = time.monotonic() + (session.request.duration or math.inf)
    status = 0
    pace = math.inf  # idle: the ring wakes us
    while not stop.asked and status != TARGET_ENDED and time.monotonic() < end:
        left = min(end - time.monotonic(), pace)
        status = wait(session, output, stop, left, for_records=pace == math.inf)
        used = reader.read()
        pace = math.inf if not used else _HURRY_S if used > _MANY else _PACE_S
        while used:
            yield used
            used = reader.read() if used > _BATCH // 2 and not stop.asked else 0
    reader.finish()
    while used := reader.read():
        yield used


class Objects:
    """Turn batches into named tuples of Python values: those that --json prints."""

    ascii = False

    def __init__(self, name: str, reader: Reader | counts.Reader) -> None:
        self._lines = Lines(reader, (), self)
        self._type = collections.namedtuple(name, self._lines.names)  # type: ignore[misc]
        self._text: list[bytes] = []

    def write(self, text: Any) -> int:
        """Take lines, as an output does."""
        self._text.append(bytes(text))
        return 0

    def of(self, used: int) -> Iterator[Any]:
        """Yield an object for each record of the reader's buffer."""
        self._lines.render(used)
        import base64
        import json

        text, self._text = b"".join(self._text), []
        for line in text.split(b"\n")[:-1]:
            values = json.loads(line)
            for name in [name for name in values if name.endswith("_b64")]:
                whole = os.fsdecode(base64.b64decode(values.pop(name)))
                name = name[: -len("_b64")]
                if isinstance(values[name], list):
                    values[name] = whole.removesuffix("\0").split("\0")
                else:
                    values[name] = whole
            yield self._type(**values)


def iterate(session: Session, tool: Stream) -> Iterator[Any]:
    """Yield records, as named tuples of the record's name, until the duration is over."""
    reader = Reader(session, tool)
    objects = Objects(session.maps[tool.ring].record, reader)
    for used in batches(reader, None, Stop()):
        yield from objects.of(used)


class Lines:
    """Render batches to an output, and keep count."""

    def __init__(
        self, reader: Reader | counts.Reader, columns: tuple[Column, ...], output: Output | Objects
    ) -> None:
        self._plan = Plan(reader, columns, output.ascii)
        self.names = self._plan.names
        self._reader = reader
        self._output = output
        self._text = _new("char[]", _BATCH)
        self._done = ffi.new("struct shim_rendered *")
        self.rows = self.bad = self.unwritten = 0

    def render(self, used: int) -> None:
        """Write a row for each record of the reader's buffer."""
        at = 0
        done = self._done
        self._plan.refresh()
        while at < used:
            error = lib.shim_render(
                self._plan.plan, self._reader.buffer + at, used - at, self._text, _BATCH, done
            )
            if error not in (0, _ENOSPC, _ENOKEY) or (error == _ENOSPC and not done.consumed):
                raise BpfError(f"cannot render a record: {os.strerror(-error)}")
            at += done.consumed
            self.rows += done.records
            self.bad += done.bad
            if done.produced:
                self.unwritten += self._output.write(ffi.buffer(self._text, done.produced))
            if error == _ENOKEY:
                self._plan.find_name(done.table, done.key, self._reader.buffer + at)


def header(columns: tuple[Column, ...]) -> str:
    """Return the header line."""
    headers = [c.header.ljust(c.width) for c in columns if "STACK" not in c.header]
    return " ".join(headers).rstrip() + "\n"


def run(session: Session, tool: Stream, output: Output, stop: Stop) -> dict[str, int]:
    """Print rows until told to stop; return what to say at the end."""
    if not session.request.by_stack:
        return _run(session, Reader(session, tool), output, stop)
    from tracewheel.runtime import flame

    reader = flame.CountingReader(session, tool)
    try:
        counts = _run(session, reader, output, stop)
        return {"events": sum(reader.stacks.values())} if session.request.rowless else counts
    finally:
        title = f"{session.name}: {tool.ring} by stack"
        flame.write(session.request, reader.stacks, title, tool.ring, output)


def _run(session: Session, reader: Reader, output: Output, stop: Stop) -> dict[str, int]:
    request = session.request
    columns = request.columns()
    lines = Lines(reader, columns, output)
    if not (request.no_header or request.json or request.rowless):
        output.text(header(columns))
    for used in batches(reader, output, stop):
        if not request.rowless:
            lines.render(used)
    return {
        "rows": lines.rows - lines.unwritten,
        "bad records": lines.bad,
        "output": lines.unwritten,
    }

# SPDX-License-Identifier: BSD-2-Clause
"""Count the records of a Stream by their stacks."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from tracewheel.runtime.host.symbols import KERNEL, Symbols, without_tracing
from tracewheel.runtime.shapes.records import Reader
from tracewheel.runtime.show.meaning import beside, meaning_of, name_of
from tracewheel.runtime.trace.batch import part_of

if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Stream
    from tracewheel.runtime.trace.session import Session

_LOST = "[lost stack]"
_NAMED_STACKS_MOST = 1 << 14  # stacks whose names are remembered


class CountingReader(Reader):
    """A reader that counts the records that it reads by their stacks.

    ``stacks`` has the number of records of each stack: the root that the tool has chosen, such as
    the name of the process, then the frames, the outermost first. With --per-container the
    container comes before the root.
    """

    def __init__(self, session: Session, tool: Stream) -> None:
        super().__init__(session, tool)
        self.stacks: dict[tuple[str, ...], int] = {}
        self._symbols = Symbols()
        self._names = functools.lru_cache(_NAMED_STACKS_MOST)(self._name)
        members = self.layout.members
        by_name = {member.name: member for member in members}
        self._root = by_name[tool.root]
        self._pid = beside("user_stack", by_name)
        by_meaning = {member.meaning: member for member in members}
        self._cgroup = by_meaning["ev_cgroup"] if session.request.per_container else None
        self._user = by_meaning.get("ev_user_stack")
        self._kernel = by_meaning["ev_stack"]

    def read(self) -> int:
        """Fill the buffer and count its records at once, because a process may soon be gone."""
        used = super().read()
        for record in self.records(used):
            roots = [self._name_of_root(record)]
            if self._cgroup:
                roots.insert(0, name_of("container", self._cgroup.unpack(record)))
            user, pid = b"", 0
            if self._user and self._pid:
                user, _ = part_of(record, self._user, self.layout.size)
                pid = self._pid.unpack(record)
            kernel, _ = part_of(record, self._kernel, self.layout.size)
            stack = (*roots, *self._names(pid, user, kernel))
            self.stacks[stack] = self.stacks.get(stack, 0) + 1
        return used

    def _name_of_root(self, record: memoryview) -> str:
        kind = meaning_of(self._root).text
        if kind == "chars":
            return os.fsdecode(self._root.chars(record))
        return name_of(kind, self._root.unpack(record))

    def _name(self, pid: int, user: bytes, kernel: bytes) -> tuple[str, ...]:
        """Return the names of the frames, the outermost first.

        They have no offsets, so that a function is one frame wherever it is left.
        """
        frames = without_tracing(self._symbols.names(kernel, KERNEL, offset=False))
        for name in self._symbols.names(user, pid, offset=False):
            # Code without frame pointers leads to a wrong address, which says nothing.
            frames.append("[unknown]" if name.startswith("[unknown+") else name)
        return tuple(frames[::-1]) or (_LOST,)

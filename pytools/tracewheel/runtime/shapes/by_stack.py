# SPDX-License-Identifier: BSD-2-Clause
"""Count the records of a Stream by their stacks."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from tracewheel.runtime.host.symbols import KERNEL, Symbols, without_tracing
from tracewheel.runtime.shapes.records import Reader
from tracewheel.runtime.show.meaning import name_of
from tracewheel.runtime.trace.batch import part_of

if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Stream
    from tracewheel.runtime.trace.session import Session

_LOST = "[lost stack]"
_NAMED_STACKS_MOST = 1 << 14  # stacks whose names are remembered


class CountingReader(Reader):
    """A reader that counts the records that it reads by their stacks.

    ``stacks`` has the number of records of each stack: the name of the process, then the frames,
    the outermost first. With --per-container the container comes before the name.
    """

    def __init__(self, session: Session, tool: Stream) -> None:
        super().__init__(session, tool)
        self.stacks: dict[tuple[str, ...], int] = {}
        self._symbols = Symbols()
        self._names = functools.lru_cache(_NAMED_STACKS_MOST)(self._name)
        members = self.layout.members
        self._pid = next(member for member in members if member.name == "pid")
        by_meaning = {member.meaning: member for member in members}
        self._cgroup = by_meaning["ev_cgroup"] if session.request.per_container else None
        self._comm = by_meaning["ev_comm"]
        self._user = by_meaning["ev_user_stack"]
        self._kernel = by_meaning["ev_stack"]

    def read(self) -> int:
        """Fill the buffer and count its records at once, because a process may soon be gone."""
        used = super().read()
        for record in self.records(used):
            who = [os.fsdecode(self._comm.chars(record))]
            if self._cgroup:
                who.insert(0, name_of("container", self._cgroup.unpack(record)))
            user, _ = part_of(record, self._user, self.layout.size)
            kernel, _ = part_of(record, self._kernel, self.layout.size)
            stack = (*who, *self._names(self._pid.unpack(record), user, kernel))
            self.stacks[stack] = self.stacks.get(stack, 0) + 1
        return used

    def _name(self, pid: int, user: bytes, kernel: bytes) -> tuple[str, ...]:
        """Return the names of the frames, the outermost first.

        They have no offsets, so that a function is one frame wherever it is left.
        """
        frames = without_tracing(self._symbols.names(kernel, KERNEL, offset=False))
        for name in self._symbols.names(user, pid, offset=False):
            # Code without frame pointers leads to a wrong address, which says nothing.
            frames.append("[unknown]" if name.startswith("[unknown+") else name)
        return tuple(frames[::-1]) or (_LOST,)

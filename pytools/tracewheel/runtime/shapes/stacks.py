# SPDX-License-Identifier: BSD-2-Clause
"""The shape Stacks: sums by stack as values, as JSON, as text and folded."""

from __future__ import annotations

import functools
import math
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.host.errors import say
from tracewheel.runtime.host.symbols import KERNEL, Symbols, without_tracing
from tracewheel.runtime.host.terminal import escape
from tracewheel.runtime.shapes.intervals import reports, stamps
from tracewheel.runtime.show.meaning import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracewheel.runtime.show.output import Output, Stop
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.spec.shapes import Stacks as Shape
    from tracewheel.runtime.trace.session import Session


LOST = "[lost stack]"
_Sums = dict[bytes, tuple[int, int]]  # by key: nanoseconds, times
_NONE = 0  # STACK_NONE of stacks.bpf.h


class Stack(NamedTuple):
    """The time that a process, or thread, has spent behind one stack.

    Frames are names, innermost first; LOST where they could not be kept. ``tid`` is 0 unless
    threads are told apart. ``blocked``: not over yet, and ``ns`` is the time until now.
    ``cgroup`` and ``container`` are None unless containers are told apart.
    """

    pid: int
    tid: int
    comm: str
    kernel_stack: tuple[str, ...]
    user_stack: tuple[str, ...]
    ns: int
    times: int
    blocked: bool = False
    cgroup: int | None = None
    container: str | None = None


class Reader:
    """Read a session's sums: since the start, or since the last reading."""

    def __init__(self, session: Session, tool: Shape) -> None:
        self._session = session
        self._tool = tool
        self._members = {m.name: m for m in session.object.members(session.maps[tool.sums].key)}
        self._container_key = session.key_by_container(self._members.values())
        self._earlier: _Sums = {}
        self._symbols = Symbols()
        self._name_of = functools.cache(self._symbols.name)
        self._learnt: set[int] = set()
        self._offsets = bool(session.request.offsets or session.request.verbose)
        self.takes_users = bool(session.request.variables().get("user_stacks"))

    def read(self, since_last: bool = False, blocked: bool = True) -> list[Stack]:
        """Return the stacks that time was spent behind, the least time first.

        Those that are blocked now, or when the tracing ended, come with the time they have been
        so, whenever it began.
        """
        sums = self._read_sums()
        begun = self._read_begun() if blocked else {}
        self.learn()
        frames = self._read_frames()
        fresh = {}
        for key, (ns, count) in sums.items():
            earlier = self._earlier.get(key, (0, 0)) if since_last else (0, 0)
            fresh[key] = (ns - earlier[0], count - earlier[1])
        if since_last:
            self._earlier = sums
        found = [self._stack(key, *sum_, frames) for key, sum_ in fresh.items() if any(sum_)]
        found += [self._stack(key, *sum_, frames, blocked=True) for key, sum_ in begun.items()]
        return sorted(found, key=lambda stack: stack.ns)

    def learn(self) -> None:
        """Look at the processes that have come since: once they are gone it is too late."""
        for _, key in self._begins() if self.takes_users else ():
            pid = self._members["pid"].unpack(key)
            if pid not in self._learnt:
                self._learnt.add(pid)
                self._symbols.learn(pid)

    def _read_sums(self) -> _Sums:
        name, counter = self._tool.sums, self._session.global_value
        sums: _Sums = {}
        for key, value in self._session.read_map(name):
            _add(sums, self._container_key(key), *struct.unpack("<QQ", value))
        sums[b""] = counter(f"{name}_unsummed"), counter(f"{name}_lost")  # of whom is not known
        return sums

    def _begins(self) -> Iterable[tuple[int, bytes]]:
        for _, value in self._session.read_map(self._tool.begins):
            yield int.from_bytes(value[:8], "little"), value[8:]

    def _read_begun(self) -> _Sums:
        until = self._session.ended or time.monotonic_ns()
        known = self._session.request.variables()
        least, most = known.get("least_ns", 0), known.get("most_ns", math.inf)
        begun: _Sums = {}
        for since, key in self._begins():
            if since and least <= (lasted := max(0, until - since)) <= most:
                _add(begun, self._container_key(key), lasted, 1)
        return begun

    def _read_frames(self) -> dict[int, tuple[int, ...]]:
        found = {}
        for key, value in self._session.read_map(self._tool.stacks):
            used, *frames = memoryview(value).cast("Q")
            found[int.from_bytes(key, "little")] = tuple(frames[: used // 8])
        return found

    def _stack(
        self, key: bytes, ns: int, count: int, frames: dict[int, tuple[int, ...]],
        blocked: bool = False,
    ) -> Stack:  # fmt: skip
        names = ("pid", "tid", "kernel_stack", "user_stack", "cgroup")
        pid, tid, kernel, user, cgroup = (self._members[name].unpack(key) for name in names)
        asked = self._session.request.per_container
        return Stack(
            pid, tid, os.fsdecode(self._members["comm"].chars(key)) if key else "[unknown]",
            self._name(KERNEL, kernel, frames) if key else (LOST,), self._name(pid, user, frames),
            ns, count, blocked, *((cgroup, name_of("container", cgroup)) if asked else ()),
        )  # fmt: skip

    def _name(self, pid: int, stack: int, frames: dict[int, tuple[int, ...]]) -> tuple[str, ...]:
        """Return the names of a stack's frames."""
        if stack == _NONE:
            return ()
        names = [self._name_of(pid, each, self._offsets) for each in frames.get(stack, ())]
        if pid == KERNEL:
            names = without_tracing(names)
        return tuple(names) or (LOST,)


def _add(sums: _Sums, key: bytes, ns: int, count: int) -> None:
    before = sums.get(key, (0, 0))
    sums[key] = (before[0] + ns, before[1] + count)


def _is_parted(stack: Stack, request: Request) -> bool:
    return bool(request.delimited and stack.user_stack and stack.kernel_stack)


def fold(found: Iterable[Stack], request: Request, ns: dict[tuple[str, ...], int]) -> None:
    """Add up nanoseconds by frames: container, command's name, then the outermost frame."""
    for stack in found:
        between = ("-",) if _is_parted(stack, request) else ()
        names = (
            *filter(None, [stack.container]), stack.comm, *stack.user_stack[::-1],
            *between, *stack.kernel_stack[::-1], *(("[blocked]",) if stack.blocked else ()),
        )  # fmt: skip
        ns[names] = ns.get(names, 0) + stack.ns


def _usecs(ns: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    return {names: total // 1000 for names, total in ns.items()}


def run(session: Session, tool: Shape, output: Output, stop: Stop) -> dict[str, int]:
    """Print the sums at each interval, or at the end; return what to say at the end."""
    sums = Reader(session, tool)
    start = time.monotonic()
    seen = unkept = 0
    ns: dict[tuple[str, ...], int] = {}
    for _ in reports(session, output, stop, sums.learn if sums.takes_users else None):
        found = sums.read(since_last=True, blocked=session.ended > 0)
        seen += sum(stack.times for stack in found if stack.pid)
        unkept += sum(s.times for s in found if s.pid and LOST in s.kernel_stack + s.user_stack)
        if session.request.by_stack:
            fold(found, session.request, ns)
        if not session.request.without_rows:
            _report(session.request, found, output, start)
    if session.request.by_stack:
        from tracewheel.runtime.show import flame

        flame.write(session.request, _usecs(ns), tool.title, "usecs", output)
    if unkept:
        say(f"{session.name}: {unkept} with a {LOST}: --stack-storage-size would keep more")
    return {"events": seen}


def _report(request: Request, found: list[Stack], output: Output, start: float) -> None:
    now = time.time_ns()

    def shown(text: str) -> str:
        return escape(os.fsencode(text), output.ascii)

    if request.json:
        import json

        for stack in found:
            told = {name: value for name, value in stack._asdict().items() if value is not None}
            output.text(json.dumps({"time": now, **told}) + "\n")
        return
    lines = stamps(request, start, now / 1e9)
    if request.fold:
        ns: dict[tuple[str, ...], int] = {}
        fold(found, request, ns)
        from tracewheel.runtime.show import flame

        lines += flame.folded(_usecs(ns)).splitlines()
    else:
        for stack in found:
            between = ("--",) if _is_parted(stack, request) else ()
            frames = (*stack.kernel_stack, *between, *stack.user_stack)
            lines += [f"    {shown(frame)}" for frame in frames]
            where = f", container = {shown(stack.container)}" if stack.container else ""
            lines.append(f"    {'-':<16} {shown(stack.comm)} ({stack.tid or stack.pid}){where}")
            state = ", still blocked" if stack.blocked else ""
            lines.append(f"        {stack.ns // 1000} usecs, {stack.times} times{state}\n")
    if not found:
        lines.append("no events")
    output.text("".join(f"{line}\n" for line in lines))

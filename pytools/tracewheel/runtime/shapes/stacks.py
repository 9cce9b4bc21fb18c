# SPDX-License-Identifier: BSD-2-Clause
"""The shape Stacks: read sums by stack, and print them as text, as JSON or folded."""

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
_BLOCKED = "[blocked]"
_UNKNOWN = "[unknown]"
_NO_STACK = 0  # STACK_NONE of stacks.bpf.h


class _Sum(NamedTuple):
    """A sum of times."""

    ns: int
    times: int


_Sums = dict[bytes, _Sum]  # by the key of a sum
_UNKNOWN_KEY = b""  # of what was spent by nobody knows whom
_NOTHING = _Sum(0, 0)


class Stack(NamedTuple):
    """The time that a process or thread has spent with one stack.

    Frames are names, innermost first; the only frame is LOST if the stack could not be kept.
    ``tid`` is 0 without --tids. ``blocked`` is true for a time that is not over yet: ``ns`` is the
    time until now. ``cgroup`` and ``container`` are None without --per-container.
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
    """Read a session's sums, since the start or since the last reading."""

    def __init__(self, session: Session, tool: Shape) -> None:
        self._session = session
        self._tool = tool
        self._members = {m.name: m for m in session.object.members(session.maps[tool.sums].key)}
        self._container_key = session.key_by_container(self._members.values())
        self._earlier: _Sums = {}
        self._symbols = Symbols()
        self._name_of = functools.cache(self._symbols.name)
        self._learnt: set[int] = set()  # processes
        self._offsets = bool(session.request.offsets or session.request.verbose)
        self.takes_users = bool(session.request.variables().get("user_stacks"))

    def read(self, since_last: bool = False, blocked: bool = True) -> list[Stack]:
        """Return the stacks with the time that was spent with each, the least time first.

        With ``blocked``, threads that are off the CPU now, or were when the tracing ended, come
        with the whole time since they left it.
        """
        sums = self._read_sums()
        begun = self._read_begun() if blocked else {}
        self.learn()
        frames = self._read_frames()
        found = []
        for key, total in sums.items():
            earlier = self._earlier.get(key, _NOTHING) if since_last else _NOTHING
            grown = _Sum(total.ns - earlier.ns, total.times - earlier.times)
            if grown != _NOTHING:
                found.append(self._stack(key, grown, frames, blocked=False))
        for key, until_now in begun.items():
            found.append(self._stack(key, until_now, frames, blocked=True))
        if since_last:
            self._earlier = sums
        return sorted(found, key=lambda stack: stack.ns)

    def learn(self) -> None:
        """Look at the processes that are new, because later they may be gone."""
        if not self.takes_users:
            return
        for _, key in self._begins():
            pid = self._members["pid"].unpack(key)
            if pid not in self._learnt:
                self._learnt.add(pid)
                self._symbols.learn(pid)

    def _read_sums(self) -> _Sums:
        name = self._tool.sums
        sums: _Sums = {}
        for key, value in self._session.read_map(name):
            ns, times = struct.unpack("<QQ", value)
            _add(sums, self._container_key(key), ns, times)
        lost_ns = self._session.global_value(f"{name}_unsummed")
        lost_times = self._session.global_value(f"{name}_lost")
        sums[_UNKNOWN_KEY] = _Sum(lost_ns, lost_times)
        return sums

    def _begins(self) -> Iterable[tuple[int, bytes]]:
        """Yield when each thread left the CPU, 0 if it is back, and the key of its sum."""
        for _, value in self._session.read_map(self._tool.begins):
            yield int.from_bytes(value[:8], "little"), value[8:]

    def _read_begun(self) -> _Sums:
        until = self._session.ended or time.monotonic_ns()
        known = self._session.request.variables()
        least, most = known.get("least_ns", 0), known.get("most_ns", math.inf)
        begun: _Sums = {}
        for since, key in self._begins():
            lasted = max(0, until - since)
            if since and least <= lasted <= most:
                _add(begun, self._container_key(key), lasted, 1)
        return begun

    def _read_frames(self) -> dict[int, tuple[int, ...]]:
        """Return the addresses of each stack, by its number."""
        found = {}
        for key, value in self._session.read_map(self._tool.stacks):
            used, *frames = memoryview(value).cast("Q")
            found[int.from_bytes(key, "little")] = tuple(frames[: used // 8])
        return found

    def _stack(
        self, key: bytes, total: _Sum, frames: dict[int, tuple[int, ...]], blocked: bool
    ) -> Stack:
        # Of an unknown key all numbers are 0.
        pid = self._members["pid"].unpack(key)
        comm = _UNKNOWN
        kernel_stack: tuple[str, ...] = (LOST,)
        if key != _UNKNOWN_KEY:
            comm = os.fsdecode(self._members["comm"].chars(key))
            kernel_stack = self._name(KERNEL, self._members["kernel_stack"].unpack(key), frames)
        stack = Stack(
            pid=pid,
            tid=self._members["tid"].unpack(key),
            comm=comm,
            kernel_stack=kernel_stack,
            user_stack=self._name(pid, self._members["user_stack"].unpack(key), frames),
            ns=total.ns,
            times=total.times,
            blocked=blocked,
        )
        if not self._session.request.per_container:
            return stack
        cgroup = self._members["cgroup"].unpack(key)
        return stack._replace(cgroup=cgroup, container=name_of("container", cgroup))

    def _name(self, pid: int, stack: int, frames: dict[int, tuple[int, ...]]) -> tuple[str, ...]:
        """Return the names of a stack's frames."""
        if stack == _NO_STACK:
            return ()
        names = [self._name_of(pid, each, self._offsets) for each in frames.get(stack, ())]
        if pid == KERNEL:
            names = without_tracing(names)
        return tuple(names) or (LOST,)


def _add(sums: _Sums, key: bytes, ns: int, times: int) -> None:
    before = sums.get(key, _NOTHING)
    sums[key] = _Sum(before.ns + ns, before.times + times)


def _is_delimited(stack: Stack, request: Request) -> bool:
    return bool(request.delimited and stack.user_stack and stack.kernel_stack)


def fold(found: Iterable[Stack], request: Request, ns: dict[tuple[str, ...], int]) -> None:
    """Add the ns of stacks to NS by their frames: container, command's name, outermost frame..."""
    for stack in found:
        frames = [stack.container] if stack.container else []
        frames += [stack.comm, *reversed(stack.user_stack)]
        if _is_delimited(stack, request):
            frames.append("-")
        frames += reversed(stack.kernel_stack)
        if stack.blocked:
            frames.append(_BLOCKED)
        names = tuple(frames)
        ns[names] = ns.get(names, 0) + stack.ns


def _usecs(ns: dict[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    return {names: total // 1000 for names, total in ns.items()}


def run(session: Session, tool: Shape, output: Output, stop: Stop) -> dict[str, int]:
    """Print the sums at each interval, or at the end; return what to say at the end."""
    sums = Reader(session, tool)
    start = time.monotonic()
    seen = 0
    without_stack = 0
    ns: dict[tuple[str, ...], int] = {}
    for _ in reports(session, output, stop, sums.learn if sums.takes_users else None):
        found = sums.read(since_last=True, blocked=session.ended > 0)
        for stack in found:
            if stack.pid == 0:  # it is not known who, so it is counted among the lost
                continue
            seen += stack.times
            if LOST in stack.kernel_stack or LOST in stack.user_stack:
                without_stack += stack.times
        if session.request.by_stack:
            fold(found, session.request, ns)
        if not session.request.without_rows:
            _report(session.request, found, output, start)
    if session.request.by_stack:
        from tracewheel.runtime.show import flame

        flame.write(session.request, _usecs(ns), tool.title, "usecs", output)
    if without_stack:
        say(f"{session.name}: {without_stack} with a {LOST}: give a larger --stack-storage-size")
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
            delimiter = ["--"] if _is_delimited(stack, request) else []
            frames = [*stack.kernel_stack, *delimiter, *stack.user_stack]
            lines += [f"    {shown(frame)}" for frame in frames]
            where = f", container = {shown(stack.container)}" if stack.container else ""
            lines.append(f"    {'-':<16} {shown(stack.comm)} ({stack.tid or stack.pid}){where}")
            state = ", still blocked" if stack.blocked else ""
            lines.append(f"        {stack.ns // 1000} usecs, {stack.times} times{state}\n")
    if not found:
        lines.append("no events")
    output.text("".join(f"{line}\n" for line in lines))

# SPDX-License-Identifier: BSD-2-Clause
"""A session: a tool that is attached to the kernel, its maps, and the events it has lost."""

from __future__ import annotations

import collections
import errno
import os
import time

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.cpus import online_cpus
from tracewheel.runtime.host.errors import BpfError, say
from tracewheel.runtime.trace.configuration import HASH, RINGBUF, Configuration
from tracewheel.runtime.trace.ladders import Climber
from tracewheel.runtime.trace.object import find_map, read_object
from tracewheel.runtime.trace.ring import Ring
from tracewheel.runtime.trace.sampling import count_unsampled
from tracewheel.runtime.trace.targets import Targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.trace.btf import Member
    from tracewheel.runtime.trace.object import BpfObject, Map
    from tracewheel.runtime.trace.sampling import Clocks
    from tracewheel.runtime.trace.uprobes import Prober

_LOOK_MS = 1000  # between two looks at which CPUs are online
_BATCH_MOST = 4096  # elements of a map that are read at a time


class Session:
    """A tool that traces. Use as a context manager: leaving it detaches and unloads.

    With ``all_ladders``, also those are tried that none of the given options needs.
    """

    def __init__(self, name: str, request: Request, all_ladders: bool = False) -> None:
        self.name = name
        self.request = request
        self.targets = Targets(request.pids)
        data = read_object(name)
        self._configuration = Configuration(name, data, request)
        self._climber = Climber(name, data, request, self._configuration, all_ladders)
        self.maps = {m.name: m for m in self.object.maps()}
        self.variables = {v.name: v for v in self.object.variables()}
        self.taken: dict[str, str] = {}  # the rung of each ladder
        self.prober: Prober | None = None
        self.ring: Ring | None = None
        self._ended: list[int] = []  # processes of -p, of which nobody was told yet
        self.ended = 0  # when the tracing ended, in ns of CLOCK_MONOTONIC; 0 until then

    def __enter__(self) -> Session:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> None:
        self.taken = self._climber.climb()
        if "owners" in self.maps:
            from tracewheel.runtime.trace import tasks

            tasks.note_owners(self.handle)
        for m in self.maps.values():
            if m.type == RINGBUF:
                self.ring = Ring(find_map(self.handle, m.name))
        self.prober = self._new_prober(self.taken)
        if self.prober:
            self.prober.begin(self.request.chosen_file)

    def detach(self) -> None:
        """End the tracing. What was seen and lost until now can still be read."""
        self.ended = time.monotonic_ns()
        self.object.detach()

    def close(self) -> None:
        """Detach and unload everything; may be called again."""
        self.ring = None
        self._climber.close()
        self.targets.close()

    @property
    def object(self) -> BpfObject:
        """The object that traces."""
        assert self._climber.object, "the session is closed"
        return self._climber.object

    @property
    def handle(self) -> Any:
        """The struct bpf_object of libbpf."""
        return self.object.handle

    @property
    def started(self) -> int:
        """When the tracing began, in ns of CLOCK_BOOTTIME."""
        return self._climber.started

    def _new_prober(self, rungs: dict[str, str]) -> Prober | None:
        """Return what attaches the uprobes of these rungs, None if there are none."""
        programs = [
            p for p in self._climber.programs if rungs.get(p.ladder) == p.rung and p.is_uprobe
        ]
        uprobes = getattr(self.request.tool, "uprobes", None)
        if not programs or not uprobes:
            return None
        from tracewheel.runtime.trace.uprobes import Prober

        return Prober(self.name, uprobes, programs, self.object.attach_uprobe)

    def ladders(self) -> list[str]:
        """Return the ladders that are climbed for this request."""
        return list(self._climber.ladders)

    def attempts(self) -> Iterator[tuple[str, str, str | None]]:
        """Try every rung by itself; yield its ladder, its name, and the error or None."""
        for ladder, rungs in self._climber.ladders.items():
            for rung in rungs:
                error = self._climber.retry({ladder: rung})
                prober = None if error else self._new_prober({ladder: rung})
                if prober:
                    error = prober.trial()
                yield ladder, rung, self._climber.describe_error(error) if error else None

    def describe_missing(self, ladder: str) -> str:
        """Return a line about functions that could not be attached to, "" if there are none."""
        return self._climber.describe_missing(ladder, self.taken[ladder])

    def note_ended(self) -> None:
        """Stop tracing those of the processes of -p that have ended since the last call."""
        for pid in self.targets.take_ended():
            self._configuration.unmark_process(self.object, pid)
            self._ended.append(pid)

    def take_ended(self) -> list[int]:
        """Return the processes that were noted as ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def tend(self, left: int) -> int:
        """Probe new processes and sample new CPUs; return for how many ms to wait until the next.

        ``left`` is how many ms there are to wait at most; -1 stands for no limit, here and in what
        is returned.
        """
        if self.object.clocks:
            error = self.object.clocks.start(online_cpus())
            if error not in (0, -errno.ENODEV):
                reason = os.strerror(-error)
                say(f"{self.name}: cannot sample every CPU, so counts are too low: {reason}")
            left = min(left, _LOOK_MS) if left >= 0 else _LOOK_MS
        return self.prober.tend(left) if self.prober else left

    def read_map(self, name: str, summed: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys and values of a map.

        With ``summed``, the map must be a per-CPU map of 64-bit numbers, and the values are the
        sums over all CPUs; where a member is an ev_longest, the greatest.
        """
        m = self.maps[name]
        sums = self.object.members(m.value) if summed else []
        greatest = sum(1 << each.offset // 8 for each in sums if each.meaning == "ev_longest")
        fd = lib.bpf_map__fd(find_map(self.handle, name))
        value_size = m.value_size * (lib.libbpf_num_possible_cpus() if summed else 1)
        for keys, values, count in _batches_of(m, fd, value_size):
            if summed:
                lib.shim_sum(values, count, m.value_size, greatest)
            for i in range(count):
                key, value = keys + i * m.key_size, values + i * m.value_size
                yield ffi.buffer(key, m.key_size)[:], ffi.buffer(value, m.value_size)[:]

    def key_by_container(self, members: Iterable[Member]) -> Callable[[bytes], bytes]:
        """Return a function that maps a key to its container's key.

        So the cgroups of one container share one row. Without --per-container a key is its own.
        """
        if not self.request.per_container:
            return bytes
        from tracewheel.runtime.host.containers import container_of

        member = next(m for m in members if m.meaning == "ev_cgroup")
        begin, end = member.offset, member.offset + member.size

        def key_of_container(key: bytes) -> bytes:
            cgroup, _ = container_of(member.unpack(key))
            return key[:begin] + member.pack(cgroup) + key[end:]

        return key_of_container

    def global_value(self, name: str) -> int:
        """Return what the programs have made of a global variable."""
        return self.object.get(self.variables[name])

    def losses(self) -> dict[str, int]:
        """Return how many events were lost, by cause; causes without any are left out.

        The causes are the counters NAME_lost of the object, skipped runs of programs, and samples
        that were not taken.
        """
        counters = [name for name in self.variables if name.endswith("_lost")]
        losses = {name.removesuffix("_lost"): self.global_value(name) for name in counters}
        in_rows = getattr(self.request.tool, "skips_in_rows", ())
        is_full = any(losses.get(m.name) for m in self.maps.values() if m.type == HASH)
        skipped = [self._skipped(each, is_full) for each in self.taken if each not in in_rows]
        losses["skipped"] = sum(skipped)
        losses["unsampled"] = self._unsampled(self.object.clocks) if self.object.clocks else 0
        return {cause: count for cause, count in losses.items() if count}

    def _skipped(self, ladder: str, is_full: bool) -> int:
        """Return for how many events, at most, the kernel has skipped all programs of a ladder.

        An event is lost if the first program and all of its stand-ins were skipped. If a map is
        full, a stand-in cannot tell whether the first program has run.
        """
        by_attempt = collections.Counter({1: 0})
        for program in self._climber.loaded:
            if program.ladder == ladder:
                by_attempt[program.attempt] += self.object.missed(program)
        stood_in = f"{ladder}_by_stand_in"  # how often a stand-in did what the first had not
        if stood_in in self.variables:
            by_attempt[1] -= self.global_value(stood_in)
        return max(0, by_attempt[1] if is_full else min(by_attempt.values()))

    def _unsampled(self, clocks: Clocks) -> int:
        """Return how many times a clock should have run the program on a busy CPU and has not.

        A clock does not run the program while a map is changed or another program runs on its CPU.
        The kernel does not count these times.
        """
        times = clocks.run_times()
        return count_unsampled(
            times,
            clocks.frequency,
            samples=self.global_value("clock_samples"),
            busy_samples=self.global_value("clock_busy_samples"),
            unsure=len(times) * clocks.frequency / os.sysconf("SC_CLK_TCK"),
        )


def _batches_of(m: Map, fd: int, value_size: int) -> Iterator[tuple[Any, Any, int]]:
    """Yield arrays of keys and of values, and how many elements they have, until all are read."""
    most = min(_BATCH_MOST, m.max_entries)
    cursor = ffi.new("char[]", max(m.key_size, 8))
    keys = ffi.new("char[]", most * m.key_size)
    values = ffi.new("char[]", most * value_size)
    count = ffi.new("uint32_t *")
    before = ffi.NULL
    error = 0
    singly = False
    while not error:
        count[0] = most
        if not singly:
            error = lib.bpf_map_lookup_batch(fd, before, cursor, keys, values, count, ffi.NULL)
            # There are batches of hash maps since v5.6, of per-CPU arrays since Linux commit
            # f008d732ab18 ("bpf: Add batched ops support for percpu array") (in v5.13).
            singly = not before and error not in (0, -errno.ENOENT)
        if singly:
            error = lib.bpf_map_get_next_key(fd, before, cursor)
            gone = error or lib.bpf_map_lookup_elem(fd, cursor, values)
            ffi.memmove(keys, cursor, m.key_size)
            count[0] = 0 if gone else 1
        if error not in (0, -errno.ENOENT):
            raise BpfError(f"cannot read {m.name}: {os.strerror(-error)}")
        before = cursor
        yield keys, values, count[0]

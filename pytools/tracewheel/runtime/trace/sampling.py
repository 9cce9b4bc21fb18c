# SPDX-License-Identifier: BSD-2-Clause
"""Clocks that sample CPUs, and the number of samples that are missing."""

from __future__ import annotations

import errno
import math
import os

from tracewheel._shim import lib
from tracewheel.runtime.host.cpus import read_idle_ns
from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CHANCE = 3  # standard deviations that chance may explain


class RunTime(Record):
    """The time that a clock has run, and the part of it in which its CPU was idle, in ns."""

    ran_ns: int
    idle_ns: int


class Clocks:
    """Clocks that run a program ``frequency`` times a second, one clock on each CPU.

    When a CPU goes offline its clock stops, and it does not run again when the CPU comes back.
    This was seen from v5.10 to v7.2.
    """

    def __init__(self, program_fd: int, frequency: int, cpu: int | None = None) -> None:
        self.frequency = frequency
        self._program_fd = program_fd
        self._only_cpu = cpu
        self._running: dict[int, int] = {}  # descriptors, by CPU
        self._idle_before: dict[int, int] = {}  # ns, by CPU, when its clock was started
        self._ended: list[RunTime] = []

    def start(self, cpus: Iterable[int]) -> int:
        """Start a clock on each of the CPUs that is online and has none.

        Returns 0 or a negative errno, which is -ENODEV if no clock runs at all.
        """
        self._end([cpu for cpu, clock in self._running.items() if _is_stopped(clock)])
        wanted = set(cpus) if self._only_cpu is None else {self._only_cpu}
        idle = read_idle_ns()
        worst = 0
        for cpu in wanted - set(self._running):
            self._idle_before[cpu] = idle.get(cpu, 0)
            clock = lib.shim_start_clock(cpu, self.frequency, self._program_fd)
            if clock >= 0:
                self._running[cpu] = clock
            elif clock != -errno.ENODEV:
                worst = min(worst, clock)
        if not worst and not self._running:
            return -errno.ENODEV
        return worst

    def end(self) -> None:
        """End all clocks. Their times can still be read."""
        self._end(list(self._running))

    def run_times(self) -> list[RunTime]:
        """Return the time of each clock, with those that have ended."""
        return self._ended + self._times_of(list(self._running))

    def _end(self, cpus: list[int]) -> None:
        self._ended += self._times_of(cpus)
        for cpu in cpus:
            os.close(self._running.pop(cpu))

    def _times_of(self, cpus: list[int]) -> list[RunTime]:
        idle = read_idle_ns() if cpus else {}
        times = []
        for cpu in cpus:
            ran = _read_clock(self._running[cpu])
            # The idle time of a CPU that is offline by now is not known: take all of it for idle.
            idled = idle[cpu] - self._idle_before[cpu] if cpu in idle else ran
            times.append(RunTime(ran, min(ran, idled)))
        return times


def _read_clock(clock: int) -> int:
    """Return how long a sampling clock has run, in ns. It stops while its CPU is offline."""
    return int.from_bytes(os.read(clock, 16)[8:], "little")


def _is_stopped(clock: int) -> bool:
    """Tell whether a clock has stopped: a running one never shows the same time twice."""
    first = _read_clock(clock)
    return first == _read_clock(clock)


def count_unsampled(
    times: list[RunTime], frequency: int, *, samples: int, busy_samples: int, unsure: float
) -> int:
    """Return how many samples of busy CPUs are certainly missing.

    ``samples`` is how often the program has run, and ``busy_samples`` how often of them on a busy
    CPU: some kernels let no clock tick on an idle one. ``unsure`` is the possible error of the
    idle time, in ticks. The idle time is also an average, so samples that may be missing by chance
    are not counted.
    """
    period = 10**9 // frequency
    ticks = sum(each.ran_ns // period for each in times)
    idle_ticks = sum(each.idle_ns / period for each in times)
    if not ticks:
        return 0
    idle_share = min(1.0, idle_ticks / ticks)
    missing = min(ticks - samples, ticks * (1 - idle_share) - busy_samples)
    chance = _CHANCE * math.sqrt(ticks * idle_share * (1 - idle_share))
    return int(missing) if missing > chance + unsure else 0

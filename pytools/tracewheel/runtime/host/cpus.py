# SPDX-License-Identifier: BSD-2-Clause
"""The CPUs of this machine: which are online, and how long they were idle."""

from __future__ import annotations

import os

# Words of a line in /proc/stat that count the time in which a CPU ran nothing. While a hypervisor
# has taken the CPU away (steal), it runs nothing of this machine.
_IDLE, _IOWAIT, _STEAL = 4, 5, 8


def read_idle_ns() -> dict[int, int]:
    """Return how long each CPU that is online has run nothing since the boot, in ns.

    The kernel counts this time in hundredths of a second.
    """
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    idle_ns = {}
    with open("/proc/stat") as file:
        for line in file:
            words = line.split()
            cpu = words[0].removeprefix("cpu")  # the first line, of all CPUs, has no number
            if words[0].startswith("cpu") and cpu.isdigit():
                ticks = sum(int(words[which]) for which in (_IDLE, _IOWAIT, _STEAL))
                idle_ns[int(cpu)] = ticks * tick_ns
    return idle_ns


def online_cpus(path: str = "/sys/devices/system/cpu/online") -> list[int]:
    """Return the numbers of the CPUs that are online. The file lists them as 0-2,5."""
    with open(path) as file:
        spans = file.read().split(",")
    cpus: list[int] = []
    for span in spans:
        first, dash, last = span.partition("-")
        cpus += range(int(first), int(last if dash else first) + 1)
    return cpus

# SPDX-License-Identifier: BSD-2-Clause
"""CPUs of this machine: which are online, and how long they were idle."""

from __future__ import annotations

import os

_IDLE = slice(4, 6)  # words of a line in /proc/stat: idle, iowait
_STEAL = 8  # the word of the time when a hypervisor ran something else instead


def read_idle_ns() -> dict[int, int]:
    """Return how long each CPU that is online has run nothing, in ns since the boot.

    The kernel tells it to a hundredth of a second.
    """
    unit = 10**9 // os.sysconf("SC_CLK_TCK")
    with open("/proc/stat") as file:
        lines = [line.split() for line in file if line.startswith("cpu") and line[3].isdigit()]
    return {
        int(words[0][3:]): unit * sum(map(int, (*words[_IDLE], words[_STEAL]))) for words in lines
    }


def online_cpus(path: str = "/sys/devices/system/cpu/online") -> list[int]:
    """Return the CPUs that run now; the file tells them as 0-2,5."""
    with open(path) as file:
        spans = [list(map(int, span.split("-"))) for span in file.read().split(",")]
    return [cpu for span in spans for cpu in range(span[0], span[-1] + 1)]

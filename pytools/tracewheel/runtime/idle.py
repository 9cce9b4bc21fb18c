# SPDX-License-Identifier: BSD-2-Clause
"""How long CPUs were idle, and how many samples are missing from the time when they were not."""

from __future__ import annotations

import math
import os

_IDLE = slice(4, 6)  # words of a line in /proc/stat: idle, iowait
_STEAL = 8  # the word of the time when a hypervisor ran something else instead
_CHANCE = 3  # standard deviations


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


def count_unsampled(
    *, ticks: float, idle_ticks: float, samples: int, busy_samples: int, unsure: float
) -> int:
    """Return how many samples of CPUs that were busy are missing, as far as that is certain.

    ``ticks`` is how often clocks should have run their program, ``idle_ticks`` how often of them
    on an idle CPU, where some kernels let no clock tick. ``unsure`` is how far ``idle_ticks`` may
    be from the truth. It is an average, too: samples that chance alone may explain are no loss.
    """
    if not ticks:
        return 0
    idle_share = min(1.0, idle_ticks / ticks)
    missing = min(ticks - samples, ticks * (1 - idle_share) - busy_samples)
    chance = _CHANCE * math.sqrt(ticks * idle_share * (1 - idle_share))
    return int(missing) if missing > chance + unsure else 0

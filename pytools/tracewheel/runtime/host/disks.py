# SPDX-License-Identifier: BSD-2-Clause
"""Names of block devices."""

from __future__ import annotations

import os


def disk_name(device: int) -> str:
    """Return the name of a block device from its number, major << 20 | minor."""
    major, minor = device >> 20, device & 0xFFFFF
    try:
        return os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"

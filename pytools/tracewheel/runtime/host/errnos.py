# SPDX-License-Identifier: BSD-2-Clause
"""The names of error numbers."""

from __future__ import annotations

import errno


def error_names() -> dict[int, str]:
    """Return the names of errors by their numbers, with those that only the kernel uses."""
    restarts = {
        512: "ERESTARTSYS",
        513: "ERESTARTNOINTR",
        514: "ERESTARTNOHAND",
        516: "ERESTART_RESTARTBLOCK",
    }
    return {**errno.errorcode, **restarts}

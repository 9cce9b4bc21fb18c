# SPDX-License-Identifier: BSD-2-Clause
"""Names of errors."""

from __future__ import annotations

import errno


def error_names() -> dict[int, str]:
    """Return the names of errors, of those too that only the kernel uses."""
    restarts = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND",
                516: "ERESTART_RESTARTBLOCK"}  # fmt: skip
    return {**errno.errorcode, **restarts}

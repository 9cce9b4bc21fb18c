# SPDX-License-Identifier: BSD-2-Clause
"""Processes are watched until they end."""

from __future__ import annotations

import subprocess

import pytest
from tracewheel.runtime.host.errors import TargetGone
from tracewheel.runtime.host.processes import watch_process


def test_watched_process_is_gone() -> None:
    """A process that ended before it could be watched is not waited for."""
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(TargetGone, match="has ended"):
        watch_process(process.pid)

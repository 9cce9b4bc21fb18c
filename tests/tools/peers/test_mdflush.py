# SPDX-License-Identifier: BSD-2-Clause
"""Beside other tools for flushes of arrays."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from tests.events import flush
from tests.tools.peers.conftest import ME, script

FLUSHES = 23


def test_mdflush(trace: Any, beside: Any, small_array: str) -> None:
    """All show the same flushes, libbpf-tools without the names of arrays; ours for how long."""
    name = os.path.basename(small_array)
    knock = ["dd", "if=/dev/null", f"of={small_array}", "conv=notrunc,fsync", "status=none"]
    peers = beside(
        ("mdflush-libbpf",),
        ("mdflush-bpfcc",),
        script("mdflush.bt"),
        shows=r" dd ",
        act=lambda: subprocess.run(knock, check=True),
    )
    ours = trace("mdflush", "-p", ME, "--json")
    for _ in range(FLUSHES):
        flush(small_array)
    ours.end()
    for each in peers:
        each.wait_for(rf"(?s)(?: {ME} .*?){{{FLUSHES}}}\n")

    assert [name] * FLUSHES == [row["device"] for row in ours.json]
    assert all(row["duration"] > 0 for row in ours.json)
    libbpf, bcc, bpftrace = ([row[3:] for row in each.rows() if row[1:2] == [ME]] for each in peers)
    assert [[]] * FLUSHES == libbpf
    assert [[name]] * FLUSHES == bcc == bpftrace

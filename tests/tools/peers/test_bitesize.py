# SPDX-License-Identifier: BSD-2-Clause
"""Other tools show the same sizes for the same process.

libbpf-tools' and bcc's divide by 1024 before they look for the row: what is smaller than 2 KiB is
in one row with what has no size. Ours and bpftrace's tell it apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.tools.peers.conftest import buckets, buckets_of_ours, script

SMALL, BLOCKS, LARGE = 29, 23, 17
COMM = "sizes"


def rows_of(shown: str, comm: str) -> dict[int, int]:
    """Return the rows of the histogram that stands under this command name."""
    found = re.search(rf"\b{comm}\b\W*\n(.*?)(?:\n\s*\n|\Z)", shown, re.DOTALL)
    assert found, shown
    return buckets(found[1])


def test_sizes(trace: Any, beside: Any, disk: Any, called: Any) -> None:
    """All count each read once, under the name of the process."""
    filters = ["-d", disk.name, "-c", COMM]
    peers = beside(
        ("bitesize-libbpf", *filters), ("bitesize-bpfcc",), script("bitesize.bt"),
    )  # fmt: skip
    ours = trace("bitesize", *filters, "--json")
    with called(COMM.encode()):
        assert f"{COMM}\n" == Path("/proc/self/comm").read_text()
        disk.read(SMALL, 512)
        disk.read(BLOCKS, 4096)
        disk.read(LARGE, 65536)
    ours.end()
    libbpf, bcc, bpftrace = (rows_of(each.end(), COMM) for each in peers)

    expected = {512: SMALL, 4096: BLOCKS, 65536: LARGE}
    in_kib = {0: SMALL, 4: BLOCKS, 64: LARGE}
    assert expected == buckets_of_ours(ours)
    assert expected == {low: count for low, count in bpftrace.items() if count}
    assert in_kib == {low: count for low, count in libbpf.items() if count}
    assert in_kib == {low: count for low, count in bcc.items() if count}

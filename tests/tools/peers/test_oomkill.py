# SPDX-License-Identifier: BSD-2-Clause
"""oomkill beside the tools of others that trace the out-of-memory killer."""

from __future__ import annotations

import re
from typing import Any

from tests.events import limited_memory, use_memory
from tests.tools.peers.conftest import script

KILLS = 3
LIMIT = 32 << 20
PAGE = 4096
LINE = (
    r'Triggered by PID (\d+) \("(.*?)"\),.* OOM kill of PID (\d+) \("(.*?)"\), (\d+) pages, '
    r"loadavg: (\S+ \S+ \S+)"
)


def test_oomkill(trace: Any, beside: Any) -> None:
    """All show the same kills and who triggered them; only ours shows what the victim had.

    What the peers call pages is the memory that the kernel shares out, the limit of the cgroup,
    which ours calls the domain.
    """
    peers = beside(("oomkill-libbpf",), ("oomkill-bpfcc",), script("oomkill.bt"))
    ours = trace("oomkill", "--json")
    with limited_memory("tracewheel-peers", LIMIT) as cgroup:
        assert cgroup
        pids = [use_memory(cgroup, 2 * LIMIT).pid for _ in range(KILLS)]
    for each in peers:
        each.wait_for(rf"OOM kill of PID {pids[-1]} .*loadavg: \S+ \S+ \S+")
    ours.end()

    expected = [(pid, "dd", pid, "dd", LIMIT) for pid in pids]
    names = ("trigger_pid", "trigger_comm", "pid", "comm", "domain")
    assert expected == [tuple(row[name] for name in names) for row in ours.json]
    for each in peers:
        shown = [found.groups() for found in re.finditer(LINE, each.end())]
        assert expected == [
            (int(by), by_comm, int(pid), comm, int(pages) * PAGE)
            for by, by_comm, pid, comm, pages, _ in shown
        ]
    assert all(0 < row["rss"] < row["domain"] + (4 << 20) for row in ours.json)

# SPDX-License-Identifier: BSD-2-Clause
"""Beside tcpdrop of bcc and of bpftrace, ours shows the same drops, and those that they miss."""

from __future__ import annotations

from typing import Any

from tests.tools.packets import Apart, Ends, knock
from tests.tools.peers.conftest import script


def test_tcpdrop(trace: Any, beside: Any) -> None:
    """All show a packet that has no route; of packets without a socket only ours does.

    The peers look at packets only where the kernel has noted a socket in them. bcc takes the
    addresses from a header that is not there, and the name of the reason from a table of another
    kernel.
    """
    child = Apart()
    bcc, bpftrace = beside(
        ("tcpdrop-bpfcc",),
        script("tcpdrop.bt"),
        shows="ESTABLISHE",
        act=child.lose_the_route,
    )
    ours = trace("tcpdrop", "--json")
    refused = knock("127.0.0.1")
    lost = child.lose_the_route()
    for each in (bcc, bpftrace):
        each.wait_for(str(lost.sport))
    ours.end()
    shown = [each.end() for each in (bcc, bpftrace)]
    child.close()

    by_ends: dict[Ends, list[dict[str, Any]]] = {}
    for row in ours.json:
        ends = Ends(*(row[name] for name in Ends._fields))
        by_ends.setdefault(ends, []).append(row)
    assert "NO_SOCKET" == by_ends[refused][0]["reason"]
    assert ("IP_OUTNOROUTES", "ESTABLISHED", "PSH|ACK") == tuple(
        by_ends[lost][0][name] for name in ("reason", "state", "flags")
    )
    for rows in shown:
        (line, *_) = (line for line in rows.splitlines() if str(lost.sport) in line)
        assert str(lost.dport) in line
        assert "ESTABLISHE" in line
        assert str(refused.sport) not in rows
    assert f"127.0.0.1:{lost.sport}" not in shown[0]
    assert "IP_OUTNOROUTES" not in shown[0]

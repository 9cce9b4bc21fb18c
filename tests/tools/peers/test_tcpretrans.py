# SPDX-License-Identifier: BSD-2-Clause
"""Beside bcc's and bpftrace's tcpretrans ours shows the same retransmits, and whose they are."""

from __future__ import annotations

import collections
import errno
import re
import socket
from typing import Any

from tests.events import heed, ignore
from tests.tools.peers.conftest import ME, script
from tests.tools.test_tcpretrans import V4, V6, Connection, ends_of, send_twice

CONNECTIONS = 23


def rows_of(shown: str) -> collections.Counter[tuple[str, int, str, int]]:
    """Return how often a peer has shown a retransmit between two ends."""
    end = r"\[?([0-9a-f.:]+?)\]?:(\d+)"
    found = re.findall(rf"^\d+:\d+:\d+ .*? {end} +(?:\w> )?{end} +\w+", shown, re.MULTILINE)
    return collections.Counter((a, int(ap), b, int(bp)) for a, ap, b, bp in found)


def test_tcpretrans(trace: Any, beside: Any) -> None:
    """All show the same retransmits of data, as often.

    No peer shows a SYN-ACK that is sent again. bpftrace shows no tail loss probes, because these do
    not call tcp_retransmit_skb(). Only ours shows whose the socket is: peers show whoever is
    interrupted.
    """
    bcc, bpftrace = peers = beside(("tcpretrans-bpfcc",), script("tcpretrans.bt"))
    ours = trace("tcpretrans", "-p", ME, "--json")
    server, client = socket.create_server((V4, 0)), socket.socket()
    ignore(client)
    client.setblocking(False)
    assert errno.EINPROGRESS == client.connect_ex(server.getsockname())
    connections = [Connection((V4, V6)[number % 2]) for number in range(CONNECTIONS)]
    send_twice(*connections, times=2)
    last = Connection()
    send_twice(last, times=2)
    for each in peers:
        each.wait_for(f":{last.ends[1]} ")
    heed(client)
    server.accept()
    ours.end()

    every = {each.ends: each.retransmits for each in (*connections, last)}
    found = collections.Counter(map(ends_of, ours.json))
    assert every == {ends: found[ends] for ends in every}
    probes = collections.Counter(ends_of(row) for row in ours.json if row["type"] == "LOSS")
    by_bcc, by_bpftrace = (rows_of(each.end()) for each in (bcc, bpftrace))
    assert every == {ends: by_bcc[ends] for ends in every}
    assert {ends: count - probes[ends] for ends, count in every.items()} == {
        ends: by_bpftrace[ends] for ends in every
    }
    synacks = [row for row in ours.json if row["type"] == "SYNACK"]
    assert synacks
    assert not {*map(ends_of, synacks)} & {*by_bcc, *by_bpftrace}

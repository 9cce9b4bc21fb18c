# SPDX-License-Identifier: BSD-2-Clause
"""Beside tools of others tcpaccept shows the same connections, and more of them."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

from tests.tools.peers.conftest import ME, script

ACCEPTS = 23
QUEUED = 5
V4, V6, ANY = "127.0.0.1", "::1", "::"
FIRST, LAST = "127.0.0.2", "127.0.0.3"
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close by a reset


def ends_of(client: socket.socket) -> tuple[str, ...]:
    """Return the ends of a connection, as the server sees them."""
    ends = (*client.getsockname()[:2], *client.getpeername()[:2])
    return tuple(str(end) for end in ends)


def accept_from(host: str, server: socket.socket) -> tuple[str, ...]:
    """Connect and accept; return the ends of the connection."""
    with socket.create_connection((host, server.getsockname()[1])) as client:
        server.accept()[0].close()
        return ends_of(client)


def accept_what_is_reset(server: socket.socket) -> tuple[str, ...]:
    """Accept a connection that the client has ended; return its ends."""
    client = socket.create_connection(server.getsockname())
    ends = ends_of(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    server.accept()[0].close()
    return ends


def test_tcpaccept(trace: Any, beside: Any, until: Any) -> None:
    """All show the same connections; ours has the right port and queue, and one call more.

    That call waited already when the tracing began: such a call does not end in the kretprobes of
    the peers. Once a client has reset the connection, they show 0 for the local port. They show
    ::ffff:127.0.0.1 for IPv4 on a socket of IPv6. The backlog of bpftrace is that of the new
    socket, which is a copy: how many waited when this connection came, not how many wait now.
    """
    servers = [
        socket.create_server((V4, 0)),
        socket.create_server((V6, 0), family=socket.AF_INET6),
        socket.create_server((ANY, 0), family=socket.AF_INET6, dualstack_ipv6=True),
    ]
    waiting, knocked = socket.create_server((V4, 0)), socket.create_server(("", 0))
    thread = threading.Thread(target=waiting.accept)
    thread.start()
    stack = Path(f"/proc/self/task/{thread.native_id}/stack")
    until(lambda: "inet_csk_accept" in stack.read_text())
    peers = beside(
        ("tcpaccept-bpfcc", "-p", ME),
        script("tcpaccept.bt"),
        shows=FIRST,
        act=lambda: accept_from(FIRST, knocked),
    )
    ours = trace("tcpaccept", "-p", ME, "--json")

    first = ends_of(socket.create_connection(waiting.getsockname()))
    thread.join()
    hosts = (V4, V6, V4)
    expected = [accept_from(hosts[n % 3], servers[n % 3]) for n in range(ACCEPTS)]
    clients = [socket.create_connection(servers[0].getsockname()) for _ in range(QUEUED)]
    for client in clients:
        servers[0].accept()[0].close()
        expected.append(ends_of(client))
    was_reset = accept_what_is_reset(servers[0])
    ours.end()
    accept_from(LAST, knocked)
    for each in peers:
        each.wait_for(LAST)

    names = ("raddr", "rport", "laddr", "lport")
    rows = [tuple(str(row[name]) for name in names) for row in ours.json]
    assert [first, *expected, was_reset] == rows
    assert [4, 3, 2, 1, 0, 0] == [row["backlog"] for row in ours.json[-QUEUED - 1 :]]
    bcc, bpftrace = ([row for row in each.rows() if ME in row[:2]] for each in peers)
    theirs = [*expected, (*was_reset[:3], "0")]
    for found in ([row[3:7] for row in bcc], [row[3:7] for row in bpftrace]):
        shown = [tuple(word.replace("::ffff:", "") for word in row) for row in found]
        assert theirs == [row for row in shown if row[2] not in (FIRST, LAST)]
    backlogs = [row[7].partition("/")[0] for row in bpftrace if row[5] != LAST]
    assert ["0", "1", "2", "3", "4", "0"] == backlogs[-QUEUED - 1 :]

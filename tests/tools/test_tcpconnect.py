# SPDX-License-Identifier: BSD-2-Clause
"""Connections opened here show once each, with their ends, their result and their time."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PRIME = 23
STORM = 5003
LIMIT_S = 120
V4, V6 = ("127.0.0.1", "::1")
# Its loopback is down, so that IPv4 has no route; lines on stdin make it go on.
OTHER = """
import ctypes, socket, sys
ctypes.CDLL(None).unshare(0x40000000)
print(flush=True)
sys.stdin.readline()
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")):
    print(socket.socket(family).connect_ex((host, 9)))
"""


class Seen(NamedTuple):
    """What a row tells that does not depend on time."""

    ip: int
    saddr: str
    sport: int
    daddr: str
    dport: int
    ret: int


class Server:
    """A socket that listens, with room for BACKLOG connections that nobody has accepted."""

    def __init__(self, host: str = V4, backlog: int = 128) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.bind((host, 0))
        self.socket.listen(backlog)
        self.address = self.socket.getsockname()[:2]

    def client(self, host: str = "", blocking: bool = True) -> tuple[socket.socket, int]:
        """Connect, and return the socket with what connect() returned."""
        to = (host or self.address[0], self.address[1])
        client = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        client.setblocking(blocking)
        return client, client.connect_ex(to)

    def full(self) -> list[socket.socket]:
        """Fill the backlog: what connects from now on gets no answer."""
        filling = [self.client(blocking=False)[0]]
        while select.select([], [filling[-1]], [], 0.2)[1]:
            filling.append(self.client(blocking=False)[0])
        return filling


def seen(client: socket.socket, to: tuple[str, int], ret: int, sport: int = -1) -> Seen:
    """Return what a row should tell of a socket."""
    saddr, own = client.getsockname()[:2]
    plain = [host.replace("::ffff:", "") for host in (saddr, to[0])]
    ip = 6 if ":" in plain[1] else 4
    return Seen(ip, plain[0], own if sport < 0 else sport, plain[1], to[1], ret)


def shown(tool: Any) -> list[Seen]:
    """Return what the rows of this process tell."""
    rows = [row for row in tool.json if row["pid"] == os.getpid()]
    assert all(row["tid"] == os.getpid() and row["uid"] == os.getuid() for row in rows)
    return [Seen(*(row[name] for name in Seen._fields)) for row in rows]


@pytest.fixture(params=["tp_btf", "raw_tp"])
def mine(request: pytest.FixtureRequest, trace: Any, rungs_of: Any) -> Any:
    """Give a function that traces this process, in each way that there is."""
    assert request.param in rungs_of("tcpconnect", "connect")
    rung = f"connect={request.param}"
    return lambda *options: trace(
        "tcpconnect", "--pid", str(os.getpid()), "--json", "--rung", rung, *options
    )


@pytest.mark.parametrize("host", [V4, V6])
def test_connections_and_refusals(mine: Any, host: str) -> None:
    """Each connection and each refusal shows once, in order, with the ends that it had."""
    server, closed = Server(host), Server(host)
    closed.socket.close()
    tool = mine()
    expected, clients, bounds = [], [], []
    for number in range(PRIME):
        begin = time.monotonic_ns()
        client, error = (closed if number % 3 == 2 else server).client()
        bounds.append(time.monotonic_ns() - begin)
        assert error == (errno.ECONNREFUSED if number % 3 == 2 else 0)
        clients.append(client)
        if error:
            expected.append(Seen(4 if host == V4 else 6, host, 0, host, closed.address[1], -error))
        else:
            expected.append(seen(client, server.address, 0))
    tool.end()

    # A refused socket has lost its port when connect() returns.
    rows = shown(tool)
    assert expected == [row._replace(sport=0) if row.ret else row for row in rows]
    assert all(row.sport for row in rows)
    assert [] == [b for b, row in zip(bounds, tool.json) if not 0 < row["duration"] <= b]
    assert (PRIME, 0) == tool.counted


def test_ipv4_by_an_ipv6_socket(mine: Any) -> None:
    """What goes to ::ffff:127.0.0.1 shows as the IPv4 that it is."""
    server = Server()
    tool = mine("-4")
    client, error = server.client("::ffff:127.0.0.1")
    tool.end()

    assert not error
    assert [seen(client, server.address, 0)] == shown(tool)
    assert [4] == [row["ip"] for row in tool.json]


def test_answers_that_come_later(mine: Any) -> None:
    """A non-blocking connect ends when it is established, though another task runs by then."""
    server = Server(backlog=0)
    filling = server.full()
    tool = mine()
    begin = time.monotonic_ns()
    clients = [server.client(blocking=False) for _ in range(3)]
    waiting = [client for client, _ in clients]
    # What finds the backlog full is sent again a second later, by a timer.
    while waiting:
        ready, established, _ = select.select([server.socket], waiting, [], LIMIT_S)
        assert ready or established, "no connection"
        waiting = [client for client in waiting if client not in established]
        if ready:
            server.socket.accept()
    end = time.monotonic_ns()
    tool.end()

    assert [errno.EINPROGRESS] * 3 == [error for _, error in clients]
    expected = {seen(client, server.address, 0) for client, _ in clients}
    lasted = [row["duration"] for row, what in zip(tool.json, shown(tool)) if what in expected]
    assert 3 == len(lasted)
    # The first of them may have found room at once.
    assert sorted(lasted)[1] > 900_000_000
    assert max(lasted) <= end - begin
    assert filling


def test_no_answer(mine: Any) -> None:
    """A connect times out, is given up, or goes on when tracing ends: each shows as what it is."""
    server = Server(backlog=0)
    filling = server.full()
    tool = mine("-x")
    late = socket.socket()
    late.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    begin = time.monotonic_ns()
    assert errno.ETIMEDOUT == late.connect_ex(server.address)
    lasted = time.monotonic_ns() - begin
    given_up, pending = [server.client(blocking=False)[0] for _ in range(2)]
    expected = seen(given_up, server.address, -errno.ECANCELED)
    given_up.close()
    goes_on = seen(pending, server.address, -errno.EINPROGRESS, sport=0)
    tool.end()

    rows = tool.json
    assert [-errno.ETIMEDOUT, -errno.ECANCELED, -errno.EINPROGRESS] == [row["ret"] for row in rows]
    assert [expected, goes_on] == shown(tool)[1:]
    assert 0.9 * lasted < rows[0]["duration"] <= lasted
    assert rows[2]["duration"] is None
    assert (3, 0) == tool.counted
    assert filling


def test_many_at_once(mine: Any) -> None:
    """Many connects in progress at the same time are told apart."""
    server = Server(backlog=2 * PRIME)
    tool = mine()
    clients = [server.client(blocking=False)[0] for _ in range(2 * PRIME)]
    for client in clients:
        assert select.select([], [client], [], 60)[1]
    tool.end()

    expected = {seen(client, server.address, 0) for client in clients}
    assert len(clients) == len(expected)
    assert expected == set(shown(tool))
    assert (len(clients), 0) == tool.counted


def test_no_room_for_all_at_once(mine: Any) -> None:
    """Of connects without an answer, those that have no room are counted as lost."""
    server = Server(backlog=0)
    filling = server.full()
    tool = mine("--max-entries", "7")
    clients = [server.client(blocking=False)[0] for _ in range(PRIME)]
    tool.end()
    rows, lost = tool.counted

    assert (7, PRIME - 7) == (rows, lost)
    assert {"attempts": lost} == tool.losses
    assert filling
    assert clients


def test_connection_to_itself(mine: Any) -> None:
    """A socket that connects to its own port, and so is both ends, shows once."""
    tool = mine()
    own = socket.socket()
    own.bind((V4, 0))
    own.connect(own.getsockname())
    tool.end()

    assert [seen(own, own.getsockname(), 0)] == shown(tool)


def test_failures_before_anything_is_sent(trace: Any, rungs_of: Any) -> None:
    """Without a route or a free port the error shows, on each rung, and nothing shows twice."""
    rungs = rungs_of("tcpconnect", "unsent")
    assert len(rungs) >= 2
    for rung in rungs:
        server = Server()
        command = [sys.executable, "-c", OTHER]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
            assert other.stdout
            other.stdout.readline()
            tool = trace("tcpconnect", "--json", "--rung", f"unsent={rung}")
            told, _ = other.communicate("\n")
        first, again = socket.socket(), socket.socket()
        for each in (first, again):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(first.getsockname() if each is again else (V4, 0))
        errors = [each.connect_ex(server.address) for each in (first, again)]
        closed = server.address
        server.socket.close()
        refused, error = server.client()
        tool.end()

        assert [0, errno.EADDRNOTAVAIL, errno.ECONNREFUSED] == [*errors, error]
        rows = [row._replace(sport=0) if row.dport == 9 else row for row in shown(tool)]
        port = first.getsockname()[1]
        assert [port, port] == [row.sport for row in rows[:2]]
        assert [0, -errno.EADDRNOTAVAIL, -errno.ECONNREFUSED] == [row.ret for row in rows]
        assert {(V4, closed[1])} == {(row.daddr, row.dport) for row in rows}
        theirs = [row for row in tool.json if row["pid"] == other.pid]
        assert [f"{errno.ENETUNREACH}"] * 2 == told.split()
        assert [(-errno.ENETUNREACH, 4, V4, 9)] * 2 == [
            (row["ret"], row["ip"], row["daddr"], row["dport"]) for row in theirs
        ]
        assert refused


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["-P", "{0}"], [0]),
        (["-P", "{0},{2}"], [0, 2]),
        (["-P", "{0}", "-P", "{1}-{1}"], [0, 1]),
        (["-4"], [0, 1]),
        (["-6"], [2]),
        (["--to", "127.0.0.0/8"], [0, 1]),
        (["--to", "127.0.0.1"], [0]),
        (["--to", "::/0"], [2]),
        (["--to", "127.0.0.2/31", "--to", "::1/128"], [1, 2]),
        (["--to", "10.0.0.0/8"], []),
        (["--to", "127.0.0.0/8", "-P", "{1}"], [1]),
    ],
)
def test_filters(trace: Any, options: list[str], wanted: list[int]) -> None:
    """Ports, networks and IP versions choose the connections that ipaddress would choose."""
    servers = [Server(host) for host in (V4, "127.0.0.3", V6)]
    ports = [server.address[1] for server in servers]
    chosen = [option.format(*ports) for option in options]
    tool = trace("tcpconnect", "--pid", str(os.getpid()), "--json", *chosen)
    for server in servers * 3:
        server.client()
    tool.end()

    assert [ports[number] for number in wanted * 3] == [row.dport for row in shown(tool)]


def test_filters_together(trace: Any) -> None:
    """What shows has passed each of several filters, on every kernel."""
    servers = [Server(host) for host in (V4, "127.0.0.3", "127.0.0.2", V6)]
    ports = [server.address[1] for server in servers]
    chosen = ["-4", "--to", "127.0.0.2/31", "--to", "::/0", "-P", f"{ports[0]}-{ports[0]}"]
    chosen += ["-P", f"{ports[1]},{ports[3]}"]
    tool = trace("tcpconnect", "--pid", str(os.getpid()), "--json", *chosen)
    for server in servers:
        server.client()
    tool.end()

    assert [ports[1]] == [row.dport for row in shown(tool)]


def test_filter_by_process(trace: Any) -> None:
    """-p with a number shows that process alone, and without one local ports."""
    server = Server()
    code = f"import socket; socket.create_connection(('{V4}', {server.address[1]}))"
    tools = [trace("tcpconnect", "-p", str(os.getpid()), "-P", f"{server.address[1]}"),
             trace("tcpconnect", "-p", "-P", f"{server.address[1]}")]  # fmt: skip
    client, _ = server.client()
    subprocess.run([sys.executable, "-c", code], check=True)
    for tool in tools:
        tool.end()

    assert [str(os.getpid())] == [row[0] for row in tools[0].rows]
    assert 2 == len(tools[1].rows)
    assert "LPORT" not in tools[0].out
    where = tools[1].out.split().index("LPORT")
    assert str(client.getsockname()[1]) == tools[1].rows[0][where]


def test_usual_rows_fit_a_terminal(trace: Any) -> None:
    """A connect that is refused at once has a row of no more than 80 characters."""
    closed = Server()
    closed.socket.close()
    tool = trace("tcpconnect", "--pid", str(os.getpid()))
    assert errno.ECONNREFUSED == closed.client()[1]
    tool.end()

    header, row = tool.out.splitlines()
    assert "PID COMM SADDR DADDR DPORT MS ERR" == " ".join(header.split())
    assert row.endswith(" ECONNREFUSED")
    took = row.split()[-2]
    assert len(row) - max(0, len(took) - len("0.123")) <= 80


def test_columns_stay_aligned(trace: Any) -> None:
    """Below a long address the columns stand below each other."""
    servers = [Server(V6), Server()]
    tool = trace("tcpconnect", "--pid", str(os.getpid()), "--columns", "daddr,dport", "--no-header")
    Server().client("::ffff:127.0.0.1")
    for server in servers:
        server.client()
    tool.end()
    assert [16, 16, 16] == [line.rindex(line.split()[1]) for line in tool.out.splitlines()]


def test_stacks(mine: Any) -> None:
    """The frames are those of the call, also where it ends later; what has no room says so."""
    server = Server(backlog=0)
    filling = server.full()
    tool = mine("--stack", "--stack-storage-size", "1")
    clients = [server.client(blocking=False) for _ in range(2)]
    closed = Server()
    closed.socket.close()
    clients.append(closed.client())
    tool.end()

    frames = {row["dport"]: row["stack"] for row in tool.json}
    rows = tool.json
    assert -errno.ECONNREFUSED == rows[0]["ret"]
    assert [0, 0, 1] == sorted(any("connect" in frame for frame in row["stack"]) for row in rows)
    assert len(frames) == 2
    assert filling


def test_storm(trace: Any, tmp_path: Path) -> None:
    """Of thousands of short connections none is lost and none is invented."""
    server = Server()
    output = str(tmp_path / "rows")
    tool = trace("tcpconnect", "--pid", str(os.getpid()), "--json", "-o", output)
    for _ in range(STORM):
        client, _ = server.client()
        # Ends by a reset, which leaves the port free.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        server.socket.accept()[0].close()
    tool.end()

    tool.out = Path(output).read_text()
    assert (STORM, 0) == tool.counted
    assert {(0, server.address[1])} == {(row["ret"], row["dport"]) for row in tool.json}
    assert STORM == len(tool.json)


def test_library(trace: Any) -> None:
    """As a library, addresses are texts, and what goes on at the end comes last."""
    import tracewheel

    server, other = Server(backlog=0), Server(V6)
    filling = server.full()
    with tracewheel.tcpconnect.trace(pid=os.getpid(), duration=1) as events:
        pending, _ = server.client(blocking=False)
        client, _ = other.client()
        found = list(events)

    assert [V6, V4] == [event.daddr for event in found]
    assert client.getsockname()[1] == found[0].sport
    assert [0, -errno.EINPROGRESS] == [event.ret for event in found]
    assert filling
    assert pending


def test_counts(mine: Any) -> None:
    """With -c each pair of addresses and port has its sums, and what goes on is told."""
    servers, closed = [Server(), Server(V6)], Server()
    closed.socket.close()
    full = Server(backlog=0)
    filling = full.full()
    tool = mine("-c")
    for number in range(PRIME):
        servers[number % 2].client()
        closed.client()
    pending = full.client(blocking=False)
    tool.end()

    half = PRIME // 2
    expected = {
        (V4, V4, servers[0].address[1], half + 1, 0),
        (V6, V6, servers[1].address[1], half, 0),
        (V4, V4, closed.address[1], PRIME, PRIME),
    }
    names = ("laddr", "raddr", "rport", "connects", "failed")
    assert expected == {tuple(row[name] for name in names) for row in tool.json}
    assert (2 * PRIME, 1) == tool.counted
    assert {"unfinished": 1} == tool.losses
    assert filling
    assert pending

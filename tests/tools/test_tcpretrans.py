# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel sends again shows once, with its connection, its process and its reason.

A socket that ignores packets is made by a filter: see tests/events.py.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.trace.btf import tracepoint_args

from tests.arrays import load_module
from tests.events import TCPI_TOTAL_RETRANS, heed, ignore, tcp_info, wait_until
from tests.tools.conftest import by_io_uring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PRIME = 23
ME = str(os.getpid())
V4, V6 = "127.0.0.1", "::1"
SEGMENTS = 7  # fit into the first window, so that no probe sends what was not sent
OPENED_LATE = 5
LADDERS = ("owner", "accepted", "retransmit", "synack")
TCPI_RETRANSMITS, TCPI_UNACKED = 2, 24
# Drops a segment whose data begin with an x; the header's length is in its byte 12.
IGNORE_X = (
    (0x30, 0, 0, 12), (0x74, 0, 0, 4), (0x64, 0, 0, 2), (0x07, 0, 0, 0), (0x50, 0, 0, 0),
    (0x15, 1, 0, ord("x")), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_memory_of_others() -> None:
    """Have the kernel forget how slow connections to an address were: it would wait as long."""
    subprocess.run(["ip", "tcp_metrics", "flush"], check=True)


class Connection:
    """A connection of this process to itself, on loopback."""

    def __init__(self, host: str = V4, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as server:
            self.client = socket.create_connection(server.getsockname()[:2])
            self.peer, _ = server.accept()
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def ends(self) -> tuple[str, int, str, int]:
        """The addresses and ports, as a row of what the client sends has them."""
        return (*self.client.getsockname()[:2], *self.client.getpeername()[:2])

    @property
    def retransmits(self) -> int:
        """How many segments the client has sent again, as the kernel tells it."""
        return tcp_info(self.client, TCPI_TOTAL_RETRANS)

    @property
    def timeouts(self) -> int:
        """How many timeouts there were since the last answer."""
        return self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[TCPI_RETRANSMITS]

    def send(self, *segments: bytes) -> None:
        """Send some segments."""
        for segment in segments:
            self.client.send(segment)

    def is_whole(self) -> bool:
        """Tell whether all has arrived."""
        return not tcp_info(self.client, TCPI_UNACKED)

    def recover(self) -> None:
        """Listen again, and wait until all has arrived."""
        heed(self.peer)
        wait_until(self.is_whole)


def ends_of(row: dict[str, Any]) -> tuple[str, int, str, int]:
    """Return the addresses and ports of a row."""
    return row["laddr"], row["lport"], row["raddr"], row["rport"]


def send_twice(*connections: Connection, times: int = 1) -> None:
    """Have the kernel send again, on each connection and at least so often; then let all arrive."""
    for connection in connections:
        ignore(connection.peer)
        connection.send(b"first", b"second")
    wait_until(lambda: all(each.retransmits >= times for each in connections))
    for connection in connections:
        heed(connection.peer)
    wait_until(lambda: all(each.is_whole() for each in connections))


def every_way(rungs_of: Any) -> list[list[str]]:
    """Return options that force the rungs of all ladders: of each the first, the second, ..."""
    found = [rungs_of("tcpretrans", ladder) for ladder in LADDERS]
    most = max(map(len, found))
    whole = [[*rungs, *[rungs[-1]] * (most - len(rungs))] for rungs in found]
    return [
        [word for ladder, rung in zip(LADDERS, way) for word in ("--rung", f"{ladder}={rung}")]
        for way in zip(*whole)
    ]


# For each line on stdin it accepts a connection and sends, until that was sent again and has
# arrived; then it tells its pid. With "fork" a child does so, which takes a byte first.
SERVER = f"""
import os, socket, sys, time
def info(offset):
    return int.from_bytes(peer.getsockopt(6, socket.TCP_INFO, 232)[offset:][:4], sys.byteorder)
server = socket.create_server(("{V4}", 0))
print(server.getsockname()[1], flush=True)
for line in sys.stdin:
    peer, _ = server.accept()
    if line == "fork\\n" and os.fork():
        peer.close()
        os.wait()
        continue
    if line == "fork\\n":
        peer.recv(1)
    peer.setsockopt(6, socket.TCP_NODELAY, 1)
    for _ in range(2):
        peer.send(b"x")
    while not info({TCPI_TOTAL_RETRANS}):
        time.sleep(0.002)
    print(os.getpid(), flush=True)
    while info({TCPI_UNACKED}):
        time.sleep(0.002)
    if line == "fork\\n":
        os._exit(0)
"""


class Server:
    """Another process, that accepts connections."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.port = int(self.answer())

    def answer(self) -> str:
        """Return the next line that it writes."""
        assert self.process.stdout
        return self.process.stdout.readline()

    def send_twice(self, order: str) -> tuple[int, int]:
        """Have it send again; return the pid of the sender, and the port of the other end."""
        with socket.create_connection((V4, self.port)) as client:
            assert self.process.stdin
            if order == "fork":
                client.send(b"x")
            ignore(client)
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
            pid = int(self.answer())
            heed(client)
            return pid, client.getsockname()[1]


@pytest.fixture
def server() -> Iterator[Server]:
    """Give another process that accepts connections."""
    server = Server()
    yield server
    server.process.communicate()


def test_each_way_shows_each_retransmit(trace: Any, rungs_of: Any, server: Server) -> None:
    """Each retransmit shows once, with what TCP_INFO tells, and as that of the right process.

    The socket was there before the tracing began, was connected, or was accepted meanwhile. Of what
    another process has accepted and left to its child, which reads, the child is the owner.
    """
    before = Connection()
    tools = [trace("tcpretrans", "--json", *way) for way in every_way(rungs_of)]
    assert len(tools) > 1
    connections = [before, *(Connection((V4, V6)[n % 2]) for n in range(PRIME))]
    send_twice(*connections, times=2)
    served = [server.send_twice(order) for order in ("accept", "fork")]
    expected = {each.ends: each.retransmits for each in connections}
    for tool in tools:
        tool.end()

        mine = [row for row in tool.json if ends_of(row) in expected]
        found: collections.Counter[Any] = collections.Counter()
        for row in mine:
            found[ends_of(row)] += row["segments"]
        assert expected == tool.completed(dict(found), expected)
        assert {(os.getpid(), os.getuid(), "ESTABLISHED", 0)} == {
            (row["pid"], row["uid"], row["state"], row["ret"]) for row in mine
        }
        assert {4: V4, 6: V6} == {row["ip"]: row["raddr"] for row in mine}
        theirs = {(row["pid"], row["rport"]) for row in tool.json if row["lport"] == server.port}
        assert {*served} == theirs
        assert {} == tool.losses
    assert served[0][0] == server.process.pid != served[1][0]


def test_reasons(trace: Any) -> None:
    """A tail loss probe, a timeout and what the other end reports as missing are told apart."""
    tool = trace("tcpretrans", "-p", ME, "--json", "--stack")
    probed, missed = Connection(), Connection()
    send_twice(probed, times=2)
    ignore(missed.peer, IGNORE_X)
    missed.send(b"xxx", *[b"seen" for _ in range(PRIME)])
    wait_until(lambda: missed.retransmits)
    missed.recover()
    tool.end()

    rows = {each: [row for row in tool.json if row["lport"] == each.ends[1]]
            for each in (probed, missed)}  # fmt: skip
    probe, timeout, *_ = rows[probed]
    assert ("LOSS", "Open", len(b"second")) == tuple(
        probe[name] for name in ("type", "ca_state", "bytes")
    )
    assert ("RETRANS", "Loss") == (timeout["type"], timeout["ca_state"])
    assert len(b"second") == probe["seq"] + probe["bytes"] - timeout["seq"] - len(b"first")
    fast = rows[missed][0]
    assert ("RETRANS", "Recovery", len(b"xxx")) == tuple(
        fast[name] for name in ("type", "ca_state", "bytes")
    )
    # Who is interrupted does not matter, so no stack of a program is shown.
    assert all(any("tcp_" in frame for frame in row["stack"]) for row in tool.json)
    assert not any("user_stack" in row for row in tool.json)
    timers = [any("timer" in frame for frame in row["stack"]) for row in (probe, timeout, fast)]
    assert [True, True, False] == timers


def test_congestion(trace: Any) -> None:
    """The state of congestion control is what TCP_INFO tells; what there is none of is null."""
    tool = trace("tcpretrans", "-p", ME, "--json")
    connection = Connection()
    ignore(connection.peer)
    connection.send(b"first", b"second")
    offsets = {"rto": 8, "unacked": 24, "rtt": 68, "cwnd": 80}
    expected = {name: tcp_info(connection.client, offset) for name, offset in offsets.items()}
    wait_until(lambda: connection.retransmits)
    connection.recover()
    tool.end()

    row = tool.json[0]
    expected.update(rto=expected["rto"] * 1000, rtt=expected["rtt"] * 1000)
    assert {**expected, "ssthresh": None} == {name: row[name] for name in (*expected, "ssthresh")}


def test_openings(trace: Any, rungs_of: Any) -> None:
    """A SYN that has no answer shows, and a SYN-ACK that has none, as that of the listener's."""
    tools = [trace("tcpretrans", "-p", ME, "--json", *way) for way in every_way(rungs_of)]
    servers = [socket.create_server((V4, 0)) for _ in range(2)]
    clients = [socket.socket() for _ in range(2)]
    ignore(servers[0])
    ignore(clients[1])
    for client, server in zip(clients, servers):
        client.setblocking(False)
        assert errno.EINPROGRESS == client.connect_ex(server.getsockname())
    wait_until(lambda: all(tcp_info(client, TCPI_TOTAL_RETRANS) for client in clients))
    ends = [(*each.getsockname(), *to.getsockname()) for each, to in zip(clients, servers)]
    heed(servers[0])
    heed(clients[1])
    for server in servers:
        server.accept()
    for tool in tools:
        tool.end()

        unanswered, answered = ends
        backwards = (*answered[2:], *answered[:2])
        rows = [row for row in tool.json if ends_of(row) in (*ends, backwards)]
        assert {(ends_of(row), row["type"], row["state"]) for row in rows} == {
            (unanswered, "RETRANS", "SYN_SENT"),
            (answered, "RETRANS", "SYN_SENT"),
            (backwards, "SYNACK", "SYN_RECV"),
        }
        synacks = [row for row in rows if row["type"] == "SYNACK"]
        assert {(os.getpid(), None, None)} == {(r["pid"], r["cwnd"], r["rto"]) for r in synacks}
        assert 1_000_000_000 == next(row["rto"] for row in rows if row["type"] == "RETRANS")


def test_owner_that_has_closed(trace: Any) -> None:
    """After close() the kernel goes on sending for the process that had the socket."""
    tool = trace("tcpretrans", "-p", ME, "--json")
    connection = Connection()
    ends = connection.ends
    ignore(connection.peer)
    connection.client.close()
    tool.line()
    heed(connection.peer)
    tool.end()

    rows = [row for row in tool.json if row["state"] != "ESTABLISHED"]
    assert {(ends, os.getpid(), "FIN_WAIT1")} == {(ends_of(r), r["pid"], r["state"]) for r in rows}


def test_owner_that_only_closes(trace: Any, rungs_of: Any) -> None:
    """Who closes a socket is its owner if no program has seen who has accepted it."""
    host = "127.0.23.3"
    rungs = [rung for rung in rungs_of("tcpretrans", "accepted") if rung != "fentry"]
    tools = [
        trace("tcpretrans", "-p", ME, "-i", host, "--json", "--rung", f"accepted={rung}")
        for rung in rungs
    ]
    with socket.create_server((host, 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        ignore(client)
        accept = 13
        os.close(by_io_uring(accept, server.fileno(), 0, 0))
        ends = (*client.getpeername(), *client.getsockname())
        for tool in tools:
            tool.line()
        heed(client)
        for tool in tools:
            tool.end()

    for tool in tools:
        assert {(ends, os.getpid(), "FIN_WAIT1")} == {
            (ends_of(row), row["pid"], row["state"]) for row in tool.json
        }
        assert {} == tool.losses


def test_owner_that_is_not_known(trace: Any) -> None:
    """Without room for owners none is invented, and what a filter may have missed is counted."""
    host = "127.0.23.1"
    few = ("tcpretrans", "--json", "--max-entries", "1", "--ip", host)
    every, filtered = tools = [trace(*few, *more) for more in ([], ["-p", ME])]
    connections = [Connection(host) for _ in range(PRIME)]
    send_twice(*connections)
    for tool in tools:
        tool.end()

    assert sum(each.retransmits for each in connections) == len(every.json)
    unknown = [row for row in every.json if row["pid"] is None]
    assert len({ends_of(row) for row in unknown}) >= PRIME - 1
    assert {"-"} == {row["comm"] for row in unknown}
    assert {} == every.losses
    assert {os.getpid()} >= {row["pid"] for row in filtered.json}
    # Not by its losses: before v6.11 these leave out what is unowned, for tcpdrop's sake.
    assert len(every.json) - len(filtered.json) == filtered.summary["losses"]["unowned"]


def test_cgroup_of_the_owner(trace: Any, cgroups: Any, server: Server) -> None:
    """--cgroup chooses by the process that has accepted, and its container shows."""
    inside = cgroups(f"test.slice/docker-{'5' * 64}.scope")
    (inside / "cgroup.procs").write_text(str(server.process.pid))
    tool = trace("tcpretrans", "--cgroup", str(inside), "--per-container", "--json")
    pid, port = server.send_twice("accept")
    send_twice(Connection())
    tool.end()

    expected = (pid, port, inside.stat().st_ino, "5" * 12)
    names = ("pid", "rport", "cgroup", "container")
    assert {expected} == {tuple(row[name] for name in names) for row in tool.json}


def test_filters(trace: Any) -> None:
    """Addresses and ports of either end, and versions of IP, choose connections."""
    hosts = (V4, "127.0.23.2", V6)
    servers = [socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else
                                    socket.AF_INET) for host in hosts]  # fmt: skip
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    wanted: dict[tuple[str, ...], set[int]] = {
        ("-i", "127.0.23.2"): {1},
        ("--ip", "127.0.23.0/24", "-i", "::1"): {1, 2},
        ("-P", f"{ports[0]}"): {0},
        ("-P", f"{ports[1]},{ports[2]}", "-4"): {1},
        ("-6",): {2},
    }
    tools = [trace("tcpretrans", "-p", ME, "--json", *options) for options in wanted]
    connections = [Connection(host, port) for host, port in zip(hosts, ports)]
    send_twice(*connections)
    for tool, numbers in zip(tools, wanted.values()):
        tool.end()

        assert {connections[number].ends for number in numbers} == {*map(ends_of, tool.json)}


def test_counts(trace: Any) -> None:
    """With -c each connection has its sum."""
    tool = trace("tcpretrans", "-c", "-p", ME, "--json")
    connections = [Connection((V4, V6)[number % 2]) for number in range(PRIME)]
    send_twice(*connections)
    expected = {each.ends: each.retransmits for each in connections}
    tool.end()

    found = {ends_of(row): row["retransmits"] for row in tool.json}
    assert expected == tool.completed(found, expected)
    assert {(0, 0)} == {(row["failed"], row["probes"]) for row in tool.json}
    assert sum(found.values()) == tool.counted[0]


def test_table(trace: Any) -> None:
    """The table has the columns that peers have; -s, -S and -C add others."""
    tools = [trace("tcpretrans", "-p", ME, *more) for more in ([], ["-s"], ["-S", "-C"])]
    connection = Connection()
    send_twice(connection)
    for tool in tools:
        tool.end()

    usual = "TIME PID LADDR LPORT T RADDR RPORT STATE ERR"
    more = ("", " CA RTO(ms) RTT(ms) CWND SSTHRESH UNACKED", " SEQ BYTES SEGMENTS")
    headers = [f"{usual}{each}" for each in more]
    headers[2] = headers[2].replace("PID", "PID COMM")
    assert headers == [" ".join(tool.out.splitlines()[0].split()) for tool in tools]
    laddr, lport, raddr, rport = map(str, connection.ends)
    assert [ME, laddr, lport, "L", raddr, rport, "ESTABLISHED", "0"] == tools[0].rows[0][1:]


LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1


def set_loopback(address: str) -> None:
    """Bring the loopback of this network namespace up, with one address of IPv4."""
    flags = struct.pack("16sH22x", b"lo", IFF_UP)
    replaced = struct.pack("16sHxx4s16x", b"lo", socket.AF_INET, socket.inet_aton(address))
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, flags)
        fcntl.ioctl(any_socket, SIOCSIFADDR, replaced)


def counters() -> dict[str, int]:
    """Return what the kernel has counted in this network namespace."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/self/net/{name}").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            found.update(zip(names.split()[1:], map(int, values.split()[1:])))
    return found


def lose_without_route(connection: Connection) -> None:
    """Have retransmits fail, because there is no route any more."""
    ignore(connection.peer)
    connection.send(b"lost")
    set_loopback("10.0.23.1")
    before = connection.timeouts
    wait_until(lambda: connection.timeouts > before + 1)
    set_loopback(V4)
    connection.recover()


def traced_apart(trace: Any, act: Callable[[], object]) -> tuple[Run, Run, dict[str, int]]:
    """Act in a network namespace; return runs with rows and with sums, and the kernel's counts.

    What ``act`` returns is kept until the tracing has ended.
    """
    order, answer = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            assert not LIBC.unshare(CLONE_NEWNET), ctypes.get_errno()
            set_loopback(V4)
            answer.send(b"x")
            answer.recv(1)
            kept = act()
            answer.send(json.dumps(counters()).encode())
            answer.recv(1)
            del kept
        finally:
            os._exit(0)
    answer.close()
    order.recv(1)
    rows, sums = (trace("tcpretrans", "-p", str(pid), "--json", *more) for more in ([], ["-c"]))
    order.send(b"x")
    counted = json.loads(order.recv(65536))
    for tool in (rows, sums):
        tool.end()
    order.send(b"x")
    os.waitpid(pid, 0)
    return rows, sums, counted


def test_kernels_own_counts(trace: Any) -> None:
    """In a network namespace the rows are as many as the kernel has counted there.

    A kernel that tells of retransmits that failed has these shown as well, with their error.
    """

    def act() -> None:
        send_twice(*(Connection((V4, V6)[number % 2]) for number in range(PRIME)), times=2)
        lose_without_route(Connection())

    by_row, by_sum, counted = traced_apart(trace, act)

    rows, sums = by_row.json, by_sum.json
    sent = [row for row in rows if not row["ret"]]
    failed = [row for row in rows if row["ret"]]
    assert counted["RetransSegs"] == sum(row["segments"] for row in sent)
    assert counted["TCPLossProbes"] == len([row for row in sent if row["type"] == "LOSS"])
    assert len(sent) == sum(row["retransmits"] for row in sums)
    assert len(failed) == sum(row["failed"] for row in sums)
    tells_failures = tracepoint_args("tcp_retransmit_skb") > 2
    assert {row["ret"] for row in failed} == ({-errno.EHOSTUNREACH} if tells_failures else set())


def send_with_losses() -> list[object]:
    """Let the network lose packets while connections are opened and used; return these."""
    opened = [Connection() for _ in range(PRIME)]
    loss = ("netem", "loss", "10%")
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", *loss], check=True)
    with socket.create_server((V4, 0)) as server:
        late = [socket.socket() for _ in range(OPENED_LATE)]
        for client in late:
            client.setblocking(False)
            assert errno.EINPROGRESS == client.connect_ex(server.getsockname())
        for _ in range(SEGMENTS):
            for connection in opened:
                connection.send(b"data")
        # All are established at both ends: a server retransmits until it has the last answer.
        accepted = [server.accept()[0] for _ in late]
    wait_until(lambda: all(connection.is_whole() for connection in opened))
    return [opened, late, accepted]  # what they send when they are closed may be lost as well


def test_network_that_loses(trace: Any) -> None:
    """Where a network loses packets, the rows are as many as the kernel has counted, by kinds."""
    load_module("sch_netem")
    by_row, by_sum, counted = traced_apart(trace, send_with_losses)

    rows = by_row.json
    found = {
        "RetransSegs": sum(row["segments"] for row in rows),
        "TCPSynRetrans": len([r for r in rows if r["state"] in ("SYN_SENT", "SYN_RECV")]),
        "TCPLossProbes": len([row for row in rows if row["type"] == "LOSS"]),
    }
    expected = {name: counted[name] for name in found}
    assert expected["RetransSegs"] > 0
    assert expected == by_row.completed(found, expected)
    assert ({}, {}) == (by_row.losses, by_sum.losses)
    summed_up = sum(row["retransmits"] for row in by_sum.json)
    assert 0 <= len(rows) - summed_up <= by_sum.summary["lost"]


def test_probes_of_new_data(trace: Any, rungs_of: Any, run: Any) -> None:
    """With -l a tail loss probe shows that sends what was not sent before.

    Where no function can be traced, one line says so.
    """
    rungs = rungs_of("tcpretrans", "loss_probe", "-l")
    if not rungs:
        assert not Path("/sys/kernel/tracing/kprobe_events").exists()
        with run("tcpretrans", "-l") as tool:
            tool.ended()
        assert (4, 1) == (tool.code, tool.err.count("\n"))
        assert "cannot trace what -l asks for" in tool.err
        return
    tools = [
        trace("tcpretrans", "-l", "-p", ME, "--json", "--rung", f"loss_probe={rung}")
        for rung in rungs
    ]
    sums = trace("tcpretrans", "-l", "-p", ME, "--json", "-c")
    connections = [Connection() for _ in range(PRIME)]
    for connection in connections:
        ignore(connection.peer)
        connection.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        connection.send(b"first", b"held back")
    wait_until(lambda: all(each.retransmits for each in connections))
    for connection in connections:
        heed(connection.peer)
    wait_until(lambda: all(each.is_whole() for each in connections))
    for tool in (*tools, sums):
        tool.end()

    expected = {each.ends for each in connections}
    assert expected == {ends_of(row) for row in sums.json if row["probes"] == 1}
    for rows in tools:
        probes = [row for row in rows.json if row["type"] == "PROBE"]
        assert (PRIME, expected) == (len(probes), {*map(ends_of, probes)})
        assert {(len(b"held back"), os.getpid())} == {(row["bytes"], row["pid"]) for row in probes}

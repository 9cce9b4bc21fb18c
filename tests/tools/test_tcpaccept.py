# SPDX-License-Identifier: BSD-2-Clause
"""Connections accepted here show once each, with their ends and the time that they waited."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel._shim import lib

from tests.tools.conftest import by_io_uring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ME = str(os.getpid())
PRIME = 23
RACES = 211
STORM = 2003
BACKLOG = 7
MPTCP = 262
V4, V6, ANY = "127.0.0.1", "::1", "::"
CLOCK_US = 1000  # the kernel's time of the begin of a wait is in microseconds
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close by a reset
libc = ctypes.CDLL(None, use_errno=True)


class Seen(NamedTuple):
    """What a row tells that does not depend on time."""

    tid: int
    ip: int
    raddr: str
    rport: int
    laddr: str
    lport: int
    backlog: int | None
    backlog_max: int | None


class Waiting(NamedTuple):
    """A connection that nobody has accepted, and the time before and after it was made."""

    client: socket.socket
    begin: int
    queued: int


class Server:
    """A socket that listens; ANY takes IPv4 as well. It notes what rows should tell."""

    def __init__(self, host: str = V4, protocol: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM, protocol)
        self.socket.bind((host, 0))
        self.socket.listen(BACKLOG)
        self.port: int = self.socket.getsockname()[1]
        self.host = host
        self.waiting: collections.deque[Waiting] = collections.deque()
        self.kept: list[tuple[socket.socket, socket.socket]] = []
        self.accepted: list[Seen] = []
        self.bounds: list[tuple[int, int]] = []  # of the waits, in ns

    def queued(self) -> int:
        """Return how many connections wait for accept(), as the kernel counts them."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        queued: int = struct.unpack_from("I", info, 24)[0]  # tcpi_unacked
        return queued

    def connect(self, host: str = "", protocol: int = 0) -> None:
        """Connect, and return when the connection waits to be accepted."""
        begin = time.monotonic_ns()
        to = host or self.host
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM, protocol)
        client.connect((to, self.port))
        assert select.select([self.socket], [], [], 60)[0]
        self.waiting.append(Waiting(client, begin, time.monotonic_ns()))

    def connect_to(self, thread: threading.Thread) -> None:
        """Connect to a thread that is in accept(), and wait for its end."""
        client = socket.socket()
        self.waiting.append(Waiting(client, time.monotonic_ns(), sys.maxsize))
        client.connect((self.host, self.port))
        thread.join()

    def accept(self, call: Callable[[int], int] | None = None) -> None:
        """Accept the connection that waits longest, or the next."""
        begin = time.monotonic_ns()
        fd = call(self.socket.fileno()) if call else self.socket.accept()[0].detach()
        end = time.monotonic_ns()
        assert fd >= 0, os.strerror(ctypes.get_errno())
        client, made, queued = self.waiting.popleft()
        self.kept.append((socket.socket(fileno=fd), client))
        self.bounds.append((begin - queued, end - made + CLOCK_US))
        ends = [host.replace("::ffff:", "") for host in (client.getsockname()[0], self.host)]
        ends[1] = ends[0] if ends[1] == ANY else ends[1]
        ip = 6 if ":" in ends[0] else 4
        ports = client.getsockname()[1], self.port
        thread, left = threading.get_native_id(), len(self.waiting)
        self.accepted.append(Seen(thread, ip, ends[0], ports[0], ends[1], ports[1], left, BACKLOG))


def shown(tool: Any) -> list[Seen]:
    """Return what the rows of this process tell."""
    rows = tool.json
    assert {(os.getpid(), os.getuid(), 0)} >= {(row["pid"], row["uid"], row["ret"]) for row in rows}
    return [Seen(*(row[name] for name in Seen._fields)) for row in rows]


def misses(waits: list[int], bounds: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the waits that were shorter or longer than they can have been."""
    return [
        (low, wait, high) for wait, (low, high) in zip(waits, bounds) if not low <= wait <= high
    ]


def plain_accept(fd: int) -> int:
    """Call accept(2); Python calls accept4(2)."""
    accepted: int = libc.accept(fd, None, None)
    return accepted


def is_in_accept(thread: threading.Thread) -> bool:
    """Tell whether a thread waits for a connection."""
    stack = Path(f"/proc/self/task/{thread.native_id}/stack").read_text()
    return "inet_csk_accept" in stack


def test_each_rung_shows_every_accept(
    trace: Any, rungs_of: Any, until: Any, tmp_path: Path
) -> None:
    """Every way of tracing gives the same rows, also for what began before the tracing."""
    rungs = rungs_of("tcpaccept", "accept")
    assert len(rungs) >= 2
    blocked, closed, early = Server(), Server(), Server()
    # They are in accept() already when the tracing begins; later another thread connects to them.
    threads = [
        threading.Thread(target=blocked.accept),
        threading.Thread(target=closed.accept, args=[plain_accept]),
    ]
    for thread in threads:
        thread.start()
        until(lambda thread=thread: is_in_accept(thread))
    early.connect()
    tools = [trace("tcpaccept", "-p", ME, "--json", "--rung", f"accept={rung}") for rung in rungs]
    blocked.connect_to(threads[0])
    os.close(closed.socket.detach())  # the socket stays until accept() returns
    closed.connect_to(threads[1])
    closed.accepted = [closed.accepted[0]._replace(backlog=None, backlog_max=None)]
    early.accept()

    servers = [Server(V4), Server(V6), Server(ANY)]
    hosts = [V4, V6, V4]
    order = [blocked, closed, early]
    for number in range(PRIME):
        server = servers[number % 3]
        server.connect(hosts[number % 3])
        server.accept(plain_accept if number % 2 else None)
        order.append(server)
    accept_locally(tmp_path / "socket")  # is not of TCP
    several = Server()
    for number in range(1, BACKLOG + 1):
        several.connect()
        until(lambda number=number: several.queued() == number)
    for _ in range(BACKLOG):
        several.accept()
        order.append(several)
    for tool in tools:
        tool.end()

    assert [*reversed(range(BACKLOG))] == [seen.backlog for seen in several.accepted]
    at: collections.Counter[Server] = collections.Counter()
    expected, bounds = [], []
    for server in order:
        expected.append(server.accepted[at[server]])
        bounds.append(server.bounds[at[server]])
        at[server] += 1
    for tool in tools:
        assert expected == shown(tool)
        assert [] == misses([row["wait"] for row in tool.json], bounds)
        assert (len(expected), 0) == tool.counted


def accept_locally(path: Path) -> None:
    """Accept a connection that stays in this machine, and is not of TCP."""
    with socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_UNIX) as client:
        local.bind(str(path))
        local.listen()
        client.connect(str(path))
        local.accept()


@contextlib.contextmanager
def closing_early(fd: int) -> Iterator[None]:
    """Have another thread close a descriptor again and again, until accept() has returned it."""
    returned = threading.Event()

    def close() -> None:
        while not returned.is_set():
            libc.close(fd)

    thread = threading.Thread(target=close)
    thread.start()
    try:
        yield
    finally:
        returned.set()
        thread.join()


def test_descriptors_that_another_thread_closes(trace: Any, rungs_of: Any) -> None:
    """An accept whose descriptor is closed at once shows, or is counted where that is too late.

    That its descriptor is another's when accept() returns makes no row of another connection.
    """
    server = socket.create_server((V4, 0))
    port = server.getsockname()[1]
    rungs = rungs_of("tcpaccept", "accept")
    tools = [
        trace("tcpaccept", "-P", f"{port}", "--json", "--rung", f"accept={rung}") for rung in rungs
    ]
    ports = []
    for _ in range(RACES):
        with socket.create_connection((V4, port)) as client:
            ports.append(client.getsockname()[1])
            next_fd = os.dup(0)
            os.close(next_fd)
            with closing_early(next_fd):
                assert next_fd == plain_accept(server.fileno())
    for tool in tools:
        tool.end()

    for rung, tool in zip(rungs, tools):
        shown_ports = [row["rport"] for row in tool.json]
        assert sorted({*shown_ports} & {*ports}) == sorted(shown_ports)
        closed = tool.losses.get("closed", 0)
        told = {"accepts": len(shown_ports) + closed}
        assert {"accepts": RACES} == tool.completed(told, {"accepts": RACES})
        assert "fexit" not in rung or not closed


def test_the_process_that_accepts(trace: Any, rungs_of: Any) -> None:
    """The row tells who accepts, with its stack, not who connects and is interrupted."""
    server = Server()
    options = ["-P", f"{server.port}", "--stack", "--json"]
    tools = [
        trace("tcpaccept", *options, "--rung", f"accept={rung}")
        for rung in rungs_of("tcpaccept", "accept")
    ]
    code = f"import socket; s = socket.create_connection(('{V4}', {server.port}))"
    code += "; print(s.getsockname()[1])"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    # Whoever has connected is gone, and the connection with it.
    server.socket.accept()
    for tool in tools:
        tool.end()

    for tool in tools:
        assert [int(done.stdout)] == [seen.rport for seen in shown(tool)]
        [row] = tool.json
        assert any("accept" in frame for frame in row["user_stack"])
        assert row["stack"]


@contextlib.contextmanager
def no_more_descriptors() -> Any:
    """Let this process have as many descriptors as it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_fd = os.dup(0)
    os.close(next_fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_fd, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def interrupt(number: int, frame: object) -> None:
    """End a system call that waits."""
    raise InterruptedError


def test_failures(trace: Any, rungs_of: Any) -> None:
    """-x shows what fails, with the queue of the socket, and not what is tried in vain."""
    server, idle, unbound = Server(), Server(), socket.socket()
    tools = [
        trace("tcpaccept", "-x", "-p", ME, "--json", "--rung", f"failed={rung}")
        for rung in rungs_of("tcpaccept", "failed", "-x")
    ]
    assert len(tools) >= 2
    server.connect()
    errors = []

    def fails(call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            errors.append(error.errno)

    with no_more_descriptors():
        fails(server.socket.accept)
    assert -1 == libc.accept(server.socket.fileno(), ctypes.c_void_p(8), ctypes.c_void_p(8))
    errors.append(ctypes.get_errno())
    fails(unbound.accept)
    server.connect()
    server.socket.accept()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(OSError, match="not supported"):
        udp.accept()
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(InterruptedError):
        idle.socket.accept()
    idle.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 60, 0))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(InterruptedError):
        libc.accept(idle.socket.fileno(), None, None)
    idle.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        idle.socket.accept()
    for tool in tools:
        tool.end()

    assert [errno.EMFILE, errno.EFAULT, errno.EINVAL] == errors
    expected = [
        (-errno.EMFILE, V4, server.port, 1, BACKLOG),
        (-errno.EFAULT, V4, server.port, 0, BACKLOG),
        (-errno.EINVAL, "0.0.0.0", 0, 0, 0),
    ]
    names = ("ret", "laddr", "lport", "backlog", "backlog_max")
    for tool in tools:
        assert expected == [tuple(row[name] for name in names) for row in tool.json]
        assert {("0.0.0.0", 0, None)} == {
            (row["raddr"], row["rport"], row["wait"]) for row in tool.json
        }


def test_multipath(trace: Any, rungs_of: Any) -> None:
    """A connection of MPTCP shows like one of TCP, and so does one of TCP to such a server."""
    if not Path("/proc/sys/net/mptcp").exists():
        pytest.skip("needs CONFIG_MPTCP")
    server = Server(protocol=MPTCP)
    rungs = rungs_of("tcpaccept", "accept")
    tools = [trace("tcpaccept", "-p", ME, "--json", "--rung", f"accept={rung}") for rung in rungs]
    for protocol in (MPTCP, socket.IPPROTO_TCP):
        server.connect(protocol=protocol)
        server.accept()
    for tool in tools:
        tool.end()

    assert [MPTCP, socket.IPPROTO_TCP] == [accepted.proto for accepted, _ in server.kept]
    for tool in tools:
        assert server.accepted == shown(tool)
        assert [] == misses([row["wait"] for row in tool.json], server.bounds)


def test_accepts_by_io_uring(trace: Any, rungs_of: Any) -> None:
    """By fexit, what io_uring accepts shows as well."""
    if os.geteuid() or lib.shim_refuses_trampolines():
        pytest.skip("needs fexit")
    assert "fexit" in rungs_of("tcpaccept", "accept")
    io_uring_accept = 13
    server = Server()
    tool = trace("tcpaccept", "-p", ME, "--json")
    for _ in range(3):
        server.connect()
    for _ in range(3):
        server.accept(lambda fd: by_io_uring(io_uring_accept, fd, 0, 0))
    tool.end()

    # On v5.10, a thread of the kernel's may have done it.
    expected = [seen._replace(tid=0) for seen in server.accepted]
    assert expected == [seen._replace(tid=0) for seen in shown(tool)]


def test_accepts_by_32_bit_calls(trace: Any, call_32: Any, rungs_of: Any) -> None:
    """The calls of 32-bit programs show like any other, also those by socketcall(2)."""
    accept4, socketcall = 364, 102
    socketcalls = {"getsockname": 6, "accept": 5, "accept4": 18}
    server = Server()
    fd = server.socket.fileno()
    tools = [
        trace("tcpaccept", "-P", f"{server.port}", "--json", "--rung", f"accept={rung}")
        for rung in rungs_of("tcpaccept", "accept")
    ]
    for _ in range(3):
        server.connect()
    # Where others have a path, socketcall(2) has the arguments of the call that it makes.
    arguments = os.fsdecode(struct.pack("IIII", fd, 0, 0, 0))
    by_socketcall = [(socketcall, number, "path") for number in socketcalls.values()]
    child = call_32(arguments, (accept4, fd), *by_socketcall)
    for tool in tools:
        tool.end()

    ports = [waiting.client.getsockname()[1] for waiting in server.waiting]
    expected = [(child, V4, port, left, BACKLOG) for port, left in zip(ports, (2, 1, 0))]
    names = ("pid", "raddr", "rport", "backlog", "backlog_max")
    for tool in tools:
        assert expected == [tuple(row[name] for name in names) for row in tool.json]


def test_filters(trace: Any) -> None:
    """Local ports, networks, IP versions and the time of the wait choose what is traced."""
    servers = [Server(), Server("127.0.0.3"), Server(V6)]
    ports = [server.port for server in servers]
    wait_ms = 100
    cases = [
        (["-P", f"{ports[0]},{ports[2]}"], [0, 2]),
        (["-4"], [0, 1]),
        (["-6"], [2]),
        (["--peer", "127.0.0.0/8", "-P", f"{ports[1]}"], [1]),
        (["--peer", "10.0.0.0/8", "--peer", "::1"], [2]),
        (["-m", f"{wait_ms}"], [1]),
    ]
    tools = [trace("tcpaccept", "-p", ME, "--json", *options) for options, _ in cases]
    servers[1].connect()
    late = time.monotonic() + wait_ms / 1000
    select.select([], [], [], wait_ms / 1000)
    assert time.monotonic() >= late
    for server in servers:
        if not server.waiting:
            server.connect()
        server.accept()
    for tool in tools:
        tool.end()

    # A machine that stands still makes others wait, too.
    waited = {server.port for server in servers if server.bounds[0][1] >= wait_ms * 1_000_000}
    for tool, (options, wanted) in zip(tools, cases):
        found = [seen.lport for seen in shown(tool)]
        expected = [ports[number] for number in wanted]
        assert expected == [p for p in found if p in expected or "-m" not in options]
        assert "-m" not in options or {*found} <= waited


def test_counts(trace: Any) -> None:
    """With -c each pair of addresses and local port has its sums."""
    servers = [Server(), Server(V6)]
    tool = trace("tcpaccept", "-c", "-p", ME, "--json")
    for number in range(PRIME):
        servers[number % 2].connect()
        servers[number % 2].accept()
    tool.end()

    expected = {(server.host, server.host, server.port): len(server.accepted) for server in servers}
    rows = {(row["raddr"], row["laddr"], row["lport"]): row for row in tool.json}
    assert expected == {key: row["accepts"] for key, row in rows.items()}
    for key, server in zip(expected, servers):
        low, high = map(sum, zip(*server.bounds))
        assert low <= rows[key]["waited"] <= high
    assert (PRIME, 0) == tool.counted


def test_table(trace: Any) -> None:
    """Each option shows its columns, and they stand below each other for long addresses, too."""
    servers = [Server(V6), Server()]
    tools = [
        trace("tcpaccept", "-p", ME, *options)
        for options in (["--backlog", "-U"], ["--columns", "laddr,lport", "--no-header"])
    ]
    for server in servers:
        server.connect()
        server.accept()
    for tool in tools:
        tool.end()

    header, *_ = tools[0].out.splitlines()
    assert "PID UID COMM IP RADDR RPORT LADDR LPORT WAIT(ms) BL BLMAX" == " ".join(header.split())
    assert [["0", f"{BACKLOG}"]] * 2 == [row[-2:] for row in tools[0].rows]
    assert [16, 16] == [line.rindex(line.split()[1]) for line in tools[1].out.splitlines()]


def test_storm(trace: Any, tmp_path: Path) -> None:
    """Of thousands of short connections none is lost and none is invented."""
    server = socket.create_server((V4, 0))
    output = tmp_path / "rows"
    tool = trace("tcpaccept", "-p", ME, "--json", "-o", str(output))
    ports = []
    for _ in range(STORM):
        client = socket.create_connection(server.getsockname())
        ports.append(client.getsockname()[1])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # leaves the port free
        client.close()
        server.accept()[0].close()
    tool.end()

    tool.out = output.read_text()
    assert (STORM, 0) == tool.counted
    own = server.getsockname()[1]
    assert [(port, own) for port in ports] == [(row["rport"], row["lport"]) for row in tool.json]


def test_library() -> None:
    """As a library, addresses are texts and waits are nanoseconds."""
    import tracewheel

    if os.geteuid():
        pytest.skip("needs root")
    server = Server(V6)
    with tracewheel.tcpaccept.trace(pid=os.getpid(), port=server.port, duration=1) as events:
        server.connect()
        server.accept()
        [event] = list(events)

    [expected], [(low, high)] = server.accepted, server.bounds
    assert expected == Seen(*(getattr(event, name) for name in Seen._fields))
    assert event.wait
    assert low <= event.wait <= high

# SPDX-License-Identifier: BSD-2-Clause
"""Hosts that are looked up here show with what the C library has returned.

A DNS server of the test's own answers by the name that is asked for.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE, SOURCE_32 = (Path(__file__).with_name(name) for name in ("lookups.c", "lookups32.c"))
THREADS = 7  # of lookups.c
ROOM = 3  # fewer than those
SLOW_S = 0.07
IPV4, IPV6 = "192.0.2.9", "2001:db8::9"
LONGEST = "x" * 1024
HOSTILE = "a\x1b[31m\n\\.test"
# What each program looks up, and what shows for it, except the result: lookups.c tells that.
CALLS = {
    "getaddrinfo:ok.test": ("getaddrinfo", "ok.test"),
    "getaddrinfo:missing.test": ("getaddrinfo", "missing.test"),
    "getaddrinfo:broken.test": ("getaddrinfo", "broken.test"),
    "getaddrinfo:slow.test": ("getaddrinfo", "slow.test"),
    "untouched:ok.test": ("getaddrinfo", "ok.test"),
    "service:80": ("getaddrinfo", None),
    "gethostbyname:ok.test": ("gethostbyname", "ok.test"),
    "gethostbyname:missing.test": ("gethostbyname", "missing.test"),
    "gethostbyname:broken.test": ("gethostbyname", "broken.test"),
    "gethostbyname2:ok.test": ("gethostbyname2", "ok.test"),
    "gethostbyname2:missing.test": ("gethostbyname2", "missing.test"),
    "gethostbyname_r:ok.test": ("gethostbyname_r", "ok.test"),
    "gethostbyname_r:missing.test": ("gethostbyname_r", "missing.test"),
    "gethostbyname2_r:ok.test": ("gethostbyname2_r", "ok.test"),
    "gethostbyname2_r:broken.test": ("gethostbyname2_r", "broken.test"),
    "little:ok.test": ("gethostbyname_r", "ok.test"),
    f"gethostbyaddr:{IPV4}": ("gethostbyaddr", IPV4),
    f"gethostbyaddr:{IPV6}": ("gethostbyaddr", IPV6),
    f"gethostbyaddr_r:{IPV4}": ("gethostbyaddr_r", IPV4),
    f"gethostbyaddr_r:{IPV6}": ("gethostbyaddr_r", IPV6),
}
LIBCS = ("glibc", "musl")
# musl asks again until it has another answer.
CALLS_OF = {
    "glibc": CALLS,
    "musl": {call: shown for call, shown in CALLS.items() if "broken" not in call},
}


class Server(threading.Thread):
    """A DNS server: some names exist, some do not, and it does something before it answers some."""

    ADDRESS, NAME = 1, 12  # types of records
    BROKEN, MISSING = 2, 3  # codes of errors

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}.1"
        self._socket.bind((self.address, 53))
        self._to_signal: dict[str, int] = {}  # processes, by what they look up
        self.asked: collections.Counter[str] = collections.Counter()

    def signal_at(self, name: str, pid: int) -> None:
        """Send a signal to a process when it looks up a name."""
        self._to_signal[name] = pid

    def run(self) -> None:
        """Answer until something empty comes."""
        question, whence = self._socket.recvfrom(4096)
        while question:
            self._consider(question, whence)
            question, whence = self._socket.recvfrom(4096)

    def _consider(self, question: bytes, whence: Any) -> None:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]])
            at += 1 + question[at]
        name = b".".join(labels).decode("latin-1")
        kind = int.from_bytes(question[at + 1 : at + 3], "big")
        answer = self._answer(question, question[12 : at + 5], name, kind)
        if not self.asked[name] and name in self._to_signal:
            os.kill(self._to_signal[name], signal.SIGUSR1)
        self.asked[name] += 1
        if name.startswith("slow"):
            threading.Timer(SLOW_S, self._socket.sendto, (answer, whence)).start()
        elif not name.startswith("silent"):
            self._socket.sendto(answer, whence)

    def _answer(self, question: bytes, asked: bytes, name: str, kind: int) -> bytes:
        code = self.BROKEN if "broken" in name else self.MISSING if "missing" in name else 0
        data = b""
        if not code and kind == self.ADDRESS:
            data = socket.inet_aton(IPV4)
        elif not code and kind == self.NAME:
            data = b"\x02ok\x04test\0"
        record = b""
        if data:
            record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1" + bytes(4)
            record += len(data).to_bytes(2, "big") + data
        header = question[:2] + bytes([0x81, 0x80 | code]) + b"\0\1" + bytes([0, bool(data)])
        return header + bytes(4) + asked + record

    def close(self) -> None:
        """End the thread."""
        self._socket.sendto(b"", self._socket.getsockname())
        self.join()
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a DNS server that answers."""
    if os.geteuid():
        pytest.skip("needs root")
    started = Server()
    started.start()
    yield started
    started.close()


class Client:
    """A process that has said that it is ready to look up hosts."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == "ready\n"

    @property
    def pid(self) -> int:
        """The process: the commands before it have become it by exec."""
        return self._process.pid

    def begin(self) -> None:
        """Have it look up."""
        self._in.write("\n")
        self._in.flush()

    def told(self) -> list[tuple[str, int]]:
        """Wait for its end; return the results that it tells, and how many ns they took."""
        shown, _ = self._process.communicate(timeout=120)
        found = [line.split() for line in shown.splitlines()]
        return [(result, int(took_ns)) for _, result, took_ns in found]

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the program that looks up hosts, built with glibc and with musl."""
    folder = tmp_path_factory.mktemp("lookups")
    built = {}
    for libc, compiler in (("glibc", "cc"), ("musl", "musl-gcc")):
        built[libc] = folder / libc
        subprocess.run([compiler, "-pthread", "-o", built[libc], SOURCE], check=True)
    return built


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Give a function that starts a program which asks the server; killed after the test."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text(f"nameserver {server.address}\noptions timeout:60 attempts:1\n")
    started: list[Client] = []

    def start(*command: str, script: str = "true") -> Client:
        bind = f"mount --bind {configuration} /etc/resolv.conf; {script}"
        words = ("unshare", "-m", "sh", "-ec", f'{bind}; exec "$@"', "sh", *command)
        started.append(Client([*words]))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def rows_of(tool: Any, client: Client) -> list[tuple[str, str | None, str]]:
    """Return what the tool has shown for a process: functions, hosts and results."""
    rows = [each for each in tool.json if each["pid"] == client.pid]
    return [(row["function"], row["host"], row["result"]) for row in rows]


@pytest.mark.parametrize("number", [0, 1])
def test_every_lookup(
    trace: Any,
    rungs_of: Any,
    client: Any,
    programs: dict[str, Path],
    until: Any,
    tmp_path: Path,
    number: int,
) -> None:
    """Each lookup by glibc and by musl shows once, also with libraries that appear later."""
    rungs = [
        f"{ladder}={(rungs_of('gethostlatency', ladder) * 2)[number]}"
        for ladder in ("lookup", "arrival", "gone")
    ]
    command = {libc: [str(program), *CALLS_OF[libc]] for libc, program in programs.items()}
    clients = [client(*command[libc]) for libc in LIBCS]
    forced = [word for rung in rungs for word in ("--rung", rung)]
    tool = trace("gethostlatency", "--json", *forced)
    clients += [client(*command[libc]) for libc in LIBCS]
    later = [client(*command[libc], script=with_another(libc, tmp_path)) for libc in LIBCS]
    for each in later:
        until(lambda each=each: probed(each.pid))
    clients += later
    for each in clients:
        each.begin()
    told = [each.told() for each in clients]
    tool.end()

    for each, results, libc in zip(clients, told, LIBCS * 3):
        assert expected(libc, results) == rows_of(tool, each)
        rows = [row for row in tool.json if row["pid"] == each.pid]
        assert all(row["duration"] <= took for row, (_, took) in zip(rows, results))
        slow = [row["duration"] for row in rows if row["host"] == "slow.test"]
        assert min(slow) >= SLOW_S * 1e9
        assert {(each.pid, 0)} == {(row["tid"], row["uid"]) for row in rows}
    assert {} == tool.losses


def expected(libc: str, results: list[tuple[str, int]]) -> list[tuple[str, str | None, str]]:
    """Return what is to be shown for results of CALLS_OF, which a program has told."""
    return [(*shown, result) for shown, (result, _) in zip(CALLS_OF[libc].values(), results)]


def with_another(libc: str, folder: Path) -> str:
    """Return a script by which only this mount namespace has a copy of the library in its place."""
    path = {
        "glibc": next(
            line.split()[2]
            for line in subprocess.run(
                ["ldd", "/bin/true"], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            if "libc.so" in line
        ),
        "musl": next(str(path.resolve()) for path in Path("/lib").glob("ld-musl-*")),
    }[libc]
    at = folder / libc
    at.mkdir()
    return (
        f"mount -t tmpfs tmpfs {at}; cp {path} {at}/copy; "
        f"mount --bind {at}/copy $(readlink -f {path})"
    )


def probed(pid: int) -> bool:
    """Tell whether getaddrinfo() begins otherwise in a process than in the file it is from."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, access, offset, _, _, *path = line.split()
        if "x" in access and path and "libc.so" in path[0]:
            break
    content = Path(f"/proc/{pid}/root{path[0]}")
    listed = subprocess.run(["nm", "-D", content], capture_output=True, text=True, check=True)
    (symbol,) = (s for s in listed.stdout.splitlines() if " getaddrinfo" in s and "_a" not in s)
    # In these files the offset of code equals its address.
    at = int(symbol.split()[0], 16)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(int(area.split("-")[0], 16) + at - int(offset, 16))
        return memory.read(1) != content.read_bytes()[at : at + 1]


def test_filters(
    trace: Any, client: Any, programs: dict[str, Path], bytes_in: Any, tmp_path: Path
) -> None:
    """Options choose lookups by result, time, host, library and process; hosts show unharmed."""
    odd = [f"getaddrinfo:{LONGEST}y", f"getaddrinfo:{HOSTILE}"]
    glibc, musl = (client(str(programs[libc]), *CALLS_OF[libc], *odd) for libc in LIBCS)
    library = tmp_path / "link"
    library.symlink_to(next(Path("/lib").glob("ld-musl-*")))
    both = ["--json", "-p", f"{glibc.pid},{musl.pid}"]
    tools = [
        trace("gethostlatency", *both, *options)
        for options in (
            ["-x"],
            ["--min-ms", str(SLOW_S * 1e3)],
            ["--host", "*k.t[e]st"],
            ["--host", "2001:db8:*"],
            ["-l", str(library)],
            ["-p", str(glibc.pid)],
        )
    ]
    table = trace("gethostlatency", "-p", str(glibc.pid), "--columns", "result,host")
    for each in (glibc, musl):
        each.begin()
    results = [each.told() for each in (glibc, musl)]
    for tool in (*tools, table):
        tool.end()

    every = [
        [
            *expected(libc, told),
            ("getaddrinfo", LONGEST, told[-2][0]),
            ("getaddrinfo", HOSTILE, told[-1][0]),
        ]
        for libc, told in zip(LIBCS, results)
    ]
    failed, slow, named, addressed, of_musl, of_glibc = (
        [rows_of(tool, each) for each in (glibc, musl)] for tool in tools
    )
    assert [[row for row in rows if row[2] != "OK"] for rows in every] == failed
    for rows, shown in zip(every, slow):
        assert {"slow.test"} <= {host for _, host, _ in shown}
        assert len(shown) < len(rows)
    assert [[row for row in rows if row[1] == "ok.test"] for rows in every] == named
    assert [[row for row in rows if row[1] == IPV6] for rows in every] == addressed
    assert [[], every[1]] == of_musl
    assert [every[0], []] == of_glibc
    (cut,) = (row for row in tools[5].json if row["host"] == LONGEST)
    assert cut["host_truncated"]
    assert table.out.isprintable() or all(line.isprintable() for line in table.out.splitlines())
    assert r"a\x1b[31m\n\\.test" in table.out


def test_calls_within_calls(
    trace: Any, client: Any, server: Server, programs: dict[str, Path], until: Any
) -> None:
    """What a handler of a signal looks up meanwhile is part of the outermost call.

    A call that is left by longjmp(), whose process ends, whose thread runs another program, or that
    waits still says so.
    """
    glibc = str(programs["glibc"])
    within = client(glibc, "interrupted:slow-1.test", "gethostbyname:ok.test")
    left = client(glibc, "left:silent-1.test", "gethostbyname:ok.test")
    exits = client(glibc, "threads:silent-2.test")
    waits = client(glibc, "getaddrinfo:silent-3.test")
    threads = client(glibc, "threads:slow-2.test")
    executed = client(glibc, "executed:silent-4.test")
    many = (within, left, exits, waits, threads, executed)
    every_pid = [str(each.pid) for each in many]
    of_threads = [str(each.pid) for each in (exits, threads)]
    tools = [
        trace("gethostlatency", "--json", "-p", ",".join(pids), *options)
        for pids, *options in (
            [every_pid],
            [every_pid, "--host", "*-[12].test"],
            [of_threads, "--max-entries", str(ROOM)],
        )
    ]
    server.signal_at("slow-1.test", within.pid)
    server.signal_at("silent-1.test", left.pid)
    server.signal_at("silent-4.test", executed.pid)
    for each in many:
        each.begin()
    (interrupted, _), _ = within.told()
    for each in (left, threads):
        each.told()
    # Each is asked for an address of IPv4 and one of IPv6.
    until(lambda: server.asked["silent-2.test"] >= 2 * THREADS)
    until(lambda: server.asked["silent-3.test"])
    until(lambda: Path(f"/proc/{executed.pid}/comm").read_text() == "cat\n")
    exits.kill()
    for tool in tools:
        tool.end()

    every = {each: rows_of(tools[0], each) for each in many}
    assert [
        ("getaddrinfo", "slow-1.test", interrupted),
        ("gethostbyname", "ok.test", "OK"),
    ] == every[within]
    assert [
        ("getaddrinfo", "silent-1.test", "LEFT"),
        ("gethostbyname", "ok.test", "OK"),
    ] == every[left]
    assert [("getaddrinfo", "silent-2.test", "EXITED")] * THREADS == every[exits]
    assert [("getaddrinfo", "silent-4.test", "EXITED")] == every[executed]
    assert [("getaddrinfo", "silent-3.test", "PENDING")] == every[waits]
    assert [("getaddrinfo", "slow-2.test", "OK")] * THREADS == every[threads]
    assert "inner.test" in server.asked
    matched = [row for each in many for row in every[each] if re.search("-[12].test", row[1] or "")]
    assert matched == [row for each in many for row in rows_of(tools[1], each)]
    for pid in (exits.pid, threads.pid):
        assert THREADS == len({row["tid"] for row in tools[0].json if row["pid"] == pid})
    unknown = {"LEFT", "PENDING"}
    assert {each["result"] for each in tools[0].json if each["duration"] is None} == unknown
    assert {} == tools[0].losses
    assert {"calls": 2 * THREADS - len(tools[2].json)} == tools[2].losses
    assert len(tools[2].json) >= ROOM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs a CPU that runs 32-bit programs")
def test_32_bit_program(trace: Any, client: Any, tmp_path: Path) -> None:
    """What a 32-bit program looks up shows, with its arguments from the stack."""
    library = Path("/lib32/libc.so.6")
    program = tmp_path / "lookups32"
    loader = "-Wl,--dynamic-linker=/lib/ld-linux.so.2"
    options = ["-m32", "-fno-stack-protector", "-nostdlib", "-no-pie", loader]
    subprocess.run(["cc", *options, "-o", program, SOURCE_32, library], check=True)
    tool = trace("gethostlatency", "--json", "-l", str(library))
    whole = client("sh", "-c", f"echo ready; read line; exec {program}")
    whole.begin()
    whole.told()
    tool.end()

    assert [
        ("getaddrinfo", "ok.test", "OK"),
        ("getaddrinfo", "missing.test", "EAI_NONAME"),
        ("gethostbyname", "ok.test", "OK"),
        ("gethostbyname", "missing.test", "HOST_NOT_FOUND"),
        ("gethostbyname2_r", "ok.test", "OK"),
        ("gethostbyname2_r", "missing.test", "HOST_NOT_FOUND"),
        ("gethostbyaddr_r", IPV4, "OK"),
    ] == rows_of(tool, whole)


def test_chosen_files_that_will_not_do(run: Any, tmp_path: Path) -> None:
    """A file that is missing, or has no such function, is named in one line, with exit code 5."""
    for path in (tmp_path / "missing", tmp_path, Path("/bin/true"), Path("/etc/passwd")):
        with run("gethostlatency", "-l", str(path)) as tool:
            tool.ended()
        assert (5, 1, "") == (tool.code, tool.err.count("\n"), tool.out)
        assert path.name in tool.err

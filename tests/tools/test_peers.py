# SPDX-License-Identifier: BSD-2-Clause
"""Beside tools of others ours show the same work; where they show more, that is so."""

from __future__ import annotations

import ctypes
import errno
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEERS = os.environ.get("TRACEWHEEL_PEERS")
pytestmark = pytest.mark.skipif(not PEERS, reason="needs peers: ./dev vm test --kernel 6.1")

CALLS, FAILURES = 1009, 13
FILES, FOLDERS, SYNCS = 23, 19, 17
NAPS, NAP_MS = 53, 20
LIMIT_S = 120
LOOPBACK, NOWHERE = "127.0.0.1", "255.255.255.255"


class Peer:
    """Another tool at work, on a terminal, so that it shows each line at once."""

    def __init__(self, tool: str, *arguments: str) -> None:
        self._terminal, end = pty.openpty()
        assert PEERS
        peers = Peers(Path(PEERS), {})
        if tool.endswith("-bpfcc"):
            command = peers.bcc(tool, *arguments)
        else:
            program = "bin/bpftrace" if tool == "bpftrace" else f"sbin/{tool}-libbpf"
            command = peers.command(program, *arguments)
        environment = {**os.environ, **command.environment}
        self._process = subprocess.Popen(command.argv, stdout=end, stderr=end, env=environment)
        os.close(end)
        self.out = ""
        self._waited = False

    def _hear(self, left: float) -> bool:
        """Read what it shows next, if that comes in time."""
        if not select.select([self._terminal], [], [], max(0, left))[0]:
            return False
        self.out += os.read(self._terminal, 65536).decode(errors="replace")
        return True

    def wait_for(self, pattern: str) -> Peer:
        """Wait until it shows something that it has not shown yet."""
        while self._hear(0):
            pass
        known = len(self.out) if self._waited else 0
        self._waited = True
        deadline = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.out[known:]):
            assert self._hear(deadline - time.monotonic()), self.out
        return self

    def end(self) -> list[list[str]]:
        """Interrupt it, and return the words of each line."""
        self._process.send_signal(signal.SIGINT)
        with suppress(OSError):  # EIO: it has ended
            while piece := os.read(self._terminal, 65536):
                self.out += piece.decode(errors="replace")
        self.close()
        return [line.split() for line in self.out.splitlines()]

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
            os.close(self._terminal)


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Give a function that starts a peer and waits until it has shown that it traces."""
    started: list[Peer] = []

    def start(pattern: str, *command: str) -> Peer:
        started.append(Peer(*command))
        return started[-1].wait_for(pattern)

    yield start
    for each in started:
        each.close()


def test_syscount(trace: Any, peer: Any, tmp_path: Path) -> None:
    """Both count the same calls, and the same failures with -x."""
    getpgid = ctypes.CDLL(None).getpgid
    missing = str(tmp_path / "missing")
    for options in ([], ["-x"]):
        mine = ["-p", str(os.getpid()), *options]
        theirs = peer("Tracing", "syscount", *mine, "-T", "400")
        ours = trace("syscount", *mine, "--json")
        for _ in range(CALLS):
            getpgid(0)
        for _ in range(FAILURES):
            with suppress(FileNotFoundError):
                os.rmdir(missing)
        ours.end()
        shown = {
            words[0]: int(words[1]) for words in theirs.end() if words[1:] and words[1].isdigit()
        }

        found = {row["syscall"]: row["count"] for row in ours.json}
        expected = {"getpgid": None if options else CALLS, "rmdir": FAILURES}
        assert expected == {name: found.get(name) for name in expected}
        assert expected == {name: shown.get(name) for name in expected}


def test_syscount_beside_bcc_and_bpftrace(trace: Any, peer: Any) -> None:
    """All three count the same calls."""
    pid = str(os.getpid())
    script = f"tracepoint:syscalls:sys_enter_getpgid /pid == {pid}/ {{ @ = count(); }}"
    getpgid = ctypes.CDLL(None).getpgid
    bcc = peer("Tracing", "syscount-bpfcc", "-p", pid)
    bpftrace = peer("Attached", "bpftrace", "-e", script)
    ours = trace("syscount", "-p", pid, "--json")
    for _ in range(CALLS):
        getpgid(0)
    ours.end()

    assert [CALLS] == [row["count"] for row in ours.json if row["syscall"] == "getpgid"]
    assert [["getpgid", str(CALLS)]] == [line for line in bcc.end() if line[:1] == ["getpgid"]]
    assert [["@:", str(CALLS)]] == [line for line in bpftrace.end() if line[:1] == ["@:"]]


def test_vfsstat(trace: Any, peer: Any, tmp_path: Path) -> None:
    """Both count the same folders and files that go; ours also what is created and synced.

    The peer counts vfs_create(), which open() does not call, and vfs_fsync(), which has become
    part of its caller in Debian's kernel.
    """
    theirs = peer(r"\d+:\d+:\d+.*\n", "vfsstat", "1")
    ours = trace("vfsstat", "--json")
    for number in range(FILES):
        (tmp_path / f"{number}").touch()
        (tmp_path / f"{number}").unlink()
    for number in range(FOLDERS):
        (tmp_path / f"{number}").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(SYNCS):
        os.fsync(fd)
    os.close(fd)
    ours.end()
    theirs.wait_for(r"\n")  # a second that has ended after all that
    words = theirs.end()

    expected = {"unlink": FILES, "mkdir": FOLDERS, "create": FILES, "fsync": SYNCS}
    (found,) = ours.json
    (header,) = (line for line in words if "READ/s" in line)
    columns = {name: header.index(f"{name.upper()}/s") for name in expected}
    rows = [line for line in words if line and line[0].endswith(":")]
    sums = {name: sum(int(row[at]) for row in rows) for name, at in columns.items()}
    assert expected == {name: found[name] for name in expected}
    assert {**expected, "create": 0, "fsync": 0} == sums


def test_offcputime(trace: Any, peer: Any) -> None:
    """Both find the same time in the same naps, within 5 %."""
    naps = f"[time.sleep({NAP_MS} / 1000) for _ in range({NAPS})]"
    command = [
        "/usr/bin/python3",
        "-c",
        f"import time; input(); {naps}; print(flush=True); input()",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as sleeper:
        assert sleeper.stdin
        assert sleeper.stdout
        mine = ["-p", str(sleeper.pid)]
        theirs = peer("Tracing", "offcputime", *mine)
        ours = trace("offcputime", *mine, "--json")
        sleeper.stdin.write(b"\n")
        sleeper.stdin.flush()
        sleeper.stdout.readline()
        ours.end()
        words = theirs.end()
        sleeper.communicate(b"\n")

    found = [e for e in ours.json if any("nanosleep" in name for name in e["kernel_stack"])]
    # One that is preempted on its way to sleep is off the CPU twice.
    assert NAPS <= sum(each["times"] for each in found) <= NAPS + 5
    total_us, napping = 0, False
    for line in words:
        napping |= any("nanosleep" in word for word in line)
        if len(line) == 1 and line[0].isdigit():
            total_us += int(line[0]) if napping else 0
            napping = False
    assert total_us == pytest.approx(sum(each["ns"] for each in found) / 1000, rel=0.05)


def test_tcpconnect(trace: Any, peer: Any) -> None:
    """Both show the same connections; only ours shows which were refused, and those unsent.

    The peer looks at what tcp_v4_connect() returns, which is before the answer comes.
    """
    open_, closed = socket.create_server((LOOPBACK, 0)), socket.create_server((LOOPBACK, 0))
    ports = [each.getsockname()[1] for each in (open_, closed)]
    closed.close()
    mine = ["-p", str(os.getpid())]
    theirs = peer("DPORT|dport|Dport", "tcpconnect", *mine)
    ours = trace("tcpconnect", "--pid", mine[1], "--json")
    results = []
    for number in range(FILES):
        port = ports[number % 3 == 2]
        results.append((LOOPBACK, port, -socket.socket().connect_ex((LOOPBACK, port))))
    results.append((NOWHERE, 9, -socket.socket().connect_ex((NOWHERE, 9))))
    ours.end()
    rows = [line for line in theirs.end() if line[:1] == mine[1:]]

    assert results == [(row["daddr"], row["dport"], row["ret"]) for row in ours.json]
    assert {0, -errno.ECONNREFUSED, -errno.ENETUNREACH} == {ret for _, _, ret in results}
    sent = [(to, str(port)) for to, port, _ in results if to != NOWHERE]
    assert sent == [(row[-2], row[-1]) for row in rows]


def test_biosnoop(trace: Any, peer: Any, disk: Any) -> None:
    """Ours and bpftrace show the same reads in the same order; libbpf-tools' does not load."""
    major, minor = divmod(os.stat(disk.path).st_rdev, 256)
    script = (
        f"tracepoint:block:block_rq_complete /args->dev == {major << 20 | minor}/ "
        '{ printf("%d %d\\n", args->sector, args->nr_sector * 512); }'
    )
    theirs = peer("Attached", "bpftrace", "-e", script)
    ours = trace("biosnoop", "-d", disk.name, "--pid", str(os.getpid()), "--json")
    disk.read(FILES)
    ours.end()
    rows = [tuple(map(int, line)) for line in theirs.end() if len(line) == 2 and line[0].isdigit()]

    expected = [(8 * at, disk.BLOCK) for at in range(FILES)]
    assert expected == [(row["sector"], row["bytes"]) for row in ours.json]
    assert expected == rows


def test_bashreadline(trace: Any, peer: Any) -> None:
    """Both show the same lines; the peer cuts them after 79 bytes."""
    lines = [f": line {number}".encode() for number in range(FILES)] + [b": " + b"x" * 200]
    theirs = peer("COMMAND", "bashreadline")
    ours = trace("bashreadline", "--json")
    pid, terminal = pty.fork()
    if not pid:
        os.environ["PS1"] = "ready> "
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    for line in [*lines, b"exit"]:
        said = b""
        while not said.endswith(b"ready> "):
            assert select.select([terminal], [], [], LIMIT_S)[0], said
            said += os.read(terminal, 4096)
        os.write(terminal, line + b"\r")
    os.waitpid(pid, 0)
    os.close(terminal)
    ours.end()
    rows = [" ".join(line[2:]) for line in theirs.end() if line[1:2] == [str(pid)]]

    expected = [line.decode() for line in lines] + ["exit"]
    assert expected == [row["command"] for row in ours.json if row["pid"] == pid]
    assert [line[:79] for line in expected] == rows

# SPDX-License-Identifier: BSD-2-Clause
"""Beside tools of others ours show the same work; where they show more, that is so."""

from __future__ import annotations

import ctypes
import errno
import os
import pty
import re
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tools.peers.conftest import (
    LIMIT_S,
    ME,
    SECOND,
    Peer,
    buckets,
    buckets_of_ours,
    counts,
    of_me,
    script,
    worker,
)

CALLS, FAILURES = 1009, 13
FILES, FOLDERS, SYNCS, THREADS = 23, 19, 17, 11
NAPS, NAP_MS = 53, 20
BURN_S = 3
LOOPBACK, NOWHERE = "127.0.0.1", "255.255.255.255"
# What is done until a peer shows it, and when all else is done.
FIRST, LAST = "first-of-all", "last-of-all"
NAP = f"[time.sleep({NAP_MS} / 1000) for _ in range({NAPS})]"


def test_syscount(trace: Any, beside: Any, tmp_path: Path) -> None:
    """All count the same calls, and the same failures with -x."""
    getpgid = ctypes.CDLL(None).getpgid
    mine = ["-p", ME, "-T", "400"]
    peers = beside(
        ("syscount-libbpf", *mine),
        ("syscount-bpfcc", *mine),
        (*of_me("syscount.bt", "raw_syscalls:sys_enter"), "--", "--sysname"),
        ("syscount-libbpf", *mine, "-x"),
    )
    ours = [trace("syscount", "-p", ME, "--json", *options) for options in ([], ["-x"])]
    for _ in range(CALLS):
        getpgid(0)
    for _ in range(FAILURES):
        with suppress(FileNotFoundError):
            os.rmdir(tmp_path / "missing")
    found = [{row["syscall"]: row["count"] for row in each.end().json} for each in ours]
    libbpf, bcc, bpftrace, libbpf_failed = (counts(each.end()) for each in peers)

    expected: dict[str, int | None] = {"getpgid": CALLS, "rmdir": FAILURES}
    for each in (found[0], libbpf, bcc):
        assert expected == {name: each.get(name) for name in expected}
    assert CALLS == bpftrace["getpgid"]  # it shows the top ten
    for each in (found[1], libbpf_failed):
        assert {**expected, "getpgid": None} == {name: each.get(name) for name in expected}


def test_vfsstat(trace: Any, beside: Any, tmp_path: Path) -> None:
    """All count the same work where they count it.

    None of the peers counts what open() creates: they count vfs_create(), which it does not call.
    libbpf-tools and bpftrace do not count fsync(): they count vfs_fsync(), which has become part
    of its caller in Debian's kernel. bcc loses what comes while it reads its counts and clears
    them, each second.
    """
    libbpf, bcc, bpftrace = beside(
        ("vfsstat-libbpf", "1"),
        ("vfsstat-bpfcc", "-p", ME, "1"),
        of_me("vfsstat.bt", "kprobe:vfs_create"),
        shows=f"{SECOND}|Attached",
    )
    ours = trace("vfsstat", "-p", ME, "--json")
    begins = [each.next_second() for each in (libbpf, bcc)]
    for number in range(FILES):
        (tmp_path / f"{number}").touch()
        (tmp_path / f"{number}").unlink()
    for number in range(FOLDERS):
        (tmp_path / f"{number}").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(SYNCS):
        os.fsync(fd)
    os.close(fd)
    fd = os.open("/dev/null", os.O_WRONLY)
    for _ in range(CALLS):
        os.write(fd, b"x")
    os.close(fd)
    ours.end()
    libbpf.next_second()
    bcc.next_second()
    names = counts(bpftrace.end())

    def sums(peer: Peer, begin: int, *wanted: str) -> dict[str, int]:
        header = re.findall(r"(\w+)/s", peer.out)
        found = re.findall(r"^\d+:\d+:\d+:?(.*)", peer.end(begin), re.MULTILINE)
        columns = zip(*(map(int, row.split()) for row in found))
        every = {name.lower(): sum(column) for name, column in zip(header, columns)}
        return {name: every[name] for name in wanted}

    expected = {"unlink": FILES, "mkdir": FOLDERS, "create": FILES, "fsync": SYNCS}
    expected.update(open=FILES + 2, write=CALLS)
    (found,) = ours.json
    assert expected == {name: found[name] for name in expected}
    losing = sums(bcc, begins[1], *expected)
    assert losing == pytest.approx({**expected, "create": 0}, rel=0.05, abs=3)
    fewer = {"unlink": FILES, "mkdir": FOLDERS, "create": 0, "fsync": 0}
    assert fewer == sums(libbpf, begins[0], *fewer)
    assert {"vfs_open": FILES + 2, "vfs_write": CALLS} == {
        name: count for name, count in names.items() if name != "vfs_read"
    }


def test_offcputime(trace: Any, beside: Any) -> None:
    """All find the same time in the same naps, within 5 %; bpftrace has no such tool."""
    with worker(NAP) as (pid, nap):
        mine = ["-p", str(pid)]
        peers = beside(("offcputime-libbpf", *mine), ("offcputime-bpfcc", *mine, "-K"))
        ours = trace("offcputime", *mine, "--json")
        nap()
        ours.end()
        shown = [each.rows() for each in peers]

    found = [e for e in ours.json if any("nanosleep" in name for name in e["kernel_stack"])]
    # One that is preempted on its way to sleep is off the CPU twice.
    assert NAPS <= sum(each["times"] for each in found) <= NAPS + 5
    for rows in shown:
        total_us, napping = 0, False
        for line in rows:
            napping |= any("nanosleep" in word for word in line)
            if len(line) == 1 and line[0].isdigit():
                total_us += int(line[0]) if napping else 0
                napping = False
        assert total_us == pytest.approx(sum(each["ns"] for each in found) / 1000, rel=0.05)


def test_runqlat(trace: Any, beside: Any) -> None:
    """All count a wait for each nap, and few others."""
    with worker(NAP) as (pid, nap):
        mine = ["-p", str(pid)]
        peers = beside(
            ("runqlat-libbpf", *mine),
            ("runqlat-bpfcc", *mine),
            script("runqlat.bt", "args.next_pid == 0", f"args.next_pid != {pid}"),
        )
        ours = trace("runqlat", *mine, "--json")
        nap()
        ours.end()
        shown = [buckets(each.end()) for each in peers]

    for each in (buckets_of_ours(ours), *shown):
        assert NAPS <= sum(each.values()) <= NAPS + 5


def test_biolatency(trace: Any, beside: Any, slow_disk: Any) -> None:
    """All count each read, and none as faster than the disk."""
    mine = ["-d", slow_disk.name]
    peers = beside(
        ("biolatency-libbpf", *mine), ("biolatency-bpfcc", *mine), script("biolatency.bt")
    )
    ours = trace("biolatency", *mine, "--json")
    slow_disk.read(FILES)
    ours.end()

    for each in (buckets_of_ours(ours), *(buckets(each.end()) for each in peers)):
        assert FILES == sum(each.values())
        assert 0 == sum(count for low, count in each.items() if low < 16384)


def test_biosnoop(trace: Any, beside: Any, disk: Any) -> None:
    """Ours and a line of bpftrace show the same reads in the same order.

    No peer works: libbpf-tools' and bcc's want blk_account_io_start(), which has become part of
    its caller in Debian's kernel, and bpftrace's wants tracepoints of v6.5.
    """
    major, minor = divmod(os.stat(disk.path).st_rdev, 256)
    text = (
        f"tracepoint:block:block_rq_complete /args->dev == {major << 20 | minor}/ "
        '{ printf("%d %d\\n", args->sector, args->nr_sector * 512); }'
    )
    (theirs,) = beside(("bpftrace", "-e", text))
    ours = trace("biosnoop", "-d", disk.name, "--pid", ME, "--json")
    disk.read(FILES)
    theirs.wait_for(rf"\n{8 * (FILES - 1)} ")
    ours.end()
    rows = [tuple(map(int, line)) for line in theirs.rows() if len(line) == 2 and line[0].isdigit()]

    expected = [(8 * at, disk.BLOCK) for at in range(FILES)]
    assert expected == [(row["sector"], row["bytes"]) for row in ours.json]
    assert expected == rows


def test_cpuwalk(trace: Any, beside: Any) -> None:
    """Ours and bpftrace find a process on the CPU as often, within 10 %; no other has it."""
    burn = f"end = time.process_time() + {BURN_S}\nwhile time.process_time() < end: pass"
    with worker(burn) as (pid, work):
        (theirs,) = beside(script("cpuwalk.bt", "/pid/", f"/pid == {pid}/"))
        ours = trace("cpuwalk", "-p", str(pid), "--json")
        work()
        ours.end()
        shown = buckets(theirs.end())

    found = {row["cpu"]: row["count"] for row in ours.json}
    assert found.keys() == shown.keys()
    assert sum(shown.values()) == pytest.approx(sum(found.values()), rel=0.1)
    # A machine that stands still takes no samples.
    unsampled = min(ours.summary["losses"].get("unsampled", 0), 99 * BURN_S / 4)
    assert 0.9 * 99 * BURN_S - unsampled < sum(found.values()) < 1.1 * 99 * BURN_S


def test_pidpersec(trace: Any, beside: Any) -> None:
    """All count the same forks; only ours tells threads from processes.

    bcc counts those of the kernel's own threads, too, and loses some each second, as in vfsstat.
    """
    bcc, bpftrace = beside(("pidpersec-bpfcc",), of_me("pidpersec.bt", "sched_process_fork"))
    ours = trace("pidpersec", "-p", ME, "--json")
    begin = bcc.next_second()
    for _ in range(FILES):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    for _ in range(THREADS):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    ours.end()
    bcc.next_second()
    each_second = map(int, re.findall(r"PIDs/sec: (\d+)", bcc.end(begin)))

    (found,) = ours.json
    assert (FILES, THREADS) == (found["pids"], found["threads"])
    assert ["@:", str(1 + FILES + THREADS)] in bpftrace.rows()  # it saw ours start
    assert sum(each_second) == pytest.approx(FILES + THREADS, abs=3)


def test_tcpconnect(trace: Any, beside: Any) -> None:
    """All show the same connections; only ours shows which were refused, and those unsent.

    The peers look at what tcp_v4_connect() returns, which is before the answer comes, or begins to
    send.
    """

    def knock(address: str) -> int:
        with socket.socket() as client:
            return client.connect_ex((address, 9))

    open_, closed = socket.create_server((LOOPBACK, 0)), socket.create_server((LOOPBACK, 0))
    ports = [each.getsockname()[1] for each in (open_, closed)]
    closed.close()
    peers = beside(
        ("tcpconnect-libbpf", "-p", ME),
        ("tcpconnect-bpfcc", "-p", ME),
        script("tcpconnect.bt"),
        shows="127.0.0.2",
        act=lambda: knock("127.0.0.2"),
    )
    ours = trace("tcpconnect", "--pid", ME, "--json")
    results = []
    for number in range(FILES):
        port = ports[number % 3 == 2]
        results.append((LOOPBACK, port, -socket.socket().connect_ex((LOOPBACK, port))))
    results.append((NOWHERE, 9, -knock(NOWHERE)))
    ours.end()
    knock("127.0.0.3")
    for each in peers:
        each.wait_for("127.0.0.3")

    assert results == [(row["daddr"], row["dport"], row["ret"]) for row in ours.json]
    assert {0, -errno.ECONNREFUSED, -errno.ENETUNREACH} == {ret for _, _, ret in results}
    sent = [[to, str(port)] for to, port, _ in results if to != NOWHERE]
    for each in peers:
        rows = [row[-2:] for row in each.rows() if ME in row[:2]]
        assert sent == [row for row in rows if row[0] not in ("127.0.0.2", "127.0.0.3")]


def test_bashreadline(trace: Any, beside: Any) -> None:
    """All show the same lines; libbpf-tools cuts them after 79 bytes, bcc after 80."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ["PS1"] = "ready> "
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])

    def enter(line: str) -> None:
        said = b""
        while not said.endswith(b"ready> "):
            assert select.select([terminal], [], [], LIMIT_S)[0], said
            said += os.read(terminal, 4096)
        os.write(terminal, f"{line}\r".encode())

    peers = beside(
        ("bashreadline-libbpf",),
        ("bashreadline-bpfcc",),
        script("bashreadline.bt"),
        shows=FIRST,
        act=lambda: enter(f": {FIRST}"),
    )
    ours = trace("bashreadline", "--json")
    expected = [f": line {number}" for number in range(FILES)] + [": " + "x" * 200]
    for line in [*expected, f": {LAST}", "exit"]:
        enter(line)
    os.waitpid(pid, 0)
    os.close(terminal)
    ours.end()
    for each in peers:
        each.wait_for(LAST)
    shown = [[" ".join(row[2:]) for row in each.rows() if row[1:2] == [str(pid)]] for each in peers]

    expected += [f": {LAST}", "exit"]
    commands = [row["command"] for row in ours.json if row["pid"] == pid]
    cuts = [[line[:most] for line in expected] for most in (79, 80)]
    for found, wanted in zip((commands, *shown), (expected, *cuts, expected)):
        assert wanted == [line for line in found if FIRST not in line]


def test_opensnoop(
    trace: Any, beside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All show the same opens; of creat(), and full names below a folder's descriptor, only ours.

    The peers do not trace creat(). They complete a name by the working directory, also where it is
    relative to another: libbpf-tools with -F, bpftrace always.
    """

    def try_open(path: str, folder: int | None = None) -> tuple[int, int, str]:
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=folder)
        except FileNotFoundError as error:
            return -1, error.errno or 0, path
        os.close(fd)
        return fd, 0, path

    monkeypatch.chdir("/usr")
    (tmp_path / "opened").touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    mine = ["-p", ME]
    peers = beside(
        ("opensnoop-libbpf", *mine),
        ("opensnoop-bpfcc", *mine),
        ("opensnoop-libbpf", *mine, "-F"),
        script("opensnoop.bt", "/@filename[tid]/", f"/@filename[tid] && pid == {ME}/"),
        shows=FIRST,
        act=lambda: try_open(f"/{FIRST}"),
    )
    ours = [trace("opensnoop", *mine, "--json", *options) for options in ([], ["-F"])]
    made = []
    for _ in range(FILES):
        made.append(try_open(str(tmp_path / "opened")))
        made.append(try_open(str(tmp_path / "opened-not")))
        made.append(try_open("opened", folder))
    created = (ctypes.CDLL(None).creat(os.fsencode(tmp_path / "opened"), 0o600), 0)
    os.close(created[0])
    os.close(folder)
    try_open(f"/{LAST}")
    for each in peers:
        each.wait_for(LAST)
    found = [
        [(max(e["ret"], -1), -min(e["ret"], 0), e["path"]) for e in each.end().json]
        for each in ours
    ]
    shown = [
        [(int(row[-3]), int(row[-2]), row[-1]) for row in each.rows() if row[:1] == [ME]]
        for each in peers
    ]

    given, full, wrong = (
        [(fd, error, os.path.join(folder, path)) for fd, error, path in made]
        for folder in ("", tmp_path, "/usr")
    )
    created_ = [(*created, str(tmp_path / "opened"))]
    expected = [given + created_, full + created_, given, given, wrong, wrong]
    for rows, wanted in zip((*found, *shown), expected):
        assert wanted == [row for row in rows if Path(row[2]).name.startswith("opened")]


def test_execsnoop(trace: Any, beside: Any) -> None:
    """All show the same execs; only ours gives all with their arguments and their result.

    libbpf-tools and bcc show the name of the file in place of the first argument, cut arguments
    after 127 and 128 bytes, and do not trace execveat(). bpftrace shows no results.
    """

    def execute(program: str | int, *args: str) -> int:
        pid = os.fork()
        if not pid:
            try:
                os.execve(program, args, {})
            finally:
                os._exit(127)
        os.waitpid(pid, 0)
        return pid

    def knock(word: str) -> int:
        return execute("/bin/true", word, word)

    peers = beside(
        ("execsnoop-libbpf", "-x"),
        ("execsnoop-bpfcc", "-x", "-P", ME),
        script("execsnoop.bt"),
        shows=FIRST,
        act=lambda: knock(FIRST),
    )
    ours = trace("execsnoop", "-x", "-P", ME, "--json")
    expected: list[tuple[int, int, str, list[str]]] = []
    for number in range(FILES):
        words = ["named", str(number)]
        expected.append((execute("/bin/true", *words), 0, "/bin/true", words))
        expected.append((execute("/missing", *words), -errno.ENOENT, "/missing", words))
    words = ["named", "x" * 200]
    expected.append((execute("/bin/true", *words), 0, "/bin/true", words))
    fd = os.open("/bin/true", os.O_RDONLY)
    expected.append((execute(fd, *words), 0, "", words))
    os.close(fd)
    knock(LAST)
    for each in peers:
        each.wait_for(LAST)
    found = [(row["pid"], row["ret"], row["args"]) for row in ours.end().json]
    others = {FIRST, LAST, str(ours.pid)}
    libbpf, bcc, bpftrace = (
        [row[1:] for row in each.rows() if row[2:3] == [ME] and not others & {*row}]
        for each in peers
    )

    assert [(pid, ret, args) for pid, ret, _, args in expected] == [
        row for row in found if LAST not in row[2]
    ]
    for rows, most in ((libbpf, 127), (bcc, 128)):
        assert rows == [
            [str(pid), ME, str(ret), file, args[1][:most]] for pid, ret, file, args in expected[:-1]
        ]
    assert [[str(pid), ME, *args] for pid, _, _, args in expected] == bpftrace

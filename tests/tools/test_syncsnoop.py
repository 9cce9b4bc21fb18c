# SPDX-License-Identifier: BSD-2-Clause
"""Calls that write data to disk show as they were made here."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIME = 23
STORM = 5003
AREAS = 199  # enough for a tree of several levels
NOT_OPEN = 1 << 20
MS_ASYNC, MS_SYNC, MS_BOTH = 1, 4, 5
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Seen(NamedTuple):
    """What a row tells that does not depend on time."""

    syscall: str
    path: str | None
    ret: int


class Calls:
    """Makes calls, and keeps what rows should tell of them."""

    def __init__(self) -> None:
        self.made: list[Seen] = []
        self.times: list[tuple[int, int]] = []  # before and behind each, in ns since 1970

    def __call__(self, name: str, path: str | None, *arguments: Any) -> None:
        """Make a call."""
        before = time.time_ns()
        ret = getattr(LIBC, name)(*arguments)
        self.times.append((before, time.time_ns()))
        self.made.append(Seen(name, path, -ctypes.get_errno() if ret < 0 else ret))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Give a descriptor of a file with something to write."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * mmap.PAGESIZE)
    yield fd
    os.close(fd)


def mapped(fd: int, shared: bool = True) -> int:
    """Return the address at which the first page of a file is mapped, or new memory for -1."""
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    kind |= mmap.MAP_ANONYMOUS if fd < 0 else 0
    address: int = LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, kind, fd, 0)
    return address


def make_calls(file: int, path: str) -> Calls:
    """Make a call of each kind, on a file and in other ways."""
    calls = Calls()
    of_file, of_none = mapped(file), mapped(-1, shared=False)
    pipe = os.pipe()
    name_of_pipe = os.readlink(f"/proc/self/fd/{pipe[1]}")
    size = mmap.PAGESIZE
    calls("fsync", path, file)
    calls("fdatasync", path, file)
    calls("sync_file_range", path, file, 0, size, 7)
    calls("syncfs", path, file)
    calls("msync", path, of_file, size, MS_SYNC)
    calls("msync", path, of_file, size, MS_BOTH)
    calls("msync", f"[{of_none:#x}-{of_none + size:#x}]", of_none, size, MS_ASYNC)
    calls("fsync", None, NOT_OPEN)
    calls("fsync", None, -1)
    calls("fsync", name_of_pipe, pipe[1])
    calls("sync", None)
    for address in (of_file, of_none):
        LIBC.munmap(address, size)
    for fd in pipe:
        os.close(fd)
    return calls


def shown(tool: Any) -> list[Seen]:
    """Return what the rows tell."""
    return [Seen(*(row[name] for name in Seen._fields)) for row in tool.json]


@pytest.fixture
def me() -> tuple[str, ...]:
    """Give options that select this process."""
    return ("-p", str(os.getpid()), "--json")


def test_each_rung_shows_every_call(
    trace: Any, file: int, tmp_path: Path, me: tuple[str, ...], rungs_of: Any
) -> None:
    """Every way of tracing shows each call once, with its file, its result, and when it was.

    The times of libbpf-tools' syncsnoop are floats, of seven digits.
    """
    rungs = rungs_of("syncsnoop", "sync")
    assert len(rungs) >= 2
    tools = [
        trace("syncsnoop", *me, "--rung", f"sync={rung}", "--rung", f"enter={rung}")
        for rung in rungs
    ]
    calls = make_calls(file, str(tmp_path / "file"))
    wrong = {-errno.EBADF, -errno.EINVAL}
    assert {0, *wrong} == {each.ret for each in calls.made}
    for tool in tools:
        tool.end()

        assert calls.made == shown(tool)
        whole = [(row["time"] - row["duration"], row["time"]) for row in tool.json]
        assert all(
            before <= begin < end <= behind
            for (before, behind), (begin, end) in zip(calls.times, whole)
        )
        assert not tool.losses


def test_filters_and_counts(trace: Any, file: int, tmp_path: Path, me: tuple[str, ...]) -> None:
    """Each option shows or counts the calls that it should."""
    path = str(tmp_path / "file")
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    tools = {
        options: trace("syncsnoop", *me, *options)
        for options in (
            ("-x",), ("--path", "*/file"), ("-m", "1e-6"), ("-m", "1e6"),
            ("-c",), ("-c", "--per-file"), ("-c", "-x"),
        )
    }  # fmt: skip
    for _ in range(PRIME):
        os.fsync(other)
    calls = make_calls(file, path)
    for tool in tools.values():
        tool.end()
    os.close(other)

    made = [Seen("fsync", str(tmp_path / "other"), 0)] * PRIME + calls.made
    failed = [each for each in made if each.ret < 0]
    assert failed == shown(tools[("-x",)])
    assert [each for each in made if each.path == path] == shown(tools[("--path", "*/file")])
    assert made == shown(tools[("-m", "1e-6")])
    assert [] == shown(tools[("-m", "1e6")])
    for options, of_these in ((("-c",), made), (("-c", "-x"), failed)):
        names = [each.syscall for each in of_these]
        expected = {
            name: (names.count(name), sum(e.syscall == name and e.ret < 0 for e in of_these))
            for name in names
        }
        found = tools[options].json
        assert expected == {row["syscall"]: (row["calls"], row["failed"]) for row in found}
        assert {os.getpid()} == {row["pid"] for row in found}
        assert all(row["lasted"] > 0 for row in found)
    by_file = {(r["syscall"], r["file"]): r["calls"] for r in tools[("-c", "--per-file")].json}
    assert PRIME == by_file["fsync", "other"]
    assert [1, 1, 1, 1, 2] == [
        by_file[name, "file"]
        for name in ("fsync", "fdatasync", "syncfs", "sync_file_range", "msync")
    ]
    assert 1 == by_file["sync", ""]


def test_files_in_memory(trace: Any, tmp_path: Path, me: tuple[str, ...]) -> None:
    """An msync shows the file that is mapped, whichever of many areas it is in."""
    paths = [tmp_path / f"mapped-{number}" for number in range(3)]
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    for fd in fds:
        os.truncate(fd, mmap.PAGESIZE)
    areas = [(mapped(fds[number % 3]), str(paths[number % 3])) for number in range(AREAS)]
    tool = trace("syncsnoop", *me, "--path", "*/mapped-*")
    for address, _ in areas:
        assert 0 == LIBC.msync(address, mmap.PAGESIZE, MS_ASYNC)
    tool.end()
    for address, _ in areas:
        LIBC.munmap(address, mmap.PAGESIZE)
    for fd in fds:
        os.close(fd)

    assert [Seen("msync", path, 0) for _, path in areas] == shown(tool)


def test_calls_of_32_bit_programs(trace: Any, call_32: Any, rungs_of: Any) -> None:
    """Each 32-bit call, whose number means another one in 64 bits, shows with its file."""
    calls = {
        "compat:fsync": (118, 0),
        "compat:fdatasync": (148, 0),
        "compat:syncfs": (344, 0),
        "compat:sync_file_range": (314, 0, 0, 0, 0, 0),
        "compat:msync": (144, "buffer", 4096, MS_ASYNC),
        "compat:sync": (36,),
    }
    tools = [
        trace("syncsnoop", "--json", "--rung", f"sync={rung}", "--rung", f"enter={rung}")
        for rung in rungs_of("syncsnoop", "sync")
    ]
    child = call_32("", *calls.values())
    of_input = os.readlink("/proc/self/fd/0")
    for tool in tools:
        rows = [row for row in tool.end().json if row["pid"] == child]

        assert list(calls) == [row["syscall"] for row in rows]
        assert [of_input] * 4 == [row["path"] for row in rows[:4]]
        assert rows[4]["path"].startswith("[0x")
        assert rows[5]["path"] is None
        assert all(row["duration"] > 0 for row in rows)


# Calls fsync() in another thread, which then runs this again, as often as the argument says.
EXECS = """
import os, sys, threading
def run():
    os.fsync(os.open(".", os.O_RDONLY))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], str(left - 1), sys.argv[2]])
left = int(sys.argv[1])
if left:
    threading.Thread(target=run).start()
    threading.Event().wait()
"""


def test_threads_that_exec(trace: Any) -> None:
    """A thread that runs another program leaves no entry behind under its former number."""
    execs, room = 3, 1
    tool = trace(
        "syncsnoop", "--json", "--max-entries", str(room),
        "--", sys.executable, "-c", EXECS, str(execs), EXECS,
    ).ended()  # fmt: skip

    assert execs == len(tool.json)
    assert all(row["duration"] for row in tool.json)
    assert {} == tool.losses


def test_more_threads_than_room(trace: Any, me: tuple[str, ...]) -> None:
    """Calls of threads without an entry show without a duration; with --min-ms they are lost."""
    calls = 11
    small = (*me, "--max-entries", "1")
    every, slow = trace("syncsnoop", *small), trace("syncsnoop", *small, "--min-ms", "0.0001")
    LIBC.fsync(NOT_OPEN)
    thread = threading.Thread(target=lambda: [LIBC.fsync(NOT_OPEN) for _ in range(calls)])
    thread.start()
    thread.join()
    every.end()
    slow.end()

    durations = [row["duration"] for row in every.json]
    assert durations[0]
    assert [None] * calls == durations[1:]
    assert {} == every.losses
    assert durations[0] > 100
    assert 1 == len(slow.json)
    assert {"starts": calls} == slow.losses


def test_slow_disk(trace: Any, slow_disk: Any, file: int, me: tuple[str, ...]) -> None:
    """--min-ms shows or counts the calls that waited for a slow disk, and no others."""
    fd = os.open(slow_disk.path, os.O_RDWR)
    tool = trace("syncsnoop", *me, "--min-ms", "20")
    counting = trace("syncsnoop", *me, "--min-ms", "20", "-c", "--per-file")
    for number in range(5):
        LIBC.fsync(NOT_OPEN)
        os.pwrite(fd, b"x" * 512, number * 4096)
        os.fsync(fd)
    tool.end()
    os.close(fd)

    assert [Seen("fsync", slow_disk.path, 0)] * 5 == shown(tool)
    [row] = counting.end().json
    assert (slow_disk.name, 5, 0) == tuple(row[name] for name in ("file", "calls", "failed"))
    assert 5 * 20_000_000 <= row["lasted"]


def test_small_ring(trace: Any, me: tuple[str, ...]) -> None:
    """With a ring too small for a storm, rows and losses add up to the calls."""
    tool = trace("syncsnoop", *me, "--buffer-size", "8K")
    for _ in range(STORM):
        LIBC.fsync(NOT_OPEN)
    tool.end()
    rows, lost = tool.counted

    assert STORM - tool.skipped <= rows + lost <= STORM
    assert rows == len(tool.json)

# SPDX-License-Identifier: BSD-2-Clause
"""Calls that ask for the state of a file show as they were made here."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

STORM = 5003
AT_FDCWD, NOT_OPEN = -100, 1 << 20
NOFOLLOW, EACCESS, NO_AUTOMOUNT, EMPTY_PATH, DONT_SYNC = 0x100, 0x200, 0x800, 0x1000, 0x4000
LIBC = ctypes.CDLL(None, use_errno=True)
# As the kernel's tables of system calls have them. arm64 has no calls without "at".
NUMBERS = {
    "x86_64": {
        "stat": 4, "fstat": 5, "lstat": 6, "access": 21, "ustat": 136, "statfs": 137,
        "fstatfs": 138, "newfstatat": 262, "faccessat": 269, "statx": 332,
    },
    "aarch64": {
        "statfs": 43, "fstatfs": 44, "faccessat": 48, "newfstatat": 79, "fstat": 80, "statx": 291,
    },
}[platform.machine()]  # fmt: skip
NUMBERS.update(faccessat2=439, statmount=457, file_getattr=468)
ACCESS = {"access", "faccessat", "faccessat2"}


class Seen(NamedTuple):
    """What a row tells that does not depend on time."""

    syscall: str
    path: str | None
    flags: int
    ret: int


class Calls:
    """Makes calls, and keeps what rows should tell of them."""

    def __init__(self) -> None:
        self.made: list[Seen] = []
        self.as_given: list[Seen] = []  # the same with the path that the call was given, if any
        self.took: list[int] = []  # ns, around each call
        self._buffer = ctypes.create_string_buffer(4096)

    def __call__(self, name: str, path: str | None, flags: int, *arguments: Any) -> None:
        """Make a call, unless this machine lacks it; "buffer" stands for an address."""
        if name not in NUMBERS:
            return
        given = [os.fsencode(a) if isinstance(a, str) and a != "buffer" else a for a in arguments]
        given = [self._buffer if a == "buffer" else a for a in given]
        given = [ctypes.c_long(a) if isinstance(a, int) else a for a in given]
        begin = time.monotonic_ns()
        ret = LIBC.syscall(NUMBERS[name], *given)
        self.took.append(time.monotonic_ns() - begin)
        self.made.append(Seen(name, path, flags, -ctypes.get_errno() if ret < 0 else ret))
        paths = [a for a in arguments if isinstance(a, str) and a not in ("buffer", "")]
        self.as_given.append(self.made[-1]._replace(path=paths[0] if paths else path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file or a folder meanwhile."""
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a file, and a link to it."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    return tmp_path


def make_calls(folder: Path) -> Calls:
    """Make a call of each kind, on a file in a folder and in other ways."""
    file, link, missing = (str(folder / name) for name in ("file", "link", "missing"))
    device = os.stat(file).st_dev
    calls = Calls()
    with opened(folder) as at, opened(Path(file)) as fd:
        calls("newfstatat", f"{folder}/begin", 0, AT_FDCWD, f"{folder}/begin", "buffer", 0)
        calls("stat", file, 0, file, "buffer")
        calls("stat", missing, 0, missing, "buffer")
        calls("lstat", link, 0, link, "buffer")
        calls("fstat", file, 0, fd, "buffer")
        calls("fstat", None, 0, NOT_OPEN, "buffer")
        calls("fstat", None, 0, -1, "buffer")
        calls("newfstatat", file, 0, AT_FDCWD, file, "buffer", 0)
        calls("newfstatat", link, NOFOLLOW, at, "link", "buffer", NOFOLLOW)
        calls("newfstatat", missing, NO_AUTOMOUNT, at, "missing", "buffer", NO_AUTOMOUNT)
        calls("newfstatat", file, EMPTY_PATH, fd, "", "buffer", EMPTY_PATH)
        calls("newfstatat", str(folder), EMPTY_PATH, at, "", "buffer", EMPTY_PATH)
        calls("newfstatat", os.getcwd(), EMPTY_PATH, AT_FDCWD, "", "buffer", EMPTY_PATH)
        calls("newfstatat", "", 0, AT_FDCWD, "", "buffer", 0)
        calls("newfstatat", "?/file", 0, NOT_OPEN, "file", "buffer", 0)
        calls("statx", file, DONT_SYNC, at, "file", DONT_SYNC, 0x7FF, "buffer")
        calls("statx", file, EMPTY_PATH, fd, "", EMPTY_PATH, 0x7FF, "buffer")
        calls("statx", file, EMPTY_PATH, fd, None, EMPTY_PATH, 0x7FF, "buffer")
        calls("statfs", str(folder), 0, str(folder), "buffer")
        calls("fstatfs", file, 0, fd, "buffer")
        calls("ustat", None, 0, device, "buffer")
        calls("statmount", None, 0, "buffer", "buffer", 4096, 0)
        calls("file_getattr", file, NOFOLLOW, at, "file", "buffer", 24, NOFOLLOW)
        calls("access", file, 0, file, os.R_OK)
        calls("faccessat", file, 0, at, "file", os.R_OK)
        calls("faccessat2", missing, EACCESS, at, "missing", os.W_OK, EACCESS)
    return calls


def shown(rows: list[dict[str, Any]]) -> list[Seen]:
    """Return what rows tell, from the first of the calls on: Python makes others before them."""
    paths = [row["path"] or "" for row in rows]
    [begin] = [at for at, path in enumerate(paths) if path.endswith("/begin")]
    return [Seen(*(row[name] for name in Seen._fields)) for row in rows[begin:]]


def test_each_rung_shows_every_call(trace: Any, folder: Path, rungs_of: Any) -> None:
    """Every way of tracing shows each call once, with its file, its flags, result and time.

    bpftrace's statsnoop.bt lacks newfstatat and newfstat, which are what C libraries call.
    """
    rungs = rungs_of("statsnoop", "stat")
    assert len(rungs) >= 2
    tools = [
        trace(
            "statsnoop", "-v", "--access", "-p", str(os.getpid()), "--json",
            "--rung", f"stat={rung}", "--rung", f"enter={rung}",
        )
        for rung in rungs
    ]  # fmt: skip
    calls = make_calls(folder)
    assert {0, -errno.ENOENT, -errno.EBADF} <= {each.ret for each in calls.made}
    for tool in tools:
        rows = tool.end().json

        assert calls.made == shown(rows)
        times = [row["duration"] for row in rows[-len(calls.made) :]]
        assert [] == [took for took, most in zip(times, calls.took) if not 0 < took <= most]
        assert not tool.losses


def test_filters(trace: Any, folder: Path, called: Any, me: tuple[str, ...]) -> None:
    """Each option shows the calls that it should, and without -v a path shows as it was given."""
    file = str(folder / "file")
    with called(b"stat-caller"):
        tools = {
            options: trace("statsnoop", *me, *options)
            for options in ((), ("-x",), ("-n", "stat-caller"), ("-n", "other"), ("--path", file))
        }
        calls = make_calls(folder)
        rows = {options: tool.end().json for options, tool in tools.items()}

    found = shown(rows[()])
    assert [each for each in calls.as_given if each.syscall not in ACCESS] == found
    assert {None} == {row["duration"] for row in rows[()]}
    assert [each for each in found if each.ret < 0] == shown(rows[("-x",)])
    assert found == shown(rows[("-n", "stat-caller")])
    assert [] == rows[("-n", "other")]
    # Python looks at the file, too.
    of_file = [row["syscall"] for row in rows[()] if row["path"] == file]
    assert of_file == [row["syscall"] for row in rows[("--path", file)]]
    assert {file} == {row["path"] for row in rows[("--path", file)]}


def name_in_proc(fd: int) -> str:
    """Return what /proc calls the file behind a descriptor, deleted or not."""
    return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")


def deep_folder(top: Path, name: str, depth: int) -> int:
    """Make a folder so deep below another, and return its descriptor."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    return at


def test_files_behind_descriptors(trace: Any, tmp_path: Path, me: tuple[str, ...]) -> None:
    """A file behind a descriptor shows by its whole path, or as in /proc if it is in no folder.

    A path of more names than a tool keeps shows its end, and is marked as cut.
    """
    deleted = tmp_path / "deleted"
    fds = [
        os.open(deleted, os.O_CREAT | os.O_RDWR),
        *(os.open(path, os.O_RDONLY) for path in ("/", "/proc/self/status", "/dev/null", "/etc")),
        *os.pipe(),
        *(each.detach() for each in socket.socketpair()),
        LIBC.eventfd(0, 0),
        LIBC.epoll_create(1),
        os.memfd_create("in-memory"),
        deep_folder(tmp_path, "n" * 255, 14),
    ]
    deleted.unlink()
    too_deep = deep_folder(tmp_path, "deep", 97)
    tool = trace("statsnoop", *me, "--path", "*")
    for fd in (*fds, too_deep):
        os.fstat(fd)
    tool.end()
    *rows, cut = tool.json[-len(fds) - 1 :]

    expected = [name_in_proc(fd) for fd in fds]
    assert {"pipe:", "socket:", "anon_inode:", "/"} <= {
        name[: name.find(":") + 1] or name[:1] for name in expected
    }
    assert expected == [row["path"] for row in rows]
    assert cut["path_truncated"]
    assert 40 < cut["path"].count("/deep")
    assert {"...", "deep"} == set(cut["path"].split("/"))
    for fd in (*fds, too_deep):
        os.close(fd)


def test_calls_of_32_bit_programs(trace: Any, call_32: Any, folder: Path, rungs_of: Any) -> None:
    """Each 32-bit call, whose number means another one in 64 bits, shows with its file."""
    file = str(folder / "file")
    at_cwd = 2**32 + AT_FDCWD
    calls = {
        "compat:oldstat": (18, "path", "buffer"),
        "compat:oldlstat": (84, "path", "buffer"),
        "compat:oldfstat": (28, 0, "buffer"),
        "compat:stat": (106, "path", "buffer"),
        "compat:lstat": (107, "path", "buffer"),
        "compat:fstat": (108, 0, "buffer"),
        "compat:stat64": (195, "path", "buffer"),
        "compat:lstat64": (196, "path", "buffer"),
        "compat:fstat64": (197, 0, "buffer"),
        "compat:fstatat64": (300, at_cwd, "path", "buffer", NOFOLLOW),
        "compat:statx": (383, at_cwd, "path", NOFOLLOW, 0x7FF, "buffer"),
        "compat:statfs": (99, "path", "buffer"),
        "compat:fstatfs": (100, 0, "buffer"),
        "compat:statfs64": (268, "path", 84, "buffer"),
        "compat:fstatfs64": (269, 0, 84, "buffer"),
        "compat:ustat": (62, 0, "buffer"),
        "compat:access": (33, "path", os.R_OK),
        "compat:faccessat": (307, at_cwd, "path", os.R_OK),
        "compat:faccessat2": (439, at_cwd, "path", os.R_OK, EACCESS),
    }
    tools = [
        trace("statsnoop", "--access", "--json", "--rung", f"stat={rung}")
        for rung in rungs_of("statsnoop", "stat")
    ]
    child = call_32(file, *calls.values())
    flags = {"compat:fstatat64": NOFOLLOW, "compat:statx": NOFOLLOW, "compat:faccessat2": EACCESS}
    expected = []
    for name, (_, *arguments) in calls.items():
        path = file if "path" in arguments else name_in_proc(0)
        expected.append((name, None if "ustat" in name else path, flags.get(name, 0)))
    for tool in tools:
        rows = [row for row in tool.end().json if row["pid"] == child]

        found = [(row["syscall"], row["path"], row["flags"]) for row in rows]
        assert expected == [each for each in found if each[0].startswith("compat:")]


def test_small_ring(trace: Any, folder: Path, me: tuple[str, ...]) -> None:
    """With a ring too small for a storm, rows and losses add up to the calls."""
    tool = trace("statsnoop", *me, "--path", "*/file", "--buffer-size", "8K")
    for _ in range(STORM):
        os.stat(folder / "file")
    tool.end()
    rows, lost = tool.counted

    assert STORM - tool.skipped <= rows + lost <= STORM
    assert rows == len(tool.json)


def test_columns(trace: Any, folder: Path) -> None:
    """A table has the columns that the options ask for, and each fits its header."""
    mine = ("-p", str(os.getpid()))
    tools = {
        options: trace("statsnoop", *mine, *options)
        for options in ((), ("-s", "-L", "-U"), ("-v",))
    }
    with contextlib.suppress(FileNotFoundError):
        os.stat(folder / "missing", follow_symlinks=False)
    rows = {options: tool.end().rows[-1] for options, tool in tools.items()}
    headers = {options: tool.out.splitlines()[0].split() for options, tool in tools.items()}

    plain = dict(zip(headers[()], rows[()]))
    assert ["PID", "COMM", "RET", "ERR", "PATH"] == headers[()]
    assert ["-1", "ENOENT", str(folder / "missing")] == [plain[n] for n in ("RET", "ERR", "PATH")]
    assert {"SYSCALL", "MS", "UID"} == {*headers[("-s", "-L", "-U")]} - {*headers[()]}
    full = dict(zip(headers[("-v",)], rows[("-v",)]))
    assert ("newfstatat", "AT_SYMLINK_NOFOLLOW") == (full["SYSCALL"], full["FLAGS"])
    assert 0 <= float(full["MS"]) < 60_000


@pytest.fixture
def me() -> tuple[str, ...]:
    """Give options that select this process."""
    return ("-p", str(os.getpid()), "--json")

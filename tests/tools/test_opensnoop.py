# SPDX-License-Identifier: BSD-2-Clause
"""Opens made here show as they were made."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel._shim import lib

from tests.tools.conftest import by_io_uring

if TYPE_CHECKING:
    from collections.abc import Iterable

PRIME = 23


def test_each_rung_shows_every_open(trace: Any, tmp_path: Path, rungs_of: Any) -> None:
    """Every way of tracing gives the same rows: each open once, with its descriptor."""
    rungs = rungs_of("opensnoop", "open")
    assert len(rungs) >= 2
    for rung in rungs:
        tool = trace("opensnoop", "-p", str(os.getpid()), "--json", "--rung", f"open={rung}")
        expected = []
        for number in range(PRIME):
            path = str(tmp_path / f"{rung}-{number}")
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            os.close(fd)
            expected.append((path, fd, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640))
        tool.end()

        shown = [(e["path"], e["ret"], e["flags"], e["mode"]) for e in tool.json]
        assert expected == [open_ for open_ in shown if str(tmp_path) in open_[0]]
        assert not tool.summary["losses"].keys() - {"skipped"}  # runs, perhaps of other calls


@pytest.mark.parametrize("glob", ["*.log", "app*", "*mid*", "a?p.log", "app.log"])
def test_globs(trace: Any, tmp_path: Path, glob: str) -> None:
    """A glob shows the names that fnmatch matches, and no others."""
    import fnmatch

    names = ["app.log", "app.txt", "amidst", "x.log", "axp.log", "unrelated"]
    tool = trace("opensnoop", "-p", str(os.getpid()), "-n", glob, "--json")
    for name in names:
        (tmp_path / name).touch()
    tool.end()

    assert fnmatch.filter(names, glob) == [Path(e["path"]).name for e in tool.json]


def test_full_path_of_dirfd(trace: Any, tmp_path: Path) -> None:
    """A path relative to a descriptor is completed from that descriptor."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").touch()
    fd = os.open(tmp_path / "deep", os.O_RDONLY)
    tool = trace("opensnoop", "-p", str(os.getpid()), "-F", "--json", "-n", "file")
    os.close(os.open("file", os.O_RDONLY, dir_fd=fd))
    tool.end()
    os.close(fd)

    assert [str(tmp_path / "deep/file")] == [e["path"] for e in tool.json]


def open_by_io_uring(path: str, flags: int) -> int:
    """Let the kernel open a file without a system call for it; return the descriptor."""
    open_at, at_cwd = 18, -100
    name = ctypes.create_string_buffer(os.fsencode(path))
    return by_io_uring(open_at, at_cwd, ctypes.addressof(name), flags)


def test_opens_by_io_uring(trace: Any, tmp_path: Path, rungs_of: Any) -> None:
    """--all shows what io_uring opens, once, with the process that asked for it."""
    if os.geteuid() or lib.shim_refuses_trampolines():
        pytest.skip("needs fexit")
    [rung] = rungs_of("opensnoop", "all", "--all")
    chosen = ["--all", "--rung", f"all={rung}", "-p", str(os.getpid()), "--json"]
    tool = trace("opensnoop", *chosen)
    paths = [tmp_path / f"file-{number}" for number in range(PRIME)]
    fds = []
    for path in paths[:-1]:
        path.touch()
        fds.append(open_by_io_uring(str(path), os.O_RDWR))
        os.close(fds[-1])
    fds.append(open_by_io_uring(str(paths[-1]), os.O_RDWR))
    tool.end()

    assert [fd >= 0 for fd in fds] == [True] * (PRIME - 1) + [False]
    # The descriptor is made elsewhere; what fails is known here.
    expected = [(str(path), None) for path in paths[:-1]] + [(str(paths[-1]), -errno.ENOENT)]
    shown = [(e["path"], e["ret"]) for e in tool.json if e["flags"] & os.O_RDWR]
    assert shown == [each for each in expected if each in shown]
    assert len(expected) - len(shown) <= tool.skipped


def test_opens_by_32_bit_calls(trace: Any, call_32: Any, tmp_path: Path, rungs_of: Any) -> None:
    """A 32-bit call, whose number means another one in 64 bits, shows like any other."""
    creat, open_, open_at, at_cwd = 8, 5, 295, 0xFFFFFF9C
    for rung in rungs_of("opensnoop", "open"):
        path = str(tmp_path / rung)
        tool = trace("opensnoop", "--path", path, "--json", "--rung", f"open={rung}")
        child = call_32(
            path,
            (creat, "path", 0o600),
            (open_, "path", os.O_RDWR),
            (open_at, at_cwd, "path", os.O_WRONLY),
        )
        tool.end()

        creating = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        expected = [(child, flags) for flags in (creating, os.O_RDWR, os.O_WRONLY)]
        shown = [(e["pid"], e["flags"] & ~os.O_LARGEFILE & ~0o100000) for e in tool.json]
        assert expected == shown


# The system call that is the first argument of a function, with the next three.
_ANY_CALL = bytes.fromhex("4889f8 4889f7 4889d6 4889ca 0f05 c3")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the machine code of x86")
def test_number_with_upper_half(trace: Any, rungs_of: Any, tmp_path: Path) -> None:
    """Garbage above the lower half of a call's number hides no open.

    Where the kernel looks at all of it, it is no open.
    """
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page[: len(_ANY_CALL)] = _ANY_CALL
        code = ctypes.c_char.from_buffer(page)
        call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_uint64] * 4)(ctypes.addressof(code))
        path = os.fsencode(tmp_path / "missing")
        for rung in rungs_of("opensnoop", "open"):
            tool = trace("opensnoop", "--path", path, "--json", "--rung", f"open={rung}")
            address = ctypes.cast(ctypes.c_char_p(path), ctypes.c_void_p).value
            plain, garbled = (
                call(number, address, os.O_RDONLY, 0) for number in (2, 0xDEADBEEF << 32 | 2)
            )
            tool.end()

            assert -errno.ENOENT == plain
            opened = [ret for ret in (plain, garbled) if ret != -errno.ENOSYS]
            assert opened == [row["ret"] for row in tool.json]
        del code, call  # the page is closed only then


# How each is written by those who open so, whatever bits of others it has.
NAMES_OF_FLAGS = {
    os.O_RDONLY: "O_RDONLY",
    os.O_WRONLY | os.O_DSYNC: "O_WRONLY|O_DSYNC",
    os.O_WRONLY | os.O_SYNC: "O_WRONLY|O_SYNC",
    os.O_DIRECTORY: "O_DIRECTORY",
    os.O_RDWR | os.O_TMPFILE: "O_RDWR|O_TMPFILE",
    os.O_NONBLOCK: "O_NONBLOCK",
    os.O_RDWR | os.O_CREAT | os.O_EXCL: "O_RDWR|O_CREAT|O_EXCL",
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC: "O_WRONLY|O_CREAT|O_TRUNC",
    os.O_WRONLY | os.O_APPEND | os.O_SYNC: "O_WRONLY|O_APPEND|O_SYNC",
    os.O_PATH | os.O_NOFOLLOW: "O_NOFOLLOW|O_PATH",
}


def open_each(folder: Path, every: Iterable[int]) -> None:
    """Open a folder with each of some flags, whether that succeeds or not."""
    for flags in every:
        with contextlib.suppress(OSError):
            os.close(os.open(folder, flags | os.O_CLOEXEC, 0o600))


def test_names_of_flags(trace: Any, tmp_path: Path) -> None:
    """A flag that holds bits of others shows by its own name, one with two names by the usual."""
    columns = ("--columns", "flags")
    tool = trace("opensnoop", "-p", str(os.getpid()), "--path", str(tmp_path), *columns)
    open_each(tmp_path, NAMES_OF_FLAGS)
    tool.end()

    # O_RDONLY has no bits: it shows only where there is no flag.
    expected = [
        {*names.split("|"), "O_CLOEXEC"} - {"O_RDONLY"} for names in NAMES_OF_FLAGS.values()
    ]
    assert expected == [{*row[0].split("|")} for row in tool.rows]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("-f", "O_TMPFILE"), ("O_RDWR|O_TMPFILE",)),
        (("-f", "O_SYNC"), ("O_WRONLY|O_SYNC", "O_WRONLY|O_APPEND|O_SYNC")),
        (("-f", "O_NONBLOCK"), ("O_NONBLOCK",)),
        (("-f", "O_TMPFILE", "-f", "O_TRUNC"), ("O_RDWR|O_TMPFILE", "O_WRONLY|O_CREAT|O_TRUNC")),
        (("-f", "O_RDONLY", "-f", "O_EXCL"),
         ("O_RDONLY", "O_DIRECTORY", "O_NONBLOCK", "O_NOFOLLOW|O_PATH", "O_RDWR|O_CREAT|O_EXCL")),
        (("-f", "O_RDWR"), ("O_RDWR|O_TMPFILE", "O_RDWR|O_CREAT|O_EXCL")),
        (("-f", "O_CREAT", "-f", "O_TMPFILE", "--write-only"),
         ("O_RDWR|O_TMPFILE", "O_RDWR|O_CREAT|O_EXCL", "O_WRONLY|O_CREAT|O_TRUNC")),
        (("--write-only", "-f", "O_DIRECTORY"), ("O_RDWR|O_TMPFILE",)),
    ],
)  # fmt: skip
def test_flags_wanted(
    trace: Any, tmp_path: Path, options: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    """-f shows opens that have all bits of one of the flags; --write-only narrows them down."""
    chosen = ("-p", str(os.getpid()), "--path", str(tmp_path), "--json")
    tool = trace("opensnoop", *chosen, *options)
    open_each(tmp_path, NAMES_OF_FLAGS)
    tool.end()

    expected = [flags for flags, names in NAMES_OF_FLAGS.items() if names in wanted]
    assert len(wanted) == len(expected)
    assert sorted(expected) == sorted(e["flags"] & ~os.O_CLOEXEC for e in tool.json)


def test_flag_without_bits_is_refused(run: Any) -> None:
    """A flag that has no bits on this machine cannot be told from O_RDONLY: it is no flag."""
    assert 0 == os.O_LARGEFILE
    with run("opensnoop", "-f", "O_LARGEFILE") as tool:
        tool.ended()

    assert 2 == tool.code
    assert "no open flag" in tool.err


def open_in(folder: str, path: str, *, is_root: bool = False) -> int:
    """Open a path in a process of its own, in a folder or in that folder made its root."""
    child = os.fork()
    if not child:
        os.chdir(folder)
        if is_root:
            os.chroot(".")
        with contextlib.suppress(OSError):
            os.open(path, os.O_RDONLY)
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_full_path_from_a_root(trace: Any, tmp_path: Path, rungs_of: Any) -> None:
    """A path that is relative to a root is completed, whether the root is the machine's or not."""
    (tmp_path / "known").touch()
    for rung in rungs_of("opensnoop", "open"):
        tool = trace("opensnoop", "-F", "--json", "-n", "known", "--rung", f"open={rung}")
        children = [
            open_in("/", str(tmp_path / "known")[1:]),
            open_in(str(tmp_path), "known", is_root=True),
            open_in(str(tmp_path), "known"),
        ]
        root = os.open("/", os.O_RDONLY)
        os.close(os.open(str(tmp_path / "known")[1:], os.O_RDONLY, dir_fd=root))
        os.close(root)
        tool.end()

        paths = [str(tmp_path / "known"), "/known"]
        expected = list(zip([*children, os.getpid()], [paths[0], paths[1], paths[0], paths[0]]))
        assert expected == [(e["pid"], e["path"]) for e in tool.json]


def test_relative_paths_stay_as_they_are(trace: Any, tmp_path: Path) -> None:
    """Without -F a path shows as the process gave it, in a root too."""
    (tmp_path / "known").touch()
    tool = trace("opensnoop", "--json", "-n", "known")
    children = [open_in("/", str(tmp_path / "known")[1:]), open_in(str(tmp_path), "known")]
    tool.end()

    expected = [(children[0], str(tmp_path / "known")[1:]), (children[1], "known")]
    assert expected == [(e["pid"], e["path"]) for e in tool.json]

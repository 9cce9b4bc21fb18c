# SPDX-License-Identifier: BSD-2-Clause
"""Operations made by a process are counted, each once, whatever counts them."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel.runtime.host import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FUNCTIONS = ("fentry", "kprobe_multi", "kprobe")
READS, READVS, WRITES, WRITEVS, FSYNCS, FDATASYNCS = 23, 5, 17, 3, 7, 2
CREATES, OPENS, FOLDERS, FAILURES = 11, 13, 19, 29
STATS, RENAMES, LINKS, SYMLINKS, READDIRS = 31, 37, 41, 43, 47
EXPECTED = {
    "read": READS + READVS,
    "write": WRITES + WRITEVS,
    "fsync": FSYNCS + FDATASYNCS,
    "open": CREATES + OPENS,
    "create": CREATES,
    "unlink": CREATES + LINKS + SYMLINKS,
    "mkdir": FOLDERS,
    "rmdir": FOLDERS,
}
LIBC = ctypes.CDLL(None)
GETDENTS64 = next(key >> 1 for key, name in syscalls.names().items() if name == "getdents64")
EXTRA = {
    "stat": STATS,
    "rename": RENAMES,
    "link": LINKS,
    "symlink": SYMLINKS,
    "readdir": READDIRS,
}


def repeat(times: int, do: Callable[..., Any], *arguments: Any) -> None:
    """Do something so many times."""
    for _ in range(times):
        do(*arguments)


def fail(do: Callable[..., Any], *arguments: Any) -> None:
    """Do something that fails."""
    with pytest.raises(OSError):
        do(*arguments)


def write_and_read(path: str) -> None:
    """Create a file, write to it and read from it; open it some more times."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    repeat(WRITES, os.write, fd, b"x" * 100)
    repeat(WRITEVS, os.writev, fd, [b"x", b"y"])
    repeat(FSYNCS, os.fsync, fd)
    repeat(FDATASYNCS, os.fdatasync, fd)
    os.close(fd)
    # O_CREAT creates nothing where there is something.
    fd = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    repeat(READS, os.pread, fd, 10, 0)
    repeat(READVS, os.readv, fd, [bytearray(10)])
    os.close(fd)
    for _ in range(OPENS - 2):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))


def list_folder(path: str) -> None:
    """Open a folder, and ask for its entries."""
    fd = os.open(path, os.O_RDONLY)
    entries = ctypes.create_string_buffer(32768)
    repeat(READDIRS, LIBC.syscall, GETDENTS64, fd, entries, len(entries))
    os.close(fd)


def make_and_remove(folder: str) -> None:
    """Make folders, links and symbolic links, and remove them."""
    for _ in range(FOLDERS):
        os.mkdir(f"{folder}/folder")
        os.rmdir(f"{folder}/folder")
    for _ in range(LINKS):
        os.link(f"{folder}/0", f"{folder}/link")
        os.unlink(f"{folder}/link")
    for _ in range(SYMLINKS):
        os.symlink(f"{folder}/0", f"{folder}/symlink")
        os.unlink(f"{folder}/symlink")


def act(path: Path) -> None:
    """Do each thing as often as expected, and what fails before it comes to a file system."""
    folder = os.fspath(path)
    write_and_read(f"{folder}/0")
    for number in range(1, CREATES):
        os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY, 0o600))
    list_folder(folder)
    for fails in (os.rmdir, os.unlink, os.listdir):
        repeat(FAILURES, fail, fails, f"{folder}/no-such/thing")
    repeat(FAILURES, fail, os.read, -1, 1)
    make_and_remove(folder)
    repeat(STATS, os.lstat, f"{folder}/0")
    for number in range(RENAMES):
        os.rename(f"{folder}/0-{number}" if number else f"{folder}/0", f"{folder}/0-{number + 1}")
    for number in range(1, CREATES):
        os.unlink(f"{folder}/{number}")
    os.unlink(f"{folder}/0-{RENAMES}")


class Actor:
    """A process that acts once it is told to, and then ends."""

    def __init__(self, folder: Path) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        self.pid = os.fork()
        if not self.pid:
            try:
                # Not by a pipe, which it would read.
                signal.sigwait([signal.SIGUSR1])
                act(folder)
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])

    def go(self) -> None:
        """Let it act, and wait until it has ended."""
        os.kill(self.pid, signal.SIGUSR1)
        os.waitpid(self.pid, 0)
        self.pid = 0


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[[], Actor]]:
    """Give a function that starts a process that will act."""
    actors: list[Actor] = []

    def start() -> Actor:
        folder = tmp_path / str(len(actors))
        folder.mkdir()
        actors.append(Actor(folder))
        return actors[-1]

    yield start
    for actor in actors:
        if actor.pid:
            os.kill(actor.pid, signal.SIGKILL)
            os.waitpid(actor.pid, 0)


def sums(tool: Any) -> dict[str, int]:
    """Return the counts of all reports together."""
    rows = tool.json
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def test_each_rung_counts_every_operation(trace: Any, rungs_of: Any, hire: Any) -> None:
    """Every way of tracing gives the same counts."""
    rungs = rungs_of("vfsstat", "calls", "--extra")
    assert rungs[-2:] == ["tp_btf", "raw_tp"]
    for rung in rungs:
        actor = hire()
        forced = [f"--rung={ladder}={rung}" for ladder in ("calls", "extra")]
        tool = trace("vfsstat", "-p", str(actor.pid), "--extra", "--json", *forced)
        actor.go()
        tool.ended()

        found = sums(tool)
        expected = {**EXPECTED, **EXTRA}
        counted = {name: found[name] for name in expected}
        assert expected == tool.completed(counted, expected), rung
        assert {} == tool.losses
        assert sum(counted.values()) == tool.summary["events"]
        assert ("approximate" in tool.err) == (rung not in FUNCTIONS)


def test_functions_are_preferred(rungs_of: Any) -> None:
    """Where the kernel lets programs attach to functions, that is how they are counted."""
    if os.geteuid():
        pytest.skip("needs root")
    rungs = rungs_of("vfsstat", "calls")
    if not Path("/sys/bus/event_source/devices/kprobe").exists():
        pytest.skip("needs kprobes")
    assert {"fentry", "kprobe"} <= set(rungs)
    assert "fentry" == rungs[0]


def test_without_extra(trace: Any, hire: Any) -> None:
    """Unless they are asked for, the other operations are neither shown nor counted."""
    actor = hire()
    tool = trace("vfsstat", "-p", str(actor.pid), "--json")
    actor.go()
    tool.ended()

    found = sums(tool)
    assert {"time", "interval", *EXPECTED} == set(found)
    assert EXPECTED == tool.completed({name: found[name] for name in EXPECTED}, EXPECTED)
    assert sum(found[name] for name in EXPECTED) == tool.summary["events"]


def test_rates(trace: Any, hire: Any) -> None:
    """The table has the rate of each operation, per second of the time that it tells."""
    actor = hire()
    tool = trace("vfsstat", "-p", str(actor.pid), "-t")
    actor.go()
    tool.ended()

    ((seconds, _, *rates),) = tool.rows
    # Rates are rounded to the unit, times to the microsecond.
    for rate, count in zip(map(float, rates), EXPECTED.values()):
        off = 0.51 * float(seconds) + 1e-6 * rate
        assert count == pytest.approx(rate * float(seconds), abs=off)


def test_intervals_add_up(trace: Any, hire: Any) -> None:
    """Each operation is in exactly one report, and a header stands above all of them."""
    actor = hire()
    tool = trace("vfsstat", "-p", str(actor.pid), "0.02", "--json")
    other = trace("vfsstat", "-p", str(actor.pid), "0.02")
    tool.line()
    actor.go()
    tool.ended()
    other.ended()

    found = sums(tool)
    assert EXPECTED == tool.completed({name: found[name] for name in EXPECTED}, EXPECTED)
    assert 1 == other.out.count("READ/s")
    times = [row["time"] for row in tool.json]
    assert times == sorted(set(times))


def test_interval_and_count(run: Any) -> None:
    """An interval and a count give so many rows."""
    with run("vfsstat", "0.1", "3") as tool:
        tool.ended()

    assert 0 == tool.code
    assert 3 == len(tool.rows)


def test_library(rungs_of: Any, hire: Any) -> None:
    """The library gives a row for each reading."""
    if not rungs_of("vfsstat", "calls"):
        pytest.skip("needs root")
    actor = hire()
    with tracewheel.vfsstat.trace(pid=actor.pid) as tracing:
        (before,) = tracing.read()
        actor.go()
        (row,) = tracing.read()
        skipped = tracing.losses().get("skipped", 0)

    assert {0} == {getattr(before, name) for name in EXPECTED}
    for name, count in EXPECTED.items():
        assert 0 <= count - getattr(row, name) <= skipped

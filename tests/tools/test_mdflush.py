# SPDX-License-Identifier: BSD-2-Clause
"""Flushes of arrays made here show once each, whatever the array makes of them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.arrays import load_module, start_array, stop_array, unused_name
from tests.events import flush
from tests.tools.conftest import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FLUSHES, OTHERS = 23, 7
MINE = str(os.getpid())
SYNC = "import os, sys; [os.fsync(os.open(sys.argv[1], os.O_RDWR)) for _ in range({})]"
FSYNC = {"x86_64": "74", "aarch64": "82"}
FLUSH_FIELD = 15  # of a disk's statistics: the number of flushes that it has done


@pytest.fixture
def new_array(until: Callable[[Any], None]) -> Iterator[Callable[..., Disk]]:
    """Give a function that makes an array of a level of some disks."""
    load_module("md-mod")
    names: list[str] = []

    def make(level: str, disks: list[Disk], name: str = "") -> Disk:
        load_module(level)
        names.append(start_array(level, [disk.name for disk in disks], name))
        array = Disk(f"/dev/{names[-1]}")
        until(Path(array.path).exists)
        array.read(1)  # whoever opens it first has the kernel look for partitions
        return array

    yield make
    for name in names:
        stop_array(name)
        until(lambda name=name: not [*Path("/sys/block", name).glob("slaves/*")])


@pytest.fixture
def members(new_disk: Callable[[], Disk]) -> list[Disk]:
    """Give two disks for an array."""
    return [new_disk(), new_disk()]


@pytest.fixture
def mirror(new_array: Any, members: list[Disk]) -> Disk:
    """Give a RAID 1."""
    array: Disk = new_array("raid1", members)
    return array


@pytest.fixture
def calls_of_md() -> Iterator[Callable[[], int]]:
    """Give a function that tells how often the kernel has called md_flush_request()."""
    tracing = Path("/sys/kernel/tracing")
    if not (tracing / "kprobe_events").exists():
        pytest.skip("needs kprobes and tracefs")
    load_module("md-mod")

    def command(text: str) -> None:
        # Python would look for the end of a file that is opened by "a", and v7 has none here.
        fd = os.open(tracing / "kprobe_events", os.O_WRONLY | os.O_APPEND)
        os.write(fd, text.encode())
        os.close(fd)

    command("p:tracewheel/md_flush md_flush_request")
    enabled = tracing / "events/tracewheel/md_flush/enable"
    enabled.write_text("1")

    def count() -> int:
        lines = (tracing / "kprobe_profile").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == "md_flush")

    yield count
    enabled.write_text("0")
    command("-:tracewheel/md_flush")


def flushes_of(disk: Disk) -> int:
    """Return how many flushes a disk has done."""
    return int((disk.settings / "stat").read_text().split()[FLUSH_FIELD])


def flush_often(disk: Disk) -> list[int]:
    """Flush a disk; return for how many ns each call waited."""
    took = []
    with open(disk.path, "r+b") as file:
        for _ in range(FLUSHES):
            begin = time.monotonic_ns()
            os.fsync(file.fileno())
            took.append(time.monotonic_ns() - begin)
    return took


def flush_in_a_child(disk: Disk) -> int:
    """Let another process flush a disk a few times; return its id."""
    with subprocess.Popen([sys.executable, "-c", SYNC.format(OTHERS), disk.path]) as child:
        pass
    assert 0 == child.returncode
    return child.pid


def shown(tool: Any, *names: str) -> list[Any]:
    """Return these members of each row."""
    return [tuple(row[name] for name in names) for row in tool.json]


def test_each_rung_shows_every_flush(
    trace: Any, rungs_of: Any, mirror: Disk, members: list[Disk], calls_of_md: Any
) -> None:
    """By every way of tracing each fsync of an array is one row, as the kernel counts them."""
    for rung in rungs_of("mdflush", "bio_start"):
        forced = [f"--rung=bio_start={rung}", f"--rung=bio_end={rung}"]
        tool = trace("mdflush", "--json", *forced)
        before = [calls_of_md(), *map(flushes_of, members)]
        took = flush_often(mirror)
        after = [calls_of_md(), *map(flushes_of, members)]
        tool.end()

        assert [FLUSHES] * 3 == [late - early for late, early in zip(after, before)]
        comm = Path("/proc/self/comm").read_text().rstrip("\n")
        expected = (os.getpid(), os.getpid(), os.getuid(), comm, mirror.name, 0, 0)
        names = ("pid", "tid", "uid", "comm", "device", "bytes", "error")
        assert [expected] * FLUSHES == shown(tool, *names)
        assert [] == [t for t, row in zip(took, tool.json) if not 0 < row["duration"] <= t]
        assert {} == tool.losses


@pytest.mark.parametrize("level", ["raid0", "raid10"])
def test_levels(trace: Any, new_array: Any, members: list[Disk], level: str) -> None:
    """Arrays of other levels show their flushes, too."""
    array = new_array(level, members)
    tool = trace("mdflush", "--json", "--disk", array.name)
    flush_often(array)
    tool.end()

    assert [(array.name, 0)] * FLUSHES == shown(tool, "device", "error")


@contextlib.contextmanager
def started_by_mdadm(members: list[Disk]) -> Iterator[Disk]:
    """Make a RAID 1 as administrators do, with a superblock on each disk."""
    number = next(n for n in range(127, 0, -1) if not Path(f"/sys/block/md{n}").exists())
    path = f"/dev/md{number}"
    disks = [disk.path for disk in members]
    shape = ["--level=1", f"--raid-devices={len(disks)}", "--metadata=1.2", "--bitmap=none"]

    def mdadm(*arguments: str) -> None:
        # Without udev, which guests do not have, mdadm makes the names in /dev itself.
        environment = {**os.environ, "MDADM_NO_UDEV": "1"}
        subprocess.run(["mdadm", *arguments], env=environment, check=True, capture_output=True)

    mdadm("--create", path, "--run", "--assume-clean", *shape, *disks)
    try:
        yield Disk(path)
    finally:
        mdadm("--stop", path)


def test_array_of_mdadm(trace: Any, members: list[Disk]) -> None:
    """An array that mdadm has made shows each flush, though it writes superblocks meanwhile."""
    load_module("md-mod")
    load_module("raid1")
    tool = trace("mdflush", "--json")
    with started_by_mdadm(members) as array:
        only = trace("mdflush", "--json", "--disk", array.path)
        before = [flushes_of(disk) for disk in members]
        flush_often(array)
        after = [flushes_of(disk) for disk in members]
        only.end()
    tool.end()

    assert all(late - early >= FLUSHES for late, early in zip(after, before))
    assert [(array.name, os.getpid(), 0)] * FLUSHES == shown(only, "device", "pid", "error")
    mine = [row for row in tool.json if row["pid"] == os.getpid()]
    assert [array.name] * FLUSHES == [row["device"] for row in mine]


def test_journal(trace: Any, mirror: Disk, calls_of_md: Any, tmp_path: Path) -> None:
    """Flushes that the kernel's own thread makes for a file system are shown as its own."""
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "1024", mirror.path], check=True)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", mirror.path, folder], check=True)
    try:
        with open(folder / "file", "wb", buffering=0) as file:
            os.fsync(file.fileno())
            tool = trace("mdflush", "--json")
            before = calls_of_md()
            for _ in range(FLUSHES):
                file.write(bytes(4096))
                os.fsync(file.fileno())
            counted = calls_of_md() - before
            tool.end()
    finally:
        subprocess.run(["umount", folder], check=True)

    assert FLUSHES <= counted == len(tool.json)
    by_journal = [row for row in tool.json if row["comm"].startswith("jbd2/")]
    assert FLUSHES <= len(by_journal)
    assert {1024} == {row["bytes"] for row in by_journal}


def test_other_disks_do_not_show(trace: Any, mirror: Disk, disk: Disk) -> None:
    """A flush of a disk that is no array is not shown, nor is what an array reads and writes."""
    tool = trace("mdflush", "--json")
    flush_often(disk)
    mirror.read(OTHERS)
    mirror.write(OTHERS)
    flush(mirror.path)
    tool.end()

    assert [(mirror.name,)] == shown(tool, "device")


def test_selection(trace: Any, mirror: Disk, new_array: Any, disk: Disk) -> None:
    """Processes, arrays and durations can be selected."""
    other = new_array("raid1", [disk])
    options = (["-p", MINE], ["--disk", other.name], ["-m", "60000"], ["-x"])
    tools = [trace("mdflush", "--json", *each) for each in options]
    flush_often(mirror)
    flush(other.path)
    flush_in_a_child(mirror)
    mine, of_other, long, failed = (tool.end() for tool in tools)

    assert [(mirror.name,)] * FLUSHES + [(other.name,)] == shown(mine, "device")
    assert [(os.getpid(), other.name)] == shown(of_other, "pid", "device")
    assert [] == long.json == failed.json


def test_array_that_comes_later(trace: Any, new_array: Any, members: list[Disk]) -> None:
    """--disk takes the name of an array before there is one, and then shows its flushes."""
    name = unused_name()
    tool = trace("mdflush", "--json", "--disk", name)
    flush_often(new_array("raid1", members, name))
    tool.end()

    assert [(name,)] * FLUSHES == shown(tool, "device")


def test_table_has_the_same_sums(trace: Any, mirror: Disk) -> None:
    """-c adds up what would have been shown, for each process and array."""
    rows, table = trace("mdflush", "--json"), trace("mdflush", "-c", "--json")
    took = flush_often(mirror)
    child = flush_in_a_child(mirror)
    rows.end()
    table.end()

    assert [FLUSHES, OTHERS] == [
        sum(row["pid"] == pid for row in rows.json) for pid in (os.getpid(), child)
    ]
    expected = [(os.getpid(), mirror.name, FLUSHES, 0), (child, mirror.name, OTHERS, 0)]
    assert expected == shown(table, "pid", "device", "count", "failed")
    sums = table.json[0]
    assert sum(took) / 1000 < sums["total"] <= sum(took)
    assert sums["total"] / FLUSHES <= sums["longest"] <= max(took)


def test_columns(trace: Any, mirror: Disk) -> None:
    """A row tells when, who and which array, -t also the date, and -x the error."""
    tools = [trace("mdflush", *options) for options in (["-t"], ["-x"])]
    flush_often(mirror)
    dated, failed = (tool.end() for tool in tools)

    assert ["TIME", "PID", "COMM", "DEVICE", "MS"] == dated.out.splitlines()[0].split()
    assert ["TIME", "PID", "COMM", "DEVICE", "ERR", "MS"] == failed.out.split()
    assert {(MINE, mirror.name)} == {(row[2], row[-2]) for row in dated.rows}
    assert [2] * FLUSHES == [row[0].count("-") for row in dated.rows]


def waits_in_fsync(pid: int) -> bool:
    """Tell whether a process waits for a disk in that system call."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    status = Path(f"/proc/{pid}/status").read_text()
    return call == FSYNC[os.uname().machine] and "D (disk sleep)" in status


def test_flush_under_way(
    trace: Any, members: list[Disk], new_volume: Any, new_array: Any, until: Any
) -> None:
    """A flush that has not ended when tracing ends is shown as such."""
    member = new_volume("vg-slow", f"0 8192 linear {members[0].path} 0")
    array = new_array("raid1", [member, members[1]])
    tool = trace("mdflush", "-x", "--json")
    member.control("suspend")
    with contextlib.ExitStack() as later:
        child = subprocess.Popen([sys.executable, "-c", SYNC.format(1), array.path])
        later.callback(child.wait)
        later.callback(member.control, "resume")
        until(lambda: waits_in_fsync(child.pid))
        tool.end()

    expected = (child.pid, array.name, -errno.EINPROGRESS, None)
    assert [expected] == shown(tool, "pid", "device", "error", "duration")

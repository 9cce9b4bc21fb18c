# SPDX-License-Identifier: BSD-2-Clause
"""Pages made dirty here show as written: as many, to that device, for that process and reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.show.kernel_names import writeback_reasons

from tests.tools.conftest import LOOP_CTL_ADD, Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.events import FileSystem

PAGES = (53, 41, 7)
OTHERS = 11
MANY = 503  # of which the kernel wants a part to be written in the background
METADATA = 8  # pages at most that the file system writes for its own
MINE = str(os.getpid())
NOBODY = "no-such-name"
# Writes so many pages of a file, and has them written back by its own name.
SYNC = """
import ctypes, os, sys
with open(sys.argv[1], "r+b") as file:
    file.write(os.urandom(int(sys.argv[2]) * os.sysconf("SC_PAGESIZE")))
    file.flush()
    ctypes.CDLL(None).syncfs(file.fileno())
"""

# Writes a page of a disk, and has the flusher write it with all else that is dirty.
SYNC_ALL = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, os.urandom(4096))
os.sync()
"""
# Makes a file of so many pages, and leaves them in memory.
DIRTY = """
import os, sys
with open(sys.argv[1], "xb") as file:
    file.write(os.urandom(int(sys.argv[2]) * os.sysconf("SC_PAGESIZE")))
"""
PLUGGED = (1009, 1013)  # numbers of loop devices that nobody else has


@pytest.fixture
def mine(trace: Any, file_system: FileSystem) -> Callable[..., Any]:
    """Give a function that traces the file system of the tests."""
    for pages in (*PAGES, OTHERS):
        file_system.file(pages)
    return lambda *options: trace("writeback", "--disk", file_system.disk, "--json", *options)


def write_and_sync(file_system: FileSystem) -> list[int]:
    """Have pages written three times; return for how many ns each call waited."""
    took = []
    for pages in PAGES:
        file_system.dirty(pages)
        begin = time.monotonic_ns()
        file_system.sync()
        took.append(time.monotonic_ns() - begin)
    return took


def pages_of(tool: Any) -> list[int]:
    """Return the pages of each round."""
    return [row["pages"] for row in tool.json]


def sync_in_a_child(file_system: FileSystem, pages: int, **settings: Any) -> int:
    """Let another process write and sync; return its id."""
    command = [sys.executable, "-c", SYNC, str(file_system.file(pages)), str(pages)]
    with subprocess.Popen(command, **settings) as child:
        pass
    assert 0 == child.returncode
    return child.pid


def test_each_rung_shows_what_was_written(
    mine: Callable[..., Any], file_system: FileSystem, rungs_of: Any
) -> None:
    """By every way of tracing there is a row with the pages of each sync, and for whom it was."""
    for rung in rungs_of("writeback", "round"):
        tool = mine("--rung", f"round={rung}", "--rung", f"request={rung}")
        write_and_sync(file_system)
        tool.end()

        assert list(PAGES) == pages_of(tool)
        names = ("device", "bdi", "fs", "reason", "rpid", "rcomm")
        found = {tuple(row[name] for name in names) for row in tool.json}
        number = Path("/sys/block", file_system.disk, "dev").read_text().strip()
        comm = Path("/proc/self/comm").read_text().rstrip("\n")
        expected = (file_system.disk, number, file_system.disk, "sync", os.getpid(), comm)
        assert {expected} == found
        assert all(row["comm"].startswith("kworker/") for row in tool.json)
        assert all(Path(f"/proc/{row['pid']}").exists() for row in tool.json)
        assert {} == tool.losses


def test_table_has_the_same_sums(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """-d adds up the rounds that would have been shown, for each reason and process."""
    rows, table, processes = mine(), mine("-d"), mine("-d", "--process")
    took = write_and_sync(file_system)
    child = sync_in_a_child(file_system, OTHERS)
    rows.end()
    table.end()
    processes.end()

    synced = [row for row in rows.json if row["reason"] == "sync"]
    [sums] = [row for row in table.json if row["reason"] == "sync"]
    assert (file_system.disk, len(synced)) == (sums["device"], sums["rounds"])
    assert sum(PAGES) + OTHERS == sums["pages"] == sum(row["pages"] for row in synced)
    of_mine, of_child = (
        next(row for row in processes.json if row["rpid"] == pid) for pid in (os.getpid(), child)
    )
    assert [sum(PAGES), OTHERS] == [of_mine["pages"], of_child["pages"]]
    assert 0 < of_mine["longest"] <= max(took)


def test_table_is_per_interval(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """What a report has shown is in no later report: neither its sums nor its longest time."""
    tool = mine("-d", "-i", "0.2")
    file_system.dirty(PAGES[0])
    file_system.sync()
    first = tool.line()
    file_system.dirty(PAGES[1])
    file_system.sync()
    tool.end()

    assert f'"pages":{PAGES[0]},' in first
    assert [*PAGES[:2]] == [row["pages"] for row in tool.json if row["reason"] == "sync"]


def test_processes(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """-p with a number shows only what that process has asked for, as --comm does with a name."""
    tools = [mine("-p", MINE), mine("--comm", NOBODY)]
    write_and_sync(file_system)
    sync_in_a_child(file_system, OTHERS)
    of_mine, of_nobody = (tool.end() for tool in tools)

    assert list(PAGES) == pages_of(of_mine)
    assert [] == of_nobody.json


def test_flusher(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """-p with the numbers of flushers shows what they write, whoever has asked for it."""
    # Which of the kernel's workers is to write is not known beforehand.
    names = {path.parent.name: path.read_text() for path in Path("/proc").glob("[0-9]*/comm")}
    workers = [pid for pid, name in names.items() if name.startswith("kworker/u")]
    of_workers = mine("-p", ",".join(workers))
    every = mine()
    for _ in range(OTHERS):
        write_and_sync(file_system)
    every.end()
    of_workers.end()

    written, shown = (
        [
            (row["pid"], row["pages"])
            for row in tool.json
            if row["rpid"] == os.getpid() and str(row["pid"]) in workers
        ]
        for tool in (every, of_workers)
    )
    assert written
    assert written == shown


@pytest.mark.parametrize("controllers", [[], ["io", "memory"]], ids=["alone", "controlled"])
def test_cgroup_that_asked(
    mine: Callable[..., Any], file_system: FileSystem, new_cgroup: Any, controllers: list[str]
) -> None:
    """--cgroup shows what a process of the cgroup has asked for, and nothing else."""
    cgroup = new_cgroup(*controllers)
    tool = mine("--cgroup", str(cgroup.path))
    write_and_sync(file_system)
    child = sync_in_a_child(file_system, OTHERS, preexec_fn=cgroup.enter)
    tool.end()

    assert [(child, OTHERS)] == [(row["rpid"], row["pages"]) for row in tool.json]


def test_cgroup_whose_pages_are_written(
    mine: Callable[..., Any], file_system: FileSystem, new_cgroup: Any
) -> None:
    """--cgroup shows the pages of the cgroup, whoever has asked for them to be written."""
    cgroup = new_cgroup("io", "memory")
    tool = mine("--cgroup", str(cgroup.path))
    write_and_sync(file_system)
    file = file_system.path / "of-a-cgroup"
    command = [sys.executable, "-c", DIRTY, str(file), str(OTHERS)]
    subprocess.run(command, preexec_fn=cgroup.enter, check=True)
    file_system.sync()
    tool.end()
    file.unlink()

    assert [(os.getpid(), OTHERS)] == [(row["rpid"], row["pages"]) for row in tool.json]


def test_sums_without_room(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """Each round of a process that finds no room in the sums is counted as lost."""
    rows, table = mine(), mine("-d", "--process", "--max-entries", "1")
    write_and_sync(file_system)
    child = sync_in_a_child(file_system, OTHERS)
    rows.end()
    table.end()

    lost = [row for row in rows.json if row["rpid"] == child]
    [sums] = table.json
    assert (os.getpid(), sum(PAGES)) == (sums["rpid"], sums["pages"])
    assert len(rows.json) == sums["rounds"] + len(lost)
    assert 0 < len(lost) == table.losses["devices"]


def test_columns(trace: Any, file_system: FileSystem) -> None:
    """-p alone shows the flusher and the requester; -t shows the date."""
    options = ["--disk", file_system.disk]
    tools = [trace("writeback", *options, *more) for more in ([], ["-p"], ["-t"])]
    write_and_sync(file_system)
    plain, process, dated = (tool.end() for tool in tools)

    header = ["TIME", "DEVICE", "PAGES", "REASON", "MS"]
    who = ["PID", "COMM", "RPID", "RCOMM"]
    assert [header, header + who, header] == [
        tool.out.splitlines()[0].split() for tool in (plain, process, dated)
    ]
    first = process.rows[0]
    assert [file_system.disk, str(PAGES[0]), "sync"] == first[1:4]
    assert MINE == first[7]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", dated.rows[0][0])


def test_least_time(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """--min-ms leaves out what took less, in rows and sums."""
    tools = [mine("--min-ms", "60000", *more) for more in ([], ["-d"])]
    write_and_sync(file_system)
    rows, table = (tool.end() for tool in tools)

    assert [] == rows.json == table.json


def test_rounds_without_pages(mine: Callable[..., Any], file_system: FileSystem) -> None:
    """--all adds the rounds in which nothing was written, to rows and sums, and nothing else."""
    tools = [mine(*options) for options in ([], ["--all"], ["-d"], ["-d", "--all"])]
    for _ in range(OTHERS):
        write_and_sync(file_system)
        file_system.sync()  # finds nothing
    rows, all_rows, table, whole_table = (tool.end() for tool in tools)

    written = list(PAGES) * OTHERS
    assert written == pages_of(rows) == [pages for pages in pages_of(all_rows) if pages]
    assert 2 * OTHERS <= pages_of(all_rows).count(0)
    for tool, shown in ((table, rows), (whole_table, all_rows)):
        assert len(shown.json) == sum(row["rounds"] for row in tool.json)
        assert sum(written) == sum(row["pages"] for row in tool.json)


def test_sync_of_all(trace: Any, file_system: FileSystem, new_disk: Callable[[], Disk]) -> None:
    """Of two disks that sync() has written, each has its own rows, and all name who called it."""
    file_system.file(PAGES[0])
    other = new_disk()
    tool = trace("writeback", "--json")
    file_system.dirty(PAGES[0])
    with open(other.path, "r+b") as device:
        device.write(os.urandom(OTHERS * other.BLOCK))
    os.sync()
    tool.end()

    rows = [row for row in tool.json if row["reason"] == "sync"]
    assert {os.getpid()} == {row["rpid"] for row in rows if row["device"] == file_system.disk}
    expected = {file_system.disk: PAGES[0], other.name: OTHERS}
    found = {name: sum(r["pages"] for r in rows if r["device"] == name) for name in expected}
    assert expected[file_system.disk] <= found[file_system.disk] <= PAGES[0] + METADATA
    # sync() itself writes what the flusher has not yet written of a disk without file system.
    assert found[other.name] in (0, OTHERS)


@contextlib.contextmanager
def plugged_in(number: int, image: Path) -> Iterator[Disk]:
    """Have a loop device of a number, which is new each time."""
    with open("/dev/loop-control") as control:
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
    disk = Disk(f"/dev/loop{number}")
    subprocess.run(["losetup", disk.path, image], check=True)
    yield disk
    disk.remove()


@pytest.mark.usefixtures("new_disk")  # which says if there can be none
def test_new_disk_at_the_address_of_a_former_one(trace: Any, tmp_path: Path) -> None:
    """What was asked of a disk that is gone is not taken for what is asked of a new one."""
    image = tmp_path / "plugged"
    image.touch()
    os.truncate(image, 1 << 20)
    traced, former = PLUGGED
    with plugged_in(traced, image) as first:
        tool = trace("writeback", "--all", "--json", "--disk", first.name)
    children = set()
    for _ in range(OTHERS):
        with (
            plugged_in(former, image) as before,
            subprocess.Popen([sys.executable, "-c", SYNC_ALL, before.path]) as child,
        ):
            assert 0 == child.wait()
            children.add(child.pid)
        with plugged_in(traced, image) as now, open(now.path, "r+b", buffering=0) as device:
            device.write(os.urandom(now.BLOCK))
            os.sync()
    tool.end()

    assert OTHERS == len(children)
    assert {os.getpid()} == {row["rpid"] for row in tool.json if row["reason"] == "sync"}


def test_reasons_are_those_of_this_kernel() -> None:
    """The names are those by which the kernel's own tracepoints show the numbers."""
    format_ = Path("/sys/kernel/tracing/events/writeback/writeback_start/format")
    if not format_.exists():
        pytest.skip("needs tracefs")
    shown = format_.read_text().partition("print fmt")[2]
    found = {int(number, 0): name for number, name in re.findall(r'\{ (\w+), "(\w+)" \}', shown)}
    names = writeback_reasons()

    assert len(found) > 5
    assert found == {number: names[number] for number in found}


@pytest.fixture
def hurry() -> Iterator[Callable[..., None]]:
    """Give a function that sets when the kernel writes pages back; a guest's kernel only."""
    if not os.environ.get("TRACEWHEEL_GUEST"):
        pytest.skip("needs a machine of its own, whose settings of writeback may be changed")
    # To set a ratio unsets the number of bytes that is used in its place.
    kept = ("expire_centisecs", "writeback_centisecs", "background_ratio", "ratio")
    settings = {name: Path(f"/proc/sys/vm/dirty_{name}") for name in kept}
    before = {path: path.read_text() for path in settings.values()}

    def set_(**values: int) -> None:
        for name, value in values.items():
            Path(f"/proc/sys/vm/dirty_{name}").write_text(str(value))

    yield set_
    for path, value in before.items():
        path.write_text(value)


def test_periodic_writeback(
    mine: Callable[..., Any], file_system: FileSystem, hurry: Callable[..., None]
) -> None:
    """What has been dirty for long enough is written without anybody's asking."""
    tool = mine()
    hurry(expire_centisecs=1, writeback_centisecs=1)
    file_system.dirty(PAGES[0])
    tool.line()
    tool.end()

    assert PAGES[0] <= sum(pages_of(tool)) <= PAGES[0] + METADATA
    names = ("reason", "rpid", "rcomm", "fs")
    assert {("periodic", None, "-", "-")} == {tuple(r[name] for name in names) for r in tool.json}


def test_background_writeback(
    mine: Callable[..., Any], file_system: FileSystem, hurry: Callable[..., None]
) -> None:
    """Who makes too many pages dirty is shown as the requester of background writeback."""
    file_system.file(MANY)
    tool = mine()
    hurry(background_bytes=1 << 12, bytes=1 << 20)
    file_system.dirty(MANY)
    while '"reason":"background"' not in tool.line():
        pass
    file_system.sync()
    tool.end()

    assert MANY <= sum(pages_of(tool)) <= MANY + METADATA
    rows = [row for row in tool.json if row["reason"] == "background"]
    # The flusher may go on by itself.
    assert {os.getpid()} == {row["rpid"] for row in rows} - {None}
    assert {"-"} == {row["fs"] for row in rows}

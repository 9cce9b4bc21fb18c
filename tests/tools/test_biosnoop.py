# SPDX-License-Identifier: BSD-2-Clause
"""Requests made here show once each, as they were made, with those who made them."""

from __future__ import annotations

import collections
import errno
import mmap
import os
import re
import signal
import statistics
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.host.cgroups import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tools.conftest import Disk, Reads, ScsiDisk

READS, WRITES, OTHERS = 23, 17, 13
THREADS, CROWD, STORM = 3, 7, 10007
MEDIUM_ERROR, BAD_SECTOR = 0x2, 0x1234  # of scsi_debug


def shown(tool: Any, *names: str) -> list[Any]:
    """Return these members of each row."""
    return [tuple(row[name] for name in names) for row in tool.json]


def total_ms(tool: Any) -> float:
    """Return how long all requests took, from the start to the end."""
    total: int = sum(row["queued"] + row["latency"] for row in tool.json)
    return total / 1e6


def kernels_total_ms(disk: Disk, before: Reads, until: Callable[[Any], None]) -> int:
    """Return for how long the kernel says that READS reads took.

    The kernel wakes the reader before it counts the request.
    """
    until(lambda: disk.reads().requests - before.requests >= READS)
    return disk.reads().took_ms - before.took_ms


def forced(start: str) -> list[str]:
    """Return options that force a rung of each ladder, all of one kind."""
    kind = "tp_btf" if start.startswith("tp_btf") else "raw_tp"
    rungs = {"start": start, "issue": kind, "complete": kind}
    return [f"--rung={ladder}={rung}" for ladder, rung in rungs.items()]


def own_cgroup() -> int:
    """Return the id of this process's cgroup in the unified hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    [path] = [line[3:] for line in lines if line.startswith("0::")]
    return os.stat(cgroup_root() + path).st_ino


def test_each_rung_shows_every_request(trace: Any, disk: Disk, rungs_of: Any) -> None:
    """Every way of tracing shows who read and wrote what where, in order, and how long it took."""
    rungs = rungs_of("biosnoop", "start")
    assert {"tp_btf_getrq", "raw_tp_getrq"} <= set(rungs)
    for rung in rungs:
        tool = trace("biosnoop", "-d", disk.name, "--json", "-p", *forced(rung))
        took = disk.read(READS) + disk.write(WRITES)
        tool.end()

        places = [(8 * at, disk.BLOCK) for at in range(READS)]
        expected = [("READ", *place) for place in places]
        expected += [("WRITE", *place) for place in places[:WRITES]]
        assert expected == shown(tool, "operation", "sector", "bytes")
        comm = Path("/proc/self/comm").read_text()[:-1]
        who = (comm, os.getpid(), threading.get_native_id(), os.getppid(), os.getuid())
        where = (own_cgroup(), disk.name, 1, 0)
        names = ("comm", "pid", "tid", "ppid", "uid", "cgroup", "disk", "tries", "error")
        assert {(*who, *where)} == set(shown(tool, *names))
        assert {} == tool.losses
        assert all(row["latency"] > 0 and row["queued"] >= 0 for row in tool.json)
        assert sum(row["latency"] + row["queued"] for row in tool.json) <= took * 1000


def test_table(trace: Any, disk: Disk) -> None:
    """The columns are those that users know; -q and -p show more."""
    basic = "TIME(s) COMM PID DISK T SECTOR BYTES LAT(ms)"
    more = "TIME(s) COMM PID TID PPID UID CGROUP DISK T SECTOR BYTES QUE(ms) LAT(ms) CONTAINER"
    for options, columns in (((), basic), (("-p", "-Q"), more)):
        tool = trace("biosnoop", "-d", disk.name, *options)
        disk.read(READS)
        tool.end()

        assert columns.split() == tool.out.splitlines()[0].split()
        assert READS == len(tool.rows)
        assert {len(columns.split())} == {len(row) for row in tool.rows}


def test_letters_are_the_kernels(trace: Any, disk: Disk, kernel_says: Any) -> None:
    """T shows what the kernel's own tracing shows of reads, writes, flushes, discards, zeroes."""
    tool = trace("biosnoop", "-d", disk.name, "--columns", "t,sector,bytes")
    disk.read(READS)
    disk.write(WRITES)
    disk.flush_and_discard()
    disk.write_zeroes(READS)
    fd = os.open(disk.path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    with mmap.mmap(-1, disk.BLOCK) as buffer:
        os.pwritev(fd, [buffer], 8 * disk.BLOCK)
    os.close(fd)
    tool.end()

    device = "{},{}".format(*divmod(os.stat(disk.path).st_rdev, 256))
    told = [
        re.match(rf"{device} (\w+) (\d+) \+ (\d+) ", line) for line in kernel_says("block_getrq")
    ]
    expected = [(found[1], int(found[2]), 512 * int(found[3])) for found in told if found]
    rows = [(row[0], int(row[1]), int(row[2])) for row in tool.rows if row[0] != "FF"]
    zeroes = ("WZS", 8 * READS, disk.BLOCK)
    assert zeroes in rows
    if zeroes not in expected:  # as on v5.10
        expected = [("WZS" if found == "NS" else found, at, size) for found, at, size in expected]
    assert len({letters for letters, _, _ in expected}) >= 6
    assert sorted(expected) == sorted(rows), expected


def all_told(tool: Any, expected: int) -> None:
    """Hold rows and losses together to so many requests."""
    rows, lost = tool.counted
    assert expected == rows + lost + tool.skipped, tool.err


def test_threads_at_full_speed(trace: Any, disk: Disk, tmp_path: Path) -> None:
    """Of tens of thousands of reads by several threads each shows once, under its thread."""
    (disk.settings / "queue/nomerges").write_text("2")
    rows = tmp_path / "rows"  # nobody would empty a pipe
    tool = trace("biosnoop", "-d", disk.name, "--json", "-o", str(rows))
    readers: dict[int, range] = {}

    def read(first: int) -> None:
        blocks = range(first, first + STORM)
        readers[threading.get_native_id()] = blocks
        with mmap.mmap(-1, disk.BLOCK) as buffer:
            fd = os.open(disk.path, os.O_RDONLY | os.O_DIRECT)
            for block in blocks:
                os.preadv(fd, [buffer], block % 2048 * disk.BLOCK)
            os.close(fd)

    threads = [threading.Thread(target=read, args=(STORM * n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tool.end()

    all_told(tool, THREADS * STORM)
    expected = collections.Counter(
        (tid, block % 2048 * 8) for tid, blocks in readers.items() for block in blocks
    )
    tool.out = rows.read_text()
    found = collections.Counter(shown(tool, "tid", "sector"))
    assert found <= expected
    # Seen on v6.18: no program runs for ends that interrupt some tasks. They are counted.
    assert sum((expected - found).values()) <= 0.001 * THREADS * STORM + tool.skipped


@pytest.mark.parametrize(("scheduler", "flag"), [("none", "-p"), ("mq-deadline", "--comm")])
def test_process_filters(
    trace: Any, disk: Disk, rungs_of: Any, called: Any, scheduler: str, flag: str
) -> None:
    """Filters judge who submits, whoever issues the request or is interrupted by its end."""
    (disk.settings / "queue/scheduler").write_text(scheduler)
    value = {"--comm": "submitter"}.get(flag, str(os.getpid()))
    for rung in rungs_of("biosnoop", "start"):
        tool = trace("biosnoop", "-d", disk.name, flag, value, "--json", *forced(rung))
        with called(b"submitter"):
            disk.read(READS)
        disk.read_in_a_child(OTHERS)
        tool.end()

        assert [("submitter", os.getpid())] * READS == shown(tool, "comm", "pid")
        assert {} == tool.losses


def test_family(trace: Any, disk: Disk, rungs_of: Any) -> None:
    """Of a command the I/O of its children shows, and nobody else's."""
    read = f"dd if={disk.path} of=/dev/null bs={disk.BLOCK} iflag=direct status=none"
    for rung in rungs_of("biosnoop", "start"):
        options = ["-d", disk.name, "--json", "-o", "/dev/fd/1", *forced(rung)]
        command = ["sh", "-c", f"read x; {read} count={OTHERS}; exit"]
        tool = trace("biosnoop", *options, "--", *command, stdin=subprocess.PIPE)
        disk.read(READS)
        tool.process.stdin.close()
        tool.process.stdin = None  # nothing to flush
        tool.ended()

        assert ["dd"] * OTHERS == [row["comm"] for row in tool.json]
        assert {} == tool.losses


@pytest.mark.parametrize("controllers", [[], ["io"]])
def test_cgroup_filter(
    trace: Any, disk: Disk, new_cgroup: Any, rungs_of: Any, controllers: list[str]
) -> None:
    """--cgroup shows the I/O of a cgroup, with and without the io controller."""
    cgroup = new_cgroup(*controllers)
    rungs = rungs_of("biosnoop", "start")
    for rung in rungs if controllers else rungs[:1]:
        filters = ["-d", disk.name, "--cgroup", str(cgroup.path)]
        tool = trace("biosnoop", *filters, "--json", "-p", *forced(rung))
        disk.read(READS)
        child = disk.read_in_a_child(OTHERS, preexec_fn=cgroup.enter)
        tool.end()

        assert [(child, cgroup.id)] * OTHERS == shown(tool, "pid", "cgroup")


@pytest.mark.parametrize("filtered", [False, True])
def test_cgroup_that_wrote(
    trace: Any, disk: Disk, new_cgroup: Any, rungs_of: Any, tmp_path: Path, filtered: bool
) -> None:
    """What kworker writes back is shown under the cgroup of the process that wrote it."""
    cgroup = new_cgroup("io", "memory")
    made = subprocess.run(["mkfs.ext4", "-q", disk.path], check=False)
    mounted = made.returncode or subprocess.run(["mount", disk.path, tmp_path], check=False)
    if made.returncode or getattr(mounted, "returncode", 1):
        pytest.skip("needs ext4")
    try:
        rungs = rungs_of("biosnoop", "start")
        for rung in rungs[:1] if filtered else rungs:
            os.sync()
            filters = ["--cgroup", str(cgroup.path)] if filtered else []
            tool = trace("biosnoop", "-d", disk.name, "--json", "-p", *filters, *forced(rung))
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={tmp_path}/{rung}", f"bs={disk.BLOCK}",
                 f"count={READS}", "status=none"],
                preexec_fn=cgroup.enter, check=True,
            )  # fmt: skip
            os.sync()
            tool.end()

            rows = [row for row in tool.json if row["cgroup"] == cgroup.id]
            data = [row for row in rows if row["comm"].startswith("kworker/")]
            assert READS * disk.BLOCK == sum(row["bytes"] for row in data)
            assert {"WRITE"} == {row["operation"] for row in data}
            assert not filtered or rows == tool.json
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_disk_filter(trace: Any, new_disk: Callable[[], Disk], rungs_of: Any) -> None:
    """-d leaves other disks out."""
    wanted, other = new_disk(), new_disk()
    for rung in rungs_of("biosnoop", "start"):
        tool = trace("biosnoop", "-d", wanted.path, "--json", *forced(rung))
        wanted.read(READS)
        other.read(OTHERS)
        tool.end()

        assert [(wanted.name,)] * READS == shown(tool, "disk")


def test_disks_that_come_and_go(
    trace: Any, new_disk: Callable[[], Disk], until: Callable[[Any], None]
) -> None:
    """A disk that came after the start, and has gone before its rows are shown, has its name."""
    for kind in ("tp_btf", "raw_tp"):
        tool = trace("biosnoop", "-p", str(os.getpid()), "--json", "--rung", f"complete={kind}")
        tool.process.send_signal(signal.SIGSTOP)
        disk = new_disk()
        disk.read(READS)
        disk.remove()
        until(lambda disk=disk: not disk.settings.exists())
        tool.process.send_signal(signal.SIGCONT)
        tool.end()

        assert READS <= shown(tool, "disk").count((disk.name,))


def test_nothing_stays_behind(trace: Any, disk: Disk, rungs_of: Any) -> None:
    """Flushed and discarded requests end once, and leave none that seems to last."""
    for rung in rungs_of("biosnoop", "start"):
        tool = trace("biosnoop", "-p", str(os.getpid()), "--json", *forced(rung))
        with open(disk.path, "r+b") as file:
            for _ in range(READS):
                file.write(bytes(disk.BLOCK))
            os.fsync(file.fileno())
        disk.flush_and_discard()
        tool.end()

        written = [row for row in tool.json if row["operation"] == "WRITE"]
        assert READS * disk.BLOCK == sum(row["bytes"] for row in written)
        assert {(0,)} == set(shown(tool, "error"))
        assert {} == tool.losses


def test_merged_requests(trace: Any, disk: Disk, rungs_of: Any) -> None:
    """Reads that the kernel merges, at the back or in front, have one row with all their bytes."""
    (disk.settings / "queue/nomerges").write_text("0")
    for rung in rungs_of("biosnoop", "start"):
        tool = trace("biosnoop", "-d", disk.name, "--json", *forced(rung))
        merges = []
        for blocks in (range(READS), range(READS)[::-1]):
            before = disk.reads()
            with disk.reading(blocks):
                pass
            merges.append(disk.reads().merged - before.merged)
        tool.end()

        assert all(merges)
        assert 2 * READS == len(tool.json) + sum(merges)
        assert 2 * READS * disk.BLOCK == sum(row["bytes"] for row in tool.json)
        assert {(0,)} == set(shown(tool, "error"))
        assert {} == tool.losses


def test_known_latency(trace: Any, slow_disk: Disk) -> None:
    """The time of a device that takes 25 ms is told within 7 %."""
    tool = trace("biosnoop", "-d", slow_disk.name, "--json")
    slow_disk.read(READS)
    tool.end()

    assert READS == len(tool.json)
    assert 25e6 == pytest.approx(statistics.median(r["latency"] for r in tool.json), rel=0.07)


def test_least_latency(trace: Any, slow_disk: Disk) -> None:
    """--min shows what took that long."""
    tools = [trace("biosnoop", "-d", slow_disk.name, "-m", least) for least in ("24.9", "10000")]
    slow_disk.read(READS)
    for tool in tools:
        tool.end()

    assert [(READS, 0), (0, 0)] == [tool.counted for tool in tools]


def test_full_map(trace: Any, slow_disk: Disk) -> None:
    """A request that found no room is lost, and counted once."""
    tool = trace("biosnoop", "-d", slow_disk.name, "--json", "--max-entries", "1")
    threads = [threading.Thread(target=slow_disk.read, args=(READS,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tool.end()

    all_told(tool, THREADS * READS)
    assert {"begun": tool.counted[1]} == tool.losses
    assert all(20e6 < row["latency"] < 1e9 for row in tool.json)


def test_requests_in_flight(trace: Any, null_disk: Callable[[int], Disk], rungs_of: Any) -> None:
    """What has not ended when tracing ends is shown as such."""
    disk = null_disk(1500)
    for rung in {"raw_tp_getrq", rungs_of("biosnoop", "start")[0]}:
        tool = trace("biosnoop", "-d", disk.name, "--json", *forced(rung))
        with disk.reading([READS]):
            tool.end()

        names = ("pid", "sector", "bytes", "error", "latency")
        expected = (os.getpid(), 8 * READS, disk.BLOCK, -errno.EINPROGRESS, None)
        assert [expected] == shown(tool, *names)
        assert {} == tool.losses


@pytest.mark.parametrize("readers", [THREADS, CROWD])
def test_full_rate(
    trace: Any, null_disk: Callable[[int], Disk], tmp_path: Path, readers: int
) -> None:
    """Of as many reads as a disk that takes no time can answer each has a row, or is told lost.

    Lost are only those of a crowd: because the tool comes too seldom to read the ring, or, on a
    kernel that preempts programs, because more are preempted than can stand in.
    """
    disk = null_disk(0)
    (disk.settings / "queue/nomerges").write_text("2")
    rows = tmp_path / "rows"
    tool = trace("biosnoop", "-d", disk.name, "--json", "-o", str(rows))
    read = ["dd", f"if={disk.path}", "of=/dev/null", f"bs={disk.BLOCK}", f"count={STORM}",
            "iflag=direct", "status=none"]  # fmt: skip
    processes = [subprocess.Popen(read) for _ in range(readers)]
    assert {0} == {process.wait() for process in processes}
    tool.end()

    all_told(tool, readers * STORM)
    assert tool.counted[0] == rows.read_bytes().count(b'"operation":"READ"')
    if readers == THREADS:
        assert readers * STORM == tool.counted[0], tool.err


def test_request_that_completes_in_parts(
    trace: Any, scsi_disk: ScsiDisk, kernel_says: Any, rungs_of: Any, until: Any
) -> None:
    """A request that the device answers in parts has one row, whose latency is that of all."""
    size = 16 * scsi_disk.BLOCK
    device = "{},{}".format(*divmod(os.stat(scsi_disk.path).st_rdev, 256))
    for rung in rungs_of("biosnoop", "start"):
        earlier = len(kernel_says("block_rq_complete"))
        tool = trace("biosnoop", "-d", scsi_disk.name, "--json", *forced(rung))
        before = scsi_disk.reads()
        scsi_disk.go_wrong(scsi_disk.SHORT_TRANSFER)
        scsi_disk.read(READS, size)
        took = kernels_total_ms(scsi_disk, before, until)
        tool.end()

        told = [
            re.match(rf"{device} \w+ \(.*\) (\d+) \+ ", line)
            for line in kernel_says("block_rq_complete")[earlier:]
        ]
        parts = collections.Counter(512 * int(found[1]) // size for found in told if found)
        assert READS == len(parts) < sum(parts.values())
        places = [(size // 512 * at, size) for at in range(READS)]
        assert places == shown(tool, "sector", "bytes")
        # The kernel begins to measure earlier, and ends later; the disk waits before each answer.
        assert total_ms(tool) < took + 1
        for at, row in enumerate(tool.json):
            assert row["latency"] >= parts[at] * scsi_disk.TAKES_NS


def test_request_that_is_queued_again(
    trace: Any, scsi_disk: ScsiDisk, kernel_says: Any, rungs_of: Any, until: Any
) -> None:
    """What a busy host sends back has one row, which tells how often it was issued."""
    for rung in rungs_of("biosnoop", "start"):
        issued = len(kernel_says("block_rq_issue"))
        tool = trace("biosnoop", "-d", scsi_disk.name, "--json", *forced(rung))
        before = scsi_disk.reads()
        scsi_disk.go_wrong(scsi_disk.HOST_BUSY)
        scsi_disk.read(READS, 16 * scsi_disk.BLOCK)
        took = kernels_total_ms(scsi_disk, before, until)
        tool.end()

        assert READS == len(tool.json)
        tries = len(kernel_says("block_rq_issue")) - issued
        assert READS < sum(row["tries"] for row in tool.json) == tries
        assert took == pytest.approx(total_ms(tool), rel=0.1)


def test_failed_request(trace: Any, scsi_disk: ScsiDisk, rungs_of: Any) -> None:
    """-x shows the request that failed, with the error."""
    for rung in rungs_of("biosnoop", "complete"):
        options = ["-d", scsi_disk.name, "-x", "--rung", f"complete={rung}"]
        tools = [trace("biosnoop", *options, *how) for how in ([], ["--json"])]
        scsi_disk.read(READS)
        scsi_disk.go_wrong(MEDIUM_ERROR, every=1)
        bad = BAD_SECTOR // 8
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            scsi_disk.read(1, first=bad)
        scsi_disk.go_wrong(0)
        table, listed = (tool.end() for tool in tools)

        assert [(8 * bad, scsi_disk.BLOCK, -61)] == shown(listed, "sector", "bytes", "error")
        header, row = (line.split() for line in table.out.splitlines())
        assert "ENODATA" == row[header.index("ERR")]

# SPDX-License-Identifier: BSD-2-Clause
"""Requests made here are counted once each, and timed from begin to end."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READS, WRITES, OTHERS = 23, 17, 13
BLOCK = 4096
LADDERS = ("complete", "issue", "queue")
BLKDISCARD = 0x1277


class Disk:
    """A disk of which nobody else knows."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.settings = Path("/sys/block", self.name)

    def read(self, count: int, size: int = BLOCK) -> float:
        """Read past the page cache; return the microseconds that all reads took."""
        return self._transfer(os.preadv, count, size)

    def write(self, count: int) -> float:
        """Write likewise."""
        return self._transfer(os.pwritev, count, BLOCK)

    def _transfer(self, call: Any, count: int, size: int) -> float:
        took = 0.0
        with mmap.mmap(-1, size) as buffer:
            fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            for number in range(count):
                begin = time.monotonic_ns()
                assert size == call(fd, [buffer], number * size)
                took += (time.monotonic_ns() - begin) / 1000
            os.close(fd)
        return took

    def flush_and_discard(self) -> None:
        """Make one request of each of these kinds."""
        fd = os.open(self.path, os.O_RDWR)
        fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", 0, BLOCK))
        os.fsync(fd)
        os.close(fd)


def read_in_a_child(disk: Disk, count: int, **settings: Any) -> int:
    """Let another process read; return its id."""
    child = subprocess.Popen(
        ["dd", f"if={disk.path}", "of=/dev/null", f"bs={BLOCK}", f"count={count}",
         "iflag=direct", "status=none"], **settings,
    )  # fmt: skip
    assert 0 == child.wait()
    return child.pid


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[Callable[[], Disk]]:
    """Give a function that makes a loop device; they are removed after the test."""
    if os.geteuid():
        pytest.skip("needs root")
    subprocess.run(["modprobe", "-q", "loop"], check=False)
    disks: list[Disk] = []

    def make() -> Disk:
        file = tmp_path / f"disk-{len(disks)}"
        with open(file, "wb") as image:
            image.truncate(8 << 20)
        made = subprocess.run(
            ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True
        )
        disks.append(Disk(made.stdout.strip()))
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["losetup", "--detach", disk.path], check=True)


@pytest.fixture
def disk(new_disk: Callable[[], Disk]) -> Disk:
    """Give a disk."""
    return new_disk()


def counts(tool: Any, *names: str) -> dict[Any, int]:
    """Return the number of requests in each histogram, by the members that tell them apart."""
    return {tuple(each[name] for name in names): each["count"] for each in tool.json}


def bounds(tool: Any) -> tuple[float, float]:
    """Return the least and the most time that all requests together may have taken."""
    buckets = [bucket for each in tool.json for bucket in each["buckets"]]
    return (
        sum(low * count for low, _, count in buckets),
        sum(high * count for _, high, count in buckets),
    )


@pytest.mark.parametrize("queued", [[], ["-Q"]])
def test_each_rung_counts_and_times_requests(
    trace: Any, disk: Disk, rungs_of: Any, queued: list[str]
) -> None:
    """Every way of tracing counts each request once; none takes longer than its caller waits."""
    rungs = rungs_of("biolatency", "issue")
    assert {"tp_btf", "raw_tp"} == set(rungs)
    for rung in rungs:
        forced = [f"--rung={ladder}={rung}" for ladder in LADDERS[: 2 + len(queued)]]
        tool = trace("biolatency", "-d", disk.name, "--json", *queued, *forced)
        took = disk.read(READS) + disk.write(WRITES)
        tool.end()

        assert {(): READS + WRITES} == counts(tool)
        assert 0 == tool.summary["lost"]
        least, most = bounds(tool)
        assert least <= took
        assert most > 0


def test_disks_apart(trace: Any, new_disk: Callable[[], Disk]) -> None:
    """-D gives each disk its own histogram."""
    one, other = new_disk(), new_disk()
    tool = trace("biolatency", "-D", "--json")
    one.read(READS)
    other.read(OTHERS)
    tool.end()

    found = counts(tool, "disk")
    assert [READS, OTHERS] == [found[one.name,], found[other.name,]]


def test_operations_apart(trace: Any, disk: Disk) -> None:
    """-F gives each operation its own histogram, under the kernel's name for it."""
    tool = trace("biolatency", "-d", disk.name, "-F", "--json")
    disk.read(READS)
    disk.write(WRITES)
    disk.flush_and_discard()
    tool.end()

    expected = {("DISCARD",): 1, ("FLUSH",): 1, ("READ",): READS, ("WRITE",): WRITES}
    assert expected == counts(tool, "operation")
    assert list(expected) == list(counts(tool, "operation"))


@pytest.mark.parametrize("apart", [[], ["-F"]])
def test_average_and_total(trace: Any, disk: Disk, apart: list[str]) -> None:
    """-e adds the exact sum, which lies between the bounds of the buckets."""
    tool = trace("biolatency", "-d", disk.name, "-e", "--json", *apart)
    disk.read(READS)
    disk.write(WRITES)
    tool.end()

    least, most = bounds(tool)
    assert least <= sum(each["sum"] for each in tool.json) <= most
    for each in tool.json:
        assert each["average"] == pytest.approx(each["sum"] / each["count"])


def test_disk_filter(trace: Any, new_disk: Callable[[], Disk]) -> None:
    """-d leaves other disks out."""
    wanted, other = new_disk(), new_disk()
    tool = trace("biolatency", "-d", wanted.path, "-D", "--json")
    wanted.read(READS)
    other.read(OTHERS)
    tool.end()

    assert {(wanted.name,): READS} == counts(tool, "disk")


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_process_filter(trace: Any, disk: Disk, scheduler: str) -> None:
    """-p counts what the process submits, whoever passes it on to the device."""
    (disk.settings / "queue/scheduler").write_text(scheduler)
    tool = trace("biolatency", "-d", disk.name, "-p", str(os.getpid()), "--json")
    disk.read(READS)
    read_in_a_child(disk, OTHERS)
    disk.write(WRITES)
    tool.end()

    assert {(): READS + WRITES} == counts(tool)


@pytest.mark.parametrize("controlled", [False, True])
def test_cgroup_filter(trace: Any, disk: Disk, controlled: bool) -> None:
    """--cgroup counts the I/O of a cgroup, with and without the io controller."""
    root = Path(kernel.cgroup_root())
    if controlled:
        if "io" not in (root / "cgroup.controllers").read_text().split():
            pytest.skip("needs the io controller in the cgroup2 hierarchy")
        (root / "cgroup.subtree_control").write_text("+io")
    cgroup = root / "biolatency-test"
    cgroup.mkdir()
    try:
        options = ["-d", disk.name, "--cgroup", str(cgroup), "--json"]
        tool = trace("biolatency", *options)
        mine = trace("biolatency", *options, "-p", str(os.getpid()))
        disk.read(READS)
        read_in_a_child(
            disk, OTHERS,
            preexec_fn=lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid())),
        )  # fmt: skip
        tool.end()
        mine.end()
    finally:
        cgroup.rmdir()
        if controlled:
            (root / "cgroup.subtree_control").write_text("-io")

    assert {(): OTHERS} == counts(tool)
    assert {} == counts(mine)  # both filters count


def test_milliseconds(trace: Any, disk: Disk) -> None:
    """-m shows the same requests in milliseconds."""
    tool = trace("biolatency", "-d", disk.name, "-m", "--json")
    took = disk.read(READS)
    tool.end()

    assert ["msecs"] == [each["unit"] for each in tool.json]
    assert {(): READS} == counts(tool)
    assert bounds(tool)[0] <= took / 1000


@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
def test_sampling(trace: Any, disk: Disk, rung: str) -> None:
    """--sample-rate 2 counts some requests, not all, says so, and loses none."""
    forced = [f"--rung={ladder}={rung}" for ladder in LADDERS[:2]]
    tool = trace("biolatency", "-d", disk.name, "--sample-rate", "2", *forced)
    disk.read(101)
    tool.end()

    assert "sampled 1/2" == tool.out.splitlines()[0]
    seen, lost = tool.counted
    assert 0 < seen < 101
    assert 0 == lost


def test_h_is_a_histogram(trace: Any) -> None:
    """-h traces, and a line tells where the help is."""
    tool = trace("biolatency", "-h")
    tool.end()

    assert 0 == tool.code
    assert "biolatency: use --help for help" == tool.err.splitlines()[0]


@pytest.fixture
def slow_disk() -> Iterator[Disk]:
    """Give a disk that takes 25 ms for each request."""
    settings = ["nr_devices=1", "irqmode=2", "completion_nsec=25000000"]
    if subprocess.run(["modprobe", "-q", "null_blk", *settings], check=False).returncode:
        pytest.skip("needs null_blk")
    yield Disk("/dev/nullb0")
    subprocess.run(["modprobe", "-r", "null_blk"], check=True)


def test_known_latency(trace: Any, slow_disk: Disk) -> None:
    """The time of a device that takes 25 ms is told within 7 %."""
    tool = trace("biolatency", "-d", slow_disk.name, "--json")
    slow_disk.read(READS)
    tool.end()

    assert {(): READS} == counts(tool)
    assert 25_000 == pytest.approx(tool.json[0]["percentiles"]["p50"], rel=0.07)


class ScsiDisk(Disk):
    """A simulated disk that goes wrong in a chosen way, now and then."""

    SHORT_TRANSFER, HOST_BUSY = 0x100, 0x8000

    def go_wrong(self, how: int) -> None:
        """Go wrong in every third command from now on."""
        driver = Path("/sys/bus/pseudo/drivers/scsi_debug")
        (driver / "opts").write_text(str(how))
        (driver / "every_nth").write_text("3")


@pytest.fixture
def scsi_disk(until: Callable[[Any], None]) -> Iterator[ScsiDisk]:
    """Give a disk that takes 2 ms for each command."""
    subprocess.run(["modprobe", "-q", "sd_mod"], check=False)
    command = ["modprobe", "-q", "scsi_debug", "dev_size_mb=16", "ndelay=2000000"]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("needs scsi_debug")
    pattern = "bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/sd*"
    until(lambda: [path for path in Path("/sys").glob(pattern) if (path / "dev").exists()])
    [found] = Path("/sys").glob(pattern)
    until(Path("/dev", found.name).exists)
    yield ScsiDisk(f"/dev/{found.name}")
    subprocess.run(["modprobe", "-r", "scsi_debug"], check=True)


@pytest.fixture
def kernel_says() -> Iterator[Callable[[str], int]]:
    """Give a function that counts how often a block tracepoint fired, as tracefs tells."""
    instance = Path("/sys/kernel/tracing/instances/biolatency-test")
    instance.mkdir()
    (instance / "events/block/enable").write_text("1")
    yield lambda name: (instance / "trace").read_text().count(f" {name}: ")
    instance.rmdir()


@pytest.mark.parametrize("queued", [[], ["-Q"]])
def test_request_that_completes_in_parts(
    trace: Any, scsi_disk: ScsiDisk, kernel_says: Any, queued: list[str]
) -> None:
    """A request that the device answers in parts is one request, and ends with the last part."""
    tool = trace("biolatency", "-d", scsi_disk.name, "--json", *queued)
    scsi_disk.go_wrong(ScsiDisk.SHORT_TRANSFER)
    took = scsi_disk.read(READS, 16 * BLOCK)
    tool.end()

    assert kernel_says("block_rq_complete") > READS
    assert {(): READS} == counts(tool)
    least, most = bounds(tool)
    assert least <= took
    assert not queued or most >= 0.8 * took


def test_request_that_is_queued_again(trace: Any, scsi_disk: ScsiDisk, kernel_says: Any) -> None:
    """What a busy host sends back is one request; -Q counts the time until it is accepted."""
    tools = [trace("biolatency", "-d", scsi_disk.name, "--json", *how) for how in ([], ["-Q"])]
    scsi_disk.go_wrong(ScsiDisk.HOST_BUSY)
    took = scsi_disk.read(READS, 16 * BLOCK)
    for tool in tools:
        tool.end()

    assert kernel_says("block_rq_requeue") > 0
    assert [{(): READS}, {(): READS}] == [counts(tool) for tool in tools]
    (_, issued), (least, queued) = (bounds(tool) for tool in tools)
    assert issued < 0.5 * took
    assert least <= took
    assert queued >= 0.8 * took

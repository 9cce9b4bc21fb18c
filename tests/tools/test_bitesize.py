# SPDX-License-Identifier: BSD-2-Clause
"""I/O of known sizes made here is counted once each, for the process that submits it."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tools.conftest import Disk, ScsiDisk, Volume

READS, WRITES, OTHERS, SPLIT = 23, 17, 13, 7
SECTOR, BLOCK, KIB = 512, 4096, 1024
KINDS = ("tp_btf", "raw_tp")
SIZES = (SECTOR, 3 * SECTOR, BLOCK, 64 * KIB)


def sizes(tool: Any, *names: str) -> dict[Any, dict[int, int]]:
    """Return counts by the lower bounds of buckets, by the members that tell histograms apart."""
    return {
        tuple(each[name] for name in names): {low: count for low, _, count in each["buckets"]}
        for each in tool.json
    }


def completed(tool: Any, expected: dict[Any, dict[int, int]], *names: str) -> Any:
    """Return `sizes`, as expected where they lack no more than what the kernel may skip."""
    found = sizes(tool, *names)
    return {key: tool.completed(counts, expected.get(key, {})) for key, counts in found.items()}


def comm() -> str:
    """Return the command name of this thread."""
    return Path("/proc/self/comm").read_text()[:-1]


def forced(start: str) -> list[str]:
    """Return options that force a rung for the starts, and the same kind for the others."""
    kind = start.removesuffix("_getrq")
    return [f"--rung=start={start}", f"--rung=issue={kind}", f"--rung=complete={kind}"]


def test_each_rung_counts_each_size(trace: Any, disk: Disk, rungs_of: Any) -> None:
    """Every way of tracing counts each size for its process, whoever passes it on to the disk."""
    rungs = rungs_of("bitesize", "start")
    assert {"tp_btf_getrq", "raw_tp_getrq"} <= {*rungs}
    options = ["-d", disk.name, "-P", "-D", "-F", "-e", "--json"]
    tools = [trace("bitesize", *options, *forced(rung)) for rung in rungs]
    for scheduler in ("none", "mq-deadline"):
        (disk.settings / "queue/scheduler").write_text(scheduler)
        for number, size in enumerate(SIZES):
            disk.read(READS + number, size)
        disk.write(WRITES)
        disk.flush_and_discard()
    child = disk.read_in_a_child(OTHERS)
    for tool in tools:
        tool.end()

    mine = (comm(), os.getpid(), disk.name)
    read = {size: 2 * (READS + number) for number, size in enumerate(SIZES)}
    expected = {
        (*mine, "READ"): read,
        (*mine, "WRITE"): {BLOCK: 2 * WRITES},
        (*mine, "DISCARD"): {BLOCK: 2},
        ("dd", child, disk.name, "READ"): {BLOCK: OTHERS},
    }
    total = sum(size * count for size, count in read.items()) + (2 * WRITES + OTHERS + 2) * BLOCK
    for tool in tools:
        assert expected == sizes(tool, "comm", "pid", "disk", "operation")
        assert total == sum(each["sum"] for each in tool.json)
        assert {} == tool.losses


@pytest.mark.each_kernel
def test_before_and_after_splits_and_merges(trace: Any, disk: Disk) -> None:
    """--bio counts what is submitted; else the requests that the kernel makes of it count."""
    (disk.settings / "queue/max_sectors_kb").write_text("64")
    (disk.settings / "queue/nomerges").write_text("0")  # of loop devices not the default
    options = ["-d", disk.name, "--json", "-e"]
    of_bios = [trace("bitesize", *options, "--bio", f"--rung=bio_start={kind}") for kind in KINDS]
    of_requests = trace("bitesize", *options)
    disk.read(SPLIT, 256 * KIB)
    split = disk.reads()
    with disk.reading(range(OTHERS)):
        pass
    merged = disk.reads()
    for tool in (*of_bios, of_requests):
        tool.end()

    assert OTHERS - 1 == merged.merged - split.merged  # the kernel says so
    bios = {BLOCK: OTHERS, 256 * KIB: SPLIT}
    expected = {(comm(),): bios}
    for tool in of_bios:
        assert expected == completed(tool, expected, "comm")
    [requests] = of_requests.json
    assert {(comm(),): {64 * KIB: 4 * SPLIT, OTHERS * BLOCK: 1}} == sizes(of_requests, "comm")
    assert sum(size * count for size, count in bios.items()) == requests["sum"]


def test_filters(trace: Any, new_disk: Callable[[], Disk]) -> None:
    """-d, -c and -p leave out what others submit, or for other disks."""
    disk, other = new_disk(), new_disk()
    tools = [
        trace("bitesize", "--json", *options)
        for options in (
            ("-d", disk.path, "-D"),
            ("-d", disk.name, "-c", "dd", "-D"),
            ("--bio", "-d", disk.name, "-c", "dd", "-D"),
            ("-d", disk.name, "-p", str(os.getpid()), "-D"),
        )
    ]
    disk.read(READS)
    other.read(WRITES)
    disk.read_in_a_child(OTHERS)
    for tool in tools:
        tool.end()

    mine = {(comm(), disk.name): {BLOCK: READS}}
    childs = {("dd", disk.name): {BLOCK: OTHERS}}
    expected = [mine | childs, childs, childs, mine]
    assert expected == [sizes(tool, "comm", "disk") for tool in tools]


def test_volume(trace: Any, disk: Disk, new_volume: Callable[[str, str], Volume]) -> None:
    """A device without requests is traced by its bios, with and without --bio."""
    volume = new_volume("vg-sizes", f"0 8192 linear {disk.path} 8192")
    options = ["-d", "vg-sizes", "-D", "--json"]
    tools = [trace("bitesize", *options, *how) for how in ([], ["--bio"])]
    volume.read(READS)
    for tool in tools:
        tool.end()

    expected = {(comm(), volume.name): {BLOCK: READS}}
    for tool in tools:
        assert expected == completed(tool, expected, "comm", "disk")


def test_containers_apart(trace: Any, disk: Disk, cgroups: Any) -> None:
    """--per-container: a request is the container's whose process submits it."""
    name = "f6" * 32
    inside = cgroups(f"test.slice/docker-{name}.scope")
    tools = [
        trace("bitesize", "-d", disk.name, "--per-container", "--json", *how)
        for how in ([], ["--bio"])
    ]
    disk.read(READS)
    enter = functools.partial((inside / "cgroup.procs").write_text, "0")
    disk.read_in_a_child(OTHERS, preexec_fn=enter)
    for tool in tools:
        tool.end()

    expected = {(comm(), "-"): {BLOCK: READS}, ("dd", name[:12]): {BLOCK: OTHERS}}
    for tool in tools:
        assert expected == completed(tool, expected, "comm", "container")


@pytest.mark.parametrize("how", ["SHORT_TRANSFER", "HOST_BUSY"])
def test_request_that_is_issued_again(
    trace: Any, scsi_disk: ScsiDisk, kernel_says: Any, how: str
) -> None:
    """A request that the disk answers in parts, or sends back, counts once and in full."""
    size = 16 * BLOCK
    tool = trace("bitesize", "-d", scsi_disk.name, "-c", comm(), "--json")
    scsi_disk.go_wrong(getattr(scsi_disk, how))
    scsi_disk.read(READS, size)
    tool.end()

    assert len(kernel_says("block_rq_issue")) > READS
    assert {(comm(),): {size: READS}} == sizes(tool, "comm")


def test_requests_that_others_issue(trace: Any, scsi_disk: ScsiDisk, kernel_says: Any) -> None:
    """A request that waits for a busy disk counts for the process that submitted it."""
    (scsi_disk.settings / "queue/scheduler").write_text("mq-deadline")
    (scsi_disk.settings / "device/queue_depth").write_text("1")
    tool = trace("bitesize", "-d", scsi_disk.name, "--json")
    with scsi_disk.reading(range(0, 3 * OTHERS, 3)):
        pass
    tool.end()

    issuers = {line.rpartition("[")[2].rstrip("]") for line in kernel_says("block_rq_issue")}
    assert issuers - {comm()}
    assert {(comm(),): {BLOCK: OTHERS}} == sizes(tool, "comm")


def test_table(trace: Any, disk: Disk) -> None:
    """The text names the process, begins with the smallest size and shows average and total."""
    tool = trace("bitesize", "-d", disk.name, "-e")
    disk.read(READS)
    tool.end()

    lines = tool.out.splitlines()
    assert f"comm = {comm()}" == lines[0]
    assert ["bytes", ":", "count", "distribution"] == lines[1].split()
    assert ["4096", "->", "8191", ":", str(READS), f"|{'*' * 40}|"] == lines[2].split()
    assert f"count {READS}  p50 4096  p90 4096  p99 4096  p99.9 4096  max 4096 bytes" == lines[3]
    assert f"average 4096  total {READS * BLOCK} bytes" == lines[4]
    assert (READS, 0) == tool.counted

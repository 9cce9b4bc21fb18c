# SPDX-License-Identifier: BSD-2-Clause
"""Requests made here are counted once each, and timed from begin to end."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tools.conftest import Disk, ScsiDisk

READS, WRITES, OTHERS = 23, 17, 13
LADDERS = ("complete", "issue", "queue")


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
    disk.read_in_a_child(OTHERS)
    disk.write(WRITES)
    tool.end()

    assert {(): READS + WRITES} == counts(tool)


@pytest.mark.parametrize("controllers", [[], ["io"]])
def test_cgroup_filter(trace: Any, disk: Disk, new_cgroup: Any, controllers: list[str]) -> None:
    """--cgroup counts the I/O of a cgroup, with and without the io controller."""
    cgroup = new_cgroup(*controllers)
    options = ["-d", disk.name, "--cgroup", str(cgroup.path), "--json"]
    tool = trace("biolatency", *options)
    mine = trace("biolatency", *options, "-p", str(os.getpid()))
    disk.read(READS)
    disk.read_in_a_child(OTHERS, preexec_fn=cgroup.enter)
    tool.end()
    mine.end()

    assert {(): OTHERS} == counts(tool)
    assert {} == counts(mine)  # both filters count


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
@pytest.mark.parametrize("queued", [[], ["-Q"]])
def test_containers_apart(
    trace: Any, disk: Disk, cgroups: Any, scheduler: str, rung: str, queued: list[str]
) -> None:
    """--per-container: a request is the container's that submits it, whoever passes it on."""
    (disk.settings / "queue/scheduler").write_text(scheduler)
    name = "f6" * 32
    inside = cgroups(f"test.slice/docker-{name}.scope")
    below = cgroups(f"test.slice/docker-{name}.scope/payload")
    forced = [f"--rung={ladder}={rung}" for ladder in LADDERS]
    tool = trace("biolatency", "-d", disk.name, "--per-container", "--json", *queued, *forced)
    disk.read(READS)
    for cgroup in (inside, below):
        enter = functools.partial((cgroup / "cgroup.procs").write_text, "0")
        disk.read_in_a_child(OTHERS, preexec_fn=enter)
    tool.end()

    expected = {(1, "-"): READS, (inside.stat().st_ino, name[:12]): 2 * OTHERS}
    assert expected == counts(tool, "cgroup", "container")
    assert {} == tool.losses


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


def test_known_latency(trace: Any, slow_disk: Disk) -> None:
    """The time of a device that takes 25 ms is told within 7 %."""
    tool = trace("biolatency", "-d", slow_disk.name, "--json")
    slow_disk.read(READS)
    tool.end()

    assert {(): READS} == counts(tool)
    assert 25_000 == pytest.approx(tool.json[0]["percentiles"]["p50"], rel=0.07)


@pytest.mark.parametrize("queued", [[], ["-Q"]])
def test_request_that_completes_in_parts(
    trace: Any, scsi_disk: ScsiDisk, kernel_says: Any, queued: list[str]
) -> None:
    """A request that the device answers in parts is one request, and ends with the last part."""
    tool = trace("biolatency", "-d", scsi_disk.name, "--json", *queued)
    scsi_disk.go_wrong(scsi_disk.SHORT_TRANSFER)
    took = scsi_disk.read(READS, 16 * scsi_disk.BLOCK)
    tool.end()

    assert len(kernel_says("block_rq_complete")) > READS
    assert {(): READS} == counts(tool)
    least, most = bounds(tool)
    assert least <= took
    assert not queued or most >= 0.8 * took


def test_container_of_a_request_that_is_queued_again(
    trace: Any, scsi_disk: ScsiDisk, cgroups: Any
) -> None:
    """A request remains its submitter's, though the kernel issues it again by itself."""
    name = "f6" * 32
    inside = cgroups(f"test.slice/docker-{name}.scope")
    tool = trace("biolatency", "-d", scsi_disk.name, "--per-container", "--json")
    scsi_disk.go_wrong(scsi_disk.HOST_BUSY)
    enter = functools.partial((inside / "cgroup.procs").write_text, "0")
    scsi_disk.read_in_a_child(READS, preexec_fn=enter)
    tool.end()

    assert {(inside.stat().st_ino, name[:12]): READS} == counts(tool, "cgroup", "container")


def test_request_that_is_queued_again(trace: Any, scsi_disk: ScsiDisk, kernel_says: Any) -> None:
    """What a busy host sends back is one request; -Q counts the time until it is accepted."""
    tools = [trace("biolatency", "-d", scsi_disk.name, "--json", *how) for how in ([], ["-Q"])]
    scsi_disk.go_wrong(scsi_disk.HOST_BUSY)
    took = scsi_disk.read(READS, 16 * scsi_disk.BLOCK)
    for tool in tools:
        tool.end()

    assert kernel_says("block_rq_requeue")
    assert [{(): READS}, {(): READS}] == [counts(tool) for tool in tools]
    (_, issued), (least, queued) = (bounds(tool) for tool in tools)
    assert issued < 0.5 * took
    assert least <= took
    assert queued >= 0.8 * took

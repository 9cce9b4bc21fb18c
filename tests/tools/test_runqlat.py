# SPDX-License-Identifier: BSD-2-Clause
"""Waits are those that the scheduler's own accounts tell of, in number and in length."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.host.cgroups import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TURNS = 101
CPU = min(os.sched_getaffinity(0))
# On each byte, answer with one; on "b" burn CPU time before.
WORK = f"""
import os, sys, time
os.sched_setaffinity(0, {{{CPU}}})
os.write(1, b".")
while order := os.read(0, 1):
    end = time.process_time() + 0.2
    while order == b"b" and time.process_time() < end:
        pass
    os.write(1, b".")
"""


class Waits(NamedTuple):
    """How often a process has waited for a CPU, and how long altogether, in nanoseconds."""

    times: int
    lasted: int

    def since(self, earlier: Waits) -> Waits:
        """Return what came since."""
        return Waits(self.times - earlier.times, self.lasted - earlier.lasted)


class Worker:
    """A process on one CPU, asleep but for what it is told to do."""

    def __init__(self, until: Callable[[Any], None], **settings: Any) -> None:
        self._until = until
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings
        )
        self.pid = self.process.pid
        self.answer()

    def order(self, what: bytes) -> None:
        """Give an order."""
        assert self.process.stdin
        os.write(self.process.stdin.fileno(), what)

    def answer(self) -> None:
        """Wait until the order is done."""
        assert self.process.stdout
        assert b"." == os.read(self.process.stdout.fileno(), 1)

    def play(self, turns: int) -> None:
        """Wake it, and be woken by it, so many times."""
        for _ in range(turns):
            self.order(b"p")
            self.answer()

    def waits(self) -> Waits:
        """Return what the scheduler's accounts say while it sleeps, waiting for an order."""
        folder = Path(f"/proc/{self.pid}")
        # The number of the system call, then its arguments: the first of read(0, ...) is 0. The
        # file says "running" as long as the process is on a CPU or in its queue.
        self._until(lambda: (folder / "syscall").read_text().split()[1:2] == ["0x0"])
        # It left the CPU as often as it came to it, and it comes from the queue. The number in
        # schedstat leaves out those preempted on their way to sleep.
        switches = re.findall(r"ctxt_switches:\s+(\d+)", (folder / "status").read_text())
        return Waits(sum(map(int, switches)), int((folder / "schedstat").read_text().split()[1]))

    def end(self) -> None:
        """Let it exit."""
        self.process.communicate()


@pytest.fixture
def hire(until: Callable[[Any], None]) -> Iterator[Callable[..., Worker]]:
    """Give a function that starts workers."""
    if os.geteuid():
        pytest.skip("needs root")
    workers: list[Worker] = []

    def start(**settings: Any) -> Worker:
        workers.append(Worker(until, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def count(tool: Any) -> int:
    """Return the number of waits in all histograms."""
    return sum(each["count"] for each in tool.json)


def nearly(times: int) -> Any:
    """Return what equals a number of waits.

    Seen on one kernel: a few switches per thousand never reach a tracepoint, ftrace's neither.
    """
    return pytest.approx(times, rel=0.05)


def test_containers_apart(trace: Any, cgroups: Any, hire: Any, rungs_of: Any) -> None:
    """--per-container: a wait is the container's of the task that waits, whoever wakes it."""
    name = "f6" * 32
    cgroup = cgroups(f"test.slice/docker-{name}.scope")
    worker = hire(preexec_fn=functools.partial((cgroup / "cgroup.procs").write_text, "0"))
    waker = hire()
    for rung in rungs_of("runqlat", "wait"):
        before = worker.waits()
        tool = trace("runqlat", "--per-container", "--json", "--rung", f"wait={rung}")
        worker.play(TURNS)
        waker.play(TURNS)
        expected = worker.waits().since(before).times
        tool.end()

        found = {(each["cgroup"], each["container"]): each["count"] for each in tool.json}
        assert nearly(expected) == found[cgroup.stat().st_ino, name[:12]]
        assert found[1, "-"] > TURNS / 2
        assert len(found) == len(tool.json)


def test_each_rung_counts_wakeups(trace: Any, hire: Any, rungs_of: Any) -> None:
    """Every way of tracing counts as many waits as the scheduler does."""
    worker = hire()
    rungs = rungs_of("runqlat", "wait")
    assert {"tp_btf", "raw_tp"} == set(rungs)
    for rung in rungs:
        before = worker.waits()
        tool = trace("runqlat", "-p", str(worker.pid), "--json", "--rung", f"wait={rung}")
        worker.play(TURNS)
        expected = worker.waits().since(before).times
        tool.end()

        assert expected > TURNS / 2  # some turns come before it sleeps
        assert nearly(expected) == count(tool)
        assert expected >= count(tool)
        assert 0 == tool.summary["lost"]


def test_preempted_processes_wait(trace: Any, hire: Any) -> None:
    """Two that compete for a CPU wait as long as the scheduler says, within 7 %."""
    one, other = hire(), hire()
    before = one.waits()
    tool = trace("runqlat", "-p", str(one.pid), "--json")
    one.order(b"b")
    other.order(b"b")
    one.answer()
    other.answer()
    expected = one.waits().since(before)
    tool.end()

    assert nearly(expected.times) == count(tool)
    buckets = [bucket for each in tool.json for bucket in each["buckets"]]
    lasted = sum((low + high) / 2 * times for low, high, times in buckets)
    assert expected.lasted / 1000 == pytest.approx(lasted, rel=0.07)


@pytest.mark.parametrize(("option", "member"), [("-P", "pid"), ("-L", "tid")])
def test_processes_apart(trace: Any, hire: Any, option: str, member: str) -> None:
    """-P and -L give each process or thread its own histogram, under its name."""
    workers = [hire(), hire()]
    before = [worker.waits() for worker in workers]
    tool = trace("runqlat", option, "--json")
    for worker, turns in zip(workers, (TURNS, 2 * TURNS)):
        worker.play(turns)
    expected = {w.pid: w.waits().since(b).times for w, b in zip(workers, before)}
    tool.end()

    found = {each[member]: each for each in tool.json}
    for pid, times in expected.items():
        assert nearly(times) == found[pid]["count"]
    name = Path(f"/proc/{workers[0].pid}/comm").read_text().strip()
    assert {name} == {found[pid]["comm"] for pid in expected}
    assert 0 not in found


def test_cpus_apart(trace: Any, hire: Any) -> None:
    """-C tells on which CPU the wait ended."""
    worker = hire()
    tool = trace("runqlat", "-C", "-p", str(worker.pid), "--json")
    worker.play(TURNS)
    tool.end()

    assert [CPU] == [each["cpu"] for each in tool.json]
    assert count(tool) > 0


def test_cpu_filter(trace: Any, hire: Any) -> None:
    """-c leaves the waits on other CPUs out."""
    others = sorted(os.sched_getaffinity(0) - {CPU})
    if not others:
        pytest.skip("needs two CPUs")
    worker = hire()
    tools = [
        trace("runqlat", "-p", str(worker.pid), "-c", str(cpu), "--json")
        for cpu in (CPU, others[0])
    ]
    worker.play(TURNS)
    for tool in tools:
        tool.end()

    assert count(tools[0]) > 0
    assert 0 == count(tools[1])


def test_cgroup_filter(trace: Any, hire: Any) -> None:
    """--cgroup judges who waits, not who wakes it."""
    cgroup = Path(cgroup_root(), "runqlat-test")
    cgroup.mkdir()
    try:
        worker = hire(preexec_fn=lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid())))
        before = worker.waits()
        tool = trace("runqlat", "--cgroup", str(cgroup), "-P", "--json")
        worker.play(TURNS)
        expected = worker.waits().since(before).times
        tool.end()
        worker.end()
    finally:
        cgroup.rmdir()

    assert [worker.pid] == [each["pid"] for each in tool.json]
    assert nearly(expected) == count(tool)


def test_least_wait(trace: Any, hire: Any) -> None:
    """--min leaves shorter waits out."""
    one, other = hire(), hire()
    tool = trace("runqlat", "-p", str(one.pid), "--min", "1024", "--json")
    one.play(TURNS)
    for worker in (one, other):
        worker.order(b"b")
    for worker in (one, other):
        worker.answer()
    tool.end()

    assert count(tool) > 0
    assert 1024 <= min(low for each in tool.json for low, _, _ in each["buckets"])


def test_namespaces_apart(trace: Any, hire: Any) -> None:
    """--pidnss tells in which PID namespace the wait was."""
    worker = hire()
    tool = trace("runqlat", "--pidnss", "-p", str(worker.pid), "--json")
    worker.play(TURNS)
    namespace = os.stat(f"/proc/{worker.pid}/ns/pid").st_ino
    tool.end()

    assert [namespace] == [each["pidns"] for each in tool.json]


def test_intervals(run: Any) -> None:
    """An interval and a count give so many reports; the summary counts what they hold."""
    with run("runqlat", "--self", "--json", "0.1", "3") as tool:
        tool.ended()

    assert 0 == tool.code
    assert 3 == len(tool.json)
    assert tool.summary["events"] == count(tool)
    times = [each["time"] for each in tool.json]
    assert times == sorted(set(times))

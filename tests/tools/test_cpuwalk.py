# SPDX-License-Identifier: BSD-2-Clause
"""Samples tell how long processes ran, and on which CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.host.cpus import read_idle_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HZ = 197  # out of step with the ticks at which the scheduler takes turns
CPUS = sorted(os.sched_getaffinity(0))
# On one CPU, when told to, run for some CPU time; tell how much it was.
BURN = """
import contextlib, ctypes, os, resource, sys, time
cpu, seconds, code = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
os.sched_setaffinity(0, {cpu})
with contextlib.suppress(ValueError):  # maps count as locked memory before 5.11
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
libbpf = ctypes.CDLL("libbpf.so.1")
empty = libbpf.bpf_map_create(1, b"empty", 4, 8, 1 << 16, None)
room = ctypes.create_string_buffer(64)
count = ctypes.c_uint32()
print(flush=True)
sys.stdin.readline()
begin = time.process_time()
while time.process_time() < begin + seconds:
    exec(code)
print(time.process_time() - begin, flush=True)
sys.stdin.readline()
"""
# Search the whole of a hash; the kernel lets no sampling program in meanwhile.
READ_MAP = """
count.value = 1
libbpf.bpf_map_lookup_batch(empty, None, room, room, room, ctypes.byref(count), None)
"""


class Burner:
    """A process on one CPU, asleep before and after it burns CPU time."""

    def __init__(self, cpu: int, seconds: float, code: str = "pass") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BURN, str(cpu), str(seconds), code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.pid = self.process.pid
        assert self.process.stdin
        assert self.process.stdout
        self.orders, self.answers = self.process.stdin, self.process.stdout
        self.answers.readline()

    def begin(self) -> None:
        """Begin to burn."""
        self.orders.write("\n")

    def burn(self) -> float:
        """Burn; return the samples that its CPU time is worth."""
        self.begin()
        return float(self.answers.readline()) * HZ

    def end(self) -> None:
        """Kill it, whatever it does."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hire() -> Iterator[Callable[..., Burner]]:
    """Give a function that starts burners."""
    if os.geteuid():
        pytest.skip("needs root")
    burners: list[Burner] = []

    def start(*arguments: Any) -> Burner:
        burners.append(Burner(*arguments))
        return burners[-1]

    yield start
    for burner in burners:
        burner.end()


@pytest.fixture
def second_cpu() -> Iterator[Callable[[bool], object]]:
    """Give a function that takes the second CPU of a guest online or offline."""
    if not os.environ.get("TRACEWHEEL_GUEST"):
        pytest.skip("needs a guest: a host is to keep its CPUs")
    switch = Path("/sys/devices/system/cpu/cpu1/online")
    if not switch.exists():
        pytest.skip("needs two CPUs")
    yield lambda online: switch.write_text(f"{online:d}")
    switch.write_text("1")


def agree(found: int, expected: float, tool: Any) -> bool:
    """Tell whether samples are as many as expected, but for chance and those not taken.

    An emulated CPU is late for many; no more than a quarter of them is excused.
    """
    unsampled: float = min(tool.summary["losses"].get("unsampled", 0), expected / 4)
    return 0.93 * expected - unsampled - 2 < found < 1.07 * expected + 2


@pytest.mark.parametrize("cpu", CPUS)
def test_each_rung_samples_where_a_process_runs(
    trace: Any, hire: Any, rungs_of: Any, cpu: int
) -> None:
    """A process on one CPU is seen there alone, as often as its CPU time lets expect."""
    rungs = rungs_of("cpuwalk", "sample")
    assert ["cpu_clock"] == rungs
    for rung in rungs:
        burner = hire(cpu, 1.3)
        options = ("-F", str(HZ), "-p", str(burner.pid), "--json")
        tool = trace("cpuwalk", *options, "--rung", f"sample={rung}")
        expected = burner.burn()
        tool.end()

        assert [cpu] == [row["cpu"] for row in tool.json]
        assert agree(tool.json[0]["count"], expected, tool)
        assert tool.json[0]["count"] == tool.summary["events"]
        assert {} == tool.losses


def test_only_the_cpu_asked_for(trace: Any, hire: Any) -> None:
    """With -c another CPU's samples are not taken."""
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    burner = hire(CPUS[0], 0.3)
    here, elsewhere = (
        trace("cpuwalk", "-F", str(HZ), "-c", str(cpu), "-p", str(burner.pid), "--json")
        for cpu in CPUS[:2]
    )
    expected = burner.burn()

    assert agree(here.end().summary["events"], expected, here)
    assert 0 == elsewhere.end().summary["events"]


def test_reports_together_have_every_sample(trace: Any, hire: Any) -> None:
    """At intervals, too, each sample is told once."""
    burner = hire(CPUS[0], 0.7)
    tool = trace("cpuwalk", "-F", str(HZ), "-p", str(burner.pid), "--json", "0.1")
    expected = burner.burn()
    tool.end()

    assert agree(sum(row["count"] for row in tool.json), expected, tool)
    assert len(tool.json) > 1


class Row(NamedTuple):
    """A row of a table with -P."""

    pid: str
    comm: str
    cpu: str
    samples: str
    share: str
    stars: str = ""


def test_shares_of_processes(trace: Any, hire: Any) -> None:
    """-P tells processes apart, and shares and bars are those of the counts."""
    burners = [hire(CPUS[0], 1.1), hire(CPUS[-1], 0.5)]
    tool = trace("cpuwalk", "-F", str(HZ), "-P")
    expected = {str(burner.pid): burner.burn() for burner in burners}
    tool.end()

    rows = [Row(*words) for words in tool.rows]
    counts = [int(row.samples) for row in rows]
    for row, count in zip(rows, counts):
        share = 100 * count / sum(counts)
        assert (f"{share:.1f}" if share < 10 else f"{share:.0f}") == row.share
        assert 30 * count // max(counts) == len(row.stars)
    assert counts == sorted(counts, reverse=True)
    found = {row.pid: count for row, count in zip(rows, counts) if row.pid in expected}
    assert expected.keys() == found.keys()
    for pid, samples in expected.items():
        assert 0.7 * samples < found[pid] < 1.1 * samples + 2  # emulated CPUs are late for many


def test_samples_that_the_kernel_passes_over(trace: Any, hire: Any) -> None:
    """Samples that meet the reading of a map are not taken, but told."""
    burner = hire(CPUS[0], 1.3, READ_MAP)
    tool = trace("cpuwalk", "-F", str(HZ), "-c", str(CPUS[0]), "-p", str(burner.pid), "--json")
    expected = burner.burn()
    tool.end()
    events, unsampled = tool.summary["events"], tool.summary["losses"]["unsampled"]

    assert events < expected * 0.8
    assert expected * 0.93 < events + unsampled


def test_idle_cpus_lose_nothing(trace: Any) -> None:
    """What a CPU does not sample while it is idle is not told as lost: it was no event."""
    before, begin = read_idle_ns(), time.monotonic_ns()
    tool = trace("cpuwalk", "-F", str(HZ), "--json", "--duration", "1.3").ended()
    took = time.monotonic_ns() - begin
    idle = sum(read_idle_ns().values()) - sum(before.values())

    busy_ticks = HZ * (took * len(before) - idle) / 10**9
    assert tool.summary["lost"] <= busy_ticks


@pytest.mark.parametrize("was_there", [False, True])
def test_cpu_that_comes_online_is_sampled(
    trace: Any, hire: Any, second_cpu: Any, was_there: bool
) -> None:
    """A CPU that comes, or goes and comes back, is sampled from then on."""
    options = ("-F", str(HZ), "-P", "--json", *(["-c", "1"] if was_there else []), "0.2")
    second_cpu(was_there)
    tool = trace("cpuwalk", *options)
    second_cpu(False)
    second_cpu(True)
    burner, first = hire(1, 1.3), hire(1, 1000)
    first.begin()
    row: dict[str, Any] = {}
    while (row.get("pid"), row.get("cpu")) != (first.pid, 1):
        row = json.loads(tool.line())
    first.end()
    expected = burner.burn()
    tool.end()
    # What it did until it was asleep was told no later than what the first one did then.
    rows = [each for each in tool.json if each["pid"] == burner.pid and each["time"] > row["time"]]

    found = sum(each["count"] for each in rows)

    assert {1} == {each["cpu"] for each in rows}
    assert expected / 4 < found < 1.07 * expected + 2  # two emulated CPUs are late for many
    assert 0.93 * expected - 2 < found + tool.summary["losses"].get("unsampled", 0)


def test_cpu_that_is_offline_loses_nothing(trace: Any, hire: Any, second_cpu: Any) -> None:
    """Samples that an offline CPU could not take are not told as unsampled."""
    begin = time.monotonic()
    tool = trace("cpuwalk", "-F", str(HZ), "-c", "1", "--json")
    second_cpu(False)
    online_s = time.monotonic() - begin
    hire(0, online_s + 0.5).burn()
    tool.end()

    assert tool.summary["losses"].get("unsampled", 0) <= HZ * online_s


@pytest.mark.parametrize("frequency", ["0", "1000000000"])
def test_frequency_that_the_kernel_refuses(run: Any, frequency: str) -> None:
    """A frequency that the kernel allows nobody is refused in a line."""
    with run("cpuwalk", "-F", frequency) as tool:
        tool.ended()

    assert 2 == tool.code
    assert 1 == tool.err.count("\n")
    assert "from 1 to " in tool.err

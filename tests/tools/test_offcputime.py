# SPDX-License-Identifier: BSD-2-Clause
"""Times off the CPU are those that a sleeper takes of itself, behind the stacks it slept in."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel.runtime.host.cgroups import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAPS = 101
PF_KTHREAD = 0x00200000
LOST = "[lost stack]"
# On each line "WHAT TIMES MS", do something that many times, for so long each time; answer with
# the nanoseconds that it took.
SLEEPER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void nap(long ms)
{
	struct timespec length = { ms / 1000, ms % 1000 * 1000000 };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &length, NULL);
}

__attribute__((noinline)) void take_naps(long times, long ms)
{
	while (times--) {
		nap(ms);
		__asm__ volatile("");
	}
}

__attribute__((noinline)) void wait_for_children(long times, long ms)
{
	while (times--)
		if (!vfork()) {
			nap(ms);
			_exit(0);
		}
}

int main(void)
{
	long times, ms;
	char what;

	setvbuf(stdout, NULL, _IONBF, 0);
	printf("ready\n");
	while (scanf(" %c %ld %ld", &what, &times, &ms) == 3) {
		struct timespec begin, end;

		clock_gettime(CLOCK_MONOTONIC, &begin);
		if (what == 'n')
			take_naps(times, ms);
		else
			wait_for_children(times, ms);
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%ld\n", (end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec);
	}
	return 0;
}
"""

PYTHON_SLEEPER = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    what, times, ms = line.split()
    begin = time.monotonic_ns()
    for _ in range(int(times)):
        time.sleep(int(ms) / 1000)
    print(time.monotonic_ns() - begin, flush=True)
"""
# How a sleeper is made, and the function that its user stacks must name. Without frame pointers
# the kernel knows the innermost one alone.
LANGUAGES = {
    "C": (["cc", "-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"], "take_naps"),
    "C without frame pointers": (["cc", "-O2", "-fomit-frame-pointer"], "clock_nanosleep"),
    "C++": (["c++", "-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"],
            "take_naps(long, long)"),
    "Python": ([], "clock_nanosleep"),
}  # fmt: skip


class Sleeper:
    """A process that sleeps when it is told to."""

    def __init__(self, until: Callable[[Any], None], *program: str | Path, **settings: Any) -> None:
        self._until = until
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **settings
        )
        self.pid = self.process.pid
        assert b"ready\n" == self._answer()
        self._rest()

    def _answer(self) -> bytes:
        assert self.process.stdout
        return bytes(self.process.stdout.readline())

    def order(self, what: str, times: int, ms: int) -> int:
        """Let it nap (n) or wait for a child that it has lent itself to (v); return the ns."""
        assert self.process.stdin
        self.process.stdin.write(f"{what} {times} {ms}\n".encode())
        taken = int(self._answer())
        self._rest()
        return taken

    def _rest(self) -> None:
        """Wait until it waits for an order; note how often it has left the CPU by now."""
        folder = Path(f"/proc/{self.pid}")
        # The number of the system call, then its arguments: the first of read(0, ...) is 0.
        self._until(lambda: (folder / "syscall").read_text().split()[1:2] == ["0x0"])
        counts = re.findall(r"ctxt_switches:\s+(\d+)", (folder / "status").read_text())
        self.switches, self.preempted = int(counts[0]) + int(counts[1]), int(counts[1])

    def end(self) -> None:
        """Let it exit."""
        self.process.communicate()


def compiled(folder: Path, language: str) -> Path:
    """Compile the sleeper."""
    source = folder / ("sleeper.cc" if language == "C++" else "sleeper.c")
    source.write_text(SLEEPER)
    subprocess.run([*LANGUAGES[language][0], "-o", folder / "sleeper", source], check=True)
    return folder / "sleeper"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the sleeper with frame pointers."""
    return compiled(tmp_path_factory.mktemp("sleeper"), "C")


@pytest.fixture
def hire(program: Path, until: Callable[[Any], None]) -> Iterator[Callable[..., Sleeper]]:
    """Give a function that starts sleepers."""
    if os.geteuid():
        pytest.skip("needs root")
    sleepers: list[Sleeper] = []

    def start(*command: str | Path, **settings: Any) -> Sleeper:
        sleepers.append(Sleeper(until, *(command or (program,)), **settings))
        return sleepers[-1]

    yield start
    for sleeper in sleepers:
        sleeper.end()


def behind(found: list[dict[str, Any]], function: str) -> list[dict[str, Any]]:
    """Return those that have ended and have a function in their kernel stack."""
    return [
        each
        for each in found
        if not each["blocked"] and any(function in name for name in each["kernel_stack"])
    ]


def times(found: list[dict[str, Any]]) -> int:
    """Return how often threads slept."""
    return sum(each["times"] for each in found)


def lasted(found: list[dict[str, Any]]) -> int:
    """Return how many nanoseconds threads slept."""
    return sum(each["ns"] for each in found)


def nearly(least: int, most: int) -> range:
    """Return how many switches of so many may be seen.

    Seen on one machine: a few per thousand never reach a tracepoint, ftrace's neither: those by
    which a certain process leaves its CPU. Who comes after it has not been seen to come.
    """
    return range(least - max(2, least // 20), most + 1)


def test_each_rung_counts_naps(trace: Any, hire: Any, rungs_of: Any) -> None:
    """Every way of tracing finds each switch, and in naps the time they took, within 5 %."""
    sleeper = hire()
    rungs = rungs_of("offcputime", "sleep")
    assert {"tp_btf", "raw_tp"} == set(rungs)
    for rung in rungs:
        options = ("-p", str(sleeper.pid), "--json", "--rung", f"sleep={rung}")
        tool = trace("offcputime", *options)
        before = sleeper.switches
        took = sleeper.order("n", NAPS, 10)
        tool.end()

        naps = behind(tool.json, "nanosleep")
        switches = sleeper.switches - before
        unseen = tool.summary["losses"].get("unseen", 0)
        assert switches == times(tool.json) + unseen
        assert times(tool.json) == tool.summary["events"]
        assert times(naps) in nearly(NAPS, NAPS + sleeper.preempted)
        assert took == pytest.approx(lasted(naps), rel=0.05)
        assert {(sleeper.pid, 0, "sleeper")} == {(n["pid"], n["tid"], n["comm"]) for n in naps}
        assert all(nap["kernel_stack"][0].startswith("__schedule") for nap in naps)
        assert {} == tool.losses
        assert unseen <= max(2, switches // 20)


def test_still_blocked(trace: Any, hire: Any, until: Any) -> None:
    """Who sleeps when the tool ends is counted and marked, with the time until then."""
    sleeper = hire()
    begin = time.monotonic_ns()
    tool = trace("offcputime", "-p", str(sleeper.pid), "--json")
    sleeper.order("n", 1, 10)
    asleep = time.monotonic_ns()
    until(lambda: time.monotonic_ns() > asleep + 300_000_000)
    stopped = time.monotonic_ns()
    tool.end()

    (blocked,) = [each for each in tool.json if each["blocked"]]
    assert any("pipe_read" in name for name in blocked["kernel_stack"])
    assert 1 == blocked["times"]
    assert stopped - asleep < blocked["ns"] < time.monotonic_ns() - begin
    assert tool.summary["events"] == times(tool.json)


def test_state_is_a_mask(trace: Any, hire: Any) -> None:
    """--state 2 finds those who wait for a child, whose state has other bits, too; 0 the rest."""
    sleeper = hire()
    options = ("offcputime", "-p", str(sleeper.pid), "--json")
    whole = trace(*options)
    tools = {s: trace(*options, "--state", s) for s in ("0", "1", "2", "3", str(2**32 - 1))}
    sleeper.order("v", 13, 10)
    sleeper.order("n", 17, 10)
    found = {state: tool.end().json for state, tool in tools.items()}
    whole.end()

    for function, one, other, least in (("vfork", "2", "1", 13), ("nanosleep", "1", "2", 17)):
        # Some are preempted on their way to sleep, and could run.
        could_run, *slept = (times(behind(found[s], function)) for s in ("0", one, other, "3"))
        assert [slept[0], 0, slept[0]] == slept
        assert slept[0] + could_run == times(behind(whole.json, function))
        assert slept[0] > least / 2
    assert times(whole.json) == times(found["0"]) + times(found[str(2**32 - 1)])


def test_least_and_most(trace: Any, hire: Any) -> None:
    """-m and -M are microseconds: what is shorter, or longer, is left out."""
    sleeper = hire()
    options = ("offcputime", "-p", str(sleeper.pid), "--json")
    least, most = trace(*options, "-m", "100000"), trace(*options, "-M", "100000")
    sleeper.order("n", 31, 10)
    sleeper.order("n", 7, 200)
    least.end()
    most.end()

    assert times(behind(least.json, "nanosleep")) in nearly(7, 7)
    assert times(behind(most.json, "nanosleep")) in nearly(31, 31 + sleeper.preempted)
    assert all(each["ns"] >= each["times"] * 100_000_000 for each in least.json)
    assert all(each["ns"] <= each["times"] * 100_000_000 for each in most.json)


@pytest.mark.parametrize("small", ["--stack-storage-size", "--max-entries"])
def test_full_maps_lose_no_time(trace: Any, hire: Any, small: str) -> None:
    """What finds a map full is told, and its time is kept: two tools agree on the total."""
    sleeper = hire()
    options = ("offcputime", "-p", str(sleeper.pid), "--json")
    full, whole = trace(*options, small, "1"), trace(*options)
    for _ in range(5):
        sleeper.order("n", 7, 10)
        sleeper.order("v", 7, 10)
    for tool in (full, whole):
        tool.end()

    found, expected = full.json, whole.json
    lost = [each for each in found if LOST in each["kernel_stack"]]
    assert times(expected) >= 70
    assert not any(LOST in each["kernel_stack"] for each in expected)
    assert times(expected) + whole.skipped == times(found) + full.skipped
    ended, awaited = ([e for e in each if not e["blocked"]] for each in (found, expected))
    assert lasted(awaited) == pytest.approx(lasted(ended), rel=0.05)
    assert 0 < times(lost) < times(found)
    if small == "--stack-storage-size":
        assert {} == full.losses
        assert f"{times(lost)} with a {LOST}" in full.err
    else:
        assert {"sleeps": times(lost)} == full.losses
        assert times(found) == full.summary["events"] + times(lost)


def test_begins_that_do_not_fit(trace: Any, hire: Any) -> None:
    """A sleeper whose begin finds no room is counted as lost, each time."""
    sleepers = [hire(), hire()]
    before = [sleeper.switches for sleeper in sleepers]
    tool = trace("offcputime", "--comm", "sleeper", "--json", "--max-entries", "1")
    for sleeper in sleepers:
        sleeper.order("n", NAPS, 1)
    tool.end()

    one, other = (sleeper.switches - count for sleeper, count in zip(sleepers, before))
    losses = tool.summary["losses"]
    assert tool.summary["events"] + losses.get("sleeps", 0) in nearly(one, one)
    assert losses["begins"] in nearly(other, other)


def test_filters_judge_who_sleeps(trace: Any, hire: Any) -> None:
    """Each filter finds the naps of the sleeper that it names, and those of no other."""
    cgroup = Path(cgroup_root(), "offcputime-test")
    cgroup.mkdir()
    try:
        other = hire()

        def settle() -> None:
            (cgroup / "cgroup.procs").write_text("0")
            os.setreuid(1, 0)  # the effective one must find the program

        sleeper = hire(preexec_fn=settle)
        filters = (["-p", str(sleeper.pid)], ["--tid", str(sleeper.pid)], ["--uid", "1"],
                   ["--cgroup", str(cgroup)])  # fmt: skip
        tools = [trace("offcputime", *each, "--json") for each in filters]
        for each in (sleeper, other):
            each.order("n", 23, 10)
        for tool in tools:
            tool.end()
        sleeper.end()
    finally:
        cgroup.rmdir()

    for tool in tools:
        naps = behind(tool.json, "nanosleep")
        assert {sleeper.pid} == {nap["pid"] for nap in naps}
        assert times(naps) in nearly(23, 23 + sleeper.preempted)


def is_kernel_thread(pid: int) -> bool | None:
    """Tell what a process is, None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return bool(int(fields[6]) & PF_KTHREAD)


@pytest.mark.parametrize(
    ("option", "wanted"), [("--kernel-threads-only", True), ("--user-threads-only", False)]
)
def test_kinds_of_threads(
    trace: Any, hire: Any, stir: Callable[[], None], option: str, wanted: bool
) -> None:
    """Threads of the kernel can be left out, and all others; the idle ones always are."""
    sleeper = hire()
    tool = trace("offcputime", option, "--json")
    sleeper.order("n", 5, 10)
    stir()
    pids = {each["pid"] for each in tool.end().json}

    assert 0 not in pids
    assert wanted == (sleeper.pid not in pids)
    assert {wanted} == {is_kernel_thread(pid) for pid in pids} - {None}


def test_user_stacks(trace: Any, hire: Any) -> None:
    """-u names the functions that led to the sleep, also of a process that has ended; -U only."""
    sleeper = hire()
    both = trace("offcputime", "-u", "-p", str(sleeper.pid), "--json")
    users = trace("offcputime", "-U", "--comm", "sleeper", "--json")
    sleeper.order("n", NAPS, 10)
    sleeper.end()
    for tool in (both.ended(), users.end()):
        naps = [each for each in tool.json if "take_naps" in each["user_stack"]]
        assert times(naps) in nearly(NAPS, NAPS + sleeper.preempted)
        for nap in naps:
            assert nap["user_stack"].index("take_naps") < nap["user_stack"].index("main")
            assert bool(nap["kernel_stack"]) == (tool is both)


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages(trace: Any, hire: Any, tmp_path: Path, language: str) -> None:
    """Whatever a sleeper is written in, a function is named, and has the time within 5 %."""
    if language == "Python":
        sleeper = hire(sys.executable, "-c", PYTHON_SLEEPER)
    else:
        sleeper = hire(compiled(tmp_path, language))
    tool = trace("offcputime", "-u", "-p", str(sleeper.pid), "--json")
    taken = sleeper.order("n", NAPS, 10)
    tool.end()

    naps = behind(tool.json, "nanosleep")
    named = [each for each in naps if LANGUAGES[language][1] in each["user_stack"]]
    assert lasted(naps) == lasted(named)
    assert 0.95 * taken < lasted(named) <= taken


def test_pictures(trace: Any, hire: Any, tmp_path: Path) -> None:
    """The weights of --folded are the microseconds of all intervals."""
    sleeper = hire()
    folded = tmp_path / "folded"
    options = ("-p", str(sleeper.pid), "--json", "-i", "0.2", "--folded", str(folded))
    tool = trace("offcputime", *options, "--flame", str(tmp_path / "flame.svg"))
    sleeper.order("n", NAPS, 10)
    tool.end()

    weights = [int(line.rpartition(" ")[2]) for line in folded.read_text().splitlines()]
    assert lasted(tool.json) / 1000 == pytest.approx(sum(weights), abs=len(weights))
    assert b"<svg" in (tmp_path / "flame.svg").read_bytes()


def test_threads_apart(trace: Any) -> None:
    """-L gives each thread its own sums."""
    turns: dict[int, range] = {}

    def nap(count: int) -> None:
        for _ in range(count):
            signal.sigtimedwait([], 0.01)
        preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        turns[threading.get_native_id()] = nearly(count, count + preempted)

    tool = trace("offcputime", "-L", "-p", str(os.getpid()), "--json")
    threads = [threading.Thread(target=nap, args=(count,)) for count in (7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tool.end()

    found = behind(tool.json, "sigtimedwait")
    assert {os.getpid()} == {each["pid"] for each in found}
    assert 3 == len(turns)
    for tid, expected in turns.items():
        assert times([each for each in found if each["tid"] == tid]) in expected


def test_text_and_folded_lines(trace: Any, hire: Any) -> None:
    """Text and folded lines tell the same times as each other, in microseconds."""
    sleeper = hire()
    options = ("offcputime", "-p", str(sleeper.pid), "--state", "1", "-m", "1000", "-M", "250000")
    text, folded = trace(*options), trace(*options, "-f")
    took = sleeper.order("n", 29, 10)
    text.end()
    folded.end()

    shown = [part for part in text.out.split("\n\n") if "nanosleep" in part]
    assert 1 == len(shown)
    *frames, who, total = shown[0].splitlines()
    assert f"-                sleeper ({sleeper.pid})" == who.strip()
    usecs, word, count, what = total.split()
    assert ("usecs,", "times") == (word, what)
    assert int(count) in nearly(29 - sleeper.preempted, 29)
    assert took / 1000 == pytest.approx(int(usecs), rel=0.05)
    (line,) = [line for line in folded.out.splitlines() if "nanosleep" in line]
    names, _, weight = line.rpartition(" ")
    assert ["sleeper", *(frame.strip() for frame in reversed(frames))] == names.split(";")
    assert int(usecs) == pytest.approx(int(weight), rel=0.05)


def test_library(hire: Any) -> None:
    """The sums can be read while they grow."""
    sleeper = hire()
    with tracewheel.offcputime.trace(pid=sleeper.pid) as tracing:
        for turn in range(1, 4):
            sleeper.order("n", 17, 10)
            naps = behind([stack._asdict() for stack in tracing.read()], "nanosleep")
            assert {sleeper.pid} == {nap["pid"] for nap in naps}
            assert times(naps) in nearly(17 * turn, 17 * turn + sleeper.preempted)
        assert tracing.losses().keys() <= {"unseen"}


def test_intervals(trace: Any, hire: Any) -> None:
    """Reports at intervals hold each switch once."""
    sleeper = hire()
    before = sleeper.switches
    tool = trace("offcputime", "-p", str(sleeper.pid), "--json", "-i", "0.1")
    reports = 0
    while reports < 4:
        sleeper.order("n", 11, 10)
        reports += len(behind([json.loads(tool.line())], "nanosleep"))
    tool.end()

    switches = sleeper.switches - before
    assert times(tool.json) in nearly(switches, switches)
    assert times(tool.json) == tool.summary["events"]

# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel kills for want of memory shows, once, with the memory that it had."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.events import LIMIT_S, limited_memory, use_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT, PRIME = 32 << 20, 3
NAME = "tracewheel-oom"
KB = 1 << 10
# What CPUs have counted and not added up yet: 32 pages for each, and before v6.2 64 for a thread.
UNCOUNTED = 64 * os.sysconf("SC_PAGE_SIZE") * (os.cpu_count() or 1)
INVOKED = re.compile(r"invoked oom-killer: gfp_mask=0x[0-9a-f]+\(([^)]*)\)")
KILLED = re.compile(
    r"Killed process (?P<pid>\d+) \((?P<comm>.*)\) total-vm:(?P<virtual>\d+)kB, "
    r"anon-rss:(?P<anon>\d+)kB, file-rss:(?P<file>\d+)kB, shmem-rss:(?P<shmem>\d+)kB, "
    r"UID:(?P<uid>\d+) pgtables:(?P<page_tables>\d+)kB oom_score_adj:(?P<score_adj>-?\d+)"
)


@pytest.fixture
def memory() -> Iterator[Path]:
    """Give a cgroup with little memory."""
    if os.geteuid():
        pytest.skip("needs root")
    with limited_memory(NAME, LIMIT) as cgroup:
        if not cgroup:
            pytest.skip("needs cgroups for memory")
        yield cgroup


def kernel_said() -> list[dict[str, Any]]:
    """Return what the kernel's messages tell of kills, in bytes."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    found = []
    for kill in KILLED.finditer(log):
        known: dict[str, Any] = {
            n: v if n == "comm" else int(v) for n, v in kill.groupdict().items()
        }
        for name in ("virtual", "anon", "file", "shmem", "page_tables"):
            known[name] *= KB
        found.append(known)
    return found


def flags_said() -> list[str]:
    """Return the flags of the allocations for which the kernel has killed, as it names them."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return INVOKED.findall(log)


def test_each_rung_shows_every_kill(trace: Any, rungs_of: Any, memory: Path) -> None:
    """Every way of tracing shows each kill, as the kernel's own message tells of it."""
    rungs = rungs_of("oomkill", "kill")
    assert len(rungs) >= 2
    tools = {rung: trace("oomkill", "--json", "--rung", f"kill={rung}") for rung in rungs}
    before = time.time_ns()
    pids = [use_memory(memory, 2 * LIMIT).pid for _ in range(PRIME)]
    after = time.time_ns()
    said = {kill["pid"]: kill for kill in kernel_said()}
    flags = flags_said()[-PRIME:]
    for rung, tool in tools.items():
        tool.end()
        rows = [row for row in tool.json if row["memcg"] == f"/{NAME}"]

        assert pids == [row["pid"] for row in rows] == [row["tid"] for row in rows]
        assert {} == tool.losses
        for row in rows:
            expected = said[row["pid"]]
            for name in ("anon", "file", "shmem"):
                assert expected[name] == pytest.approx(row[name], abs=UNCOUNTED)
            # A part of a KB is left out in the message.
            assert {**expected, "page_tables": expected["page_tables"] // KB} == {
                **{name: row[name] for name in expected},
                **{name: expected[name] for name in ("anon", "file", "shmem")},
                "page_tables": row["page_tables"] // KB,
            }
            assert row["rss"] == row["anon"] + row["file"] + row["shmem"]
            assert LIMIT - (4 << 20) < row["rss"] < LIMIT + (4 << 20)
            assert (LIMIT, 0) == (row["limit"], row["swap"])
            assert LIMIT * 0.9 < row["used"] <= LIMIT
            assert (row["pid"], row["comm"]) == (row["trigger_pid"], row["trigger_comm"])
            assert before <= row["time"] <= after
            assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d \d+\.\d\d", row["load"])
            assert not row["group"]
            check_reason(row, rung)
        seen = flags if rung in ("fentry", "kprobe") else [None] * PRIME
        assert seen == [row["gfp"] for row in rows]


def check_reason(row: dict[str, Any], rung: str) -> None:
    """Compare why a process was chosen with what is known of it."""
    known = rung in ("fentry", "kprobe")
    assert (row["constraint"], row["order"]) == (("MEMCG", 0) if known else (None, None))
    # What the kernel shares out is the cgroup's limit, and not what the victim has.
    assert row["domain"] == (LIMIT if known else None)


# It takes some memory, says so, and takes more when it is told to.
HOLDER = """
import sys
held = [bytearray(int(sys.argv[1]) << 20)]
print(flush=True)
held.append(bytearray(int(sys.stdin.readline()) << 20))
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(memory: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a function that starts a process of the cgroup that holds so many MB of memory."""
    started = []

    def start(megabytes: int, score_adj: int = 0) -> subprocess.Popen[bytes]:
        def enter() -> None:
            (memory / "cgroup.procs").write_text("0")
            Path("/proc/self/oom_score_adj").write_text(str(score_adj))

        process = subprocess.Popen(
            [sys.executable, "-SIc", HOLDER, str(megabytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=enter,
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ask_for(process: subprocess.Popen[bytes], megabytes: int) -> None:
    """Let a holder take more memory."""
    assert process.stdin
    process.stdin.write(b"%d\n" % megabytes)
    process.stdin.flush()


def test_victim_and_trigger(trace: Any, holder: Any) -> None:
    """Whoever wants memory and whoever is killed are told apart, and -p names the victim.

    A peer shows the user's frames of the one by the symbols of the other.
    """
    victim, trigger = holder(11, score_adj=500), holder(1)
    stacks = trace("oomkill", "--json", "--stack")
    tools = [trace("oomkill", "--json", "-p", str(each.pid)) for each in (victim, trigger)]
    ask_for(trigger, 16)
    assert -signal.SIGKILL == victim.wait(LIMIT_S)
    assert trigger.stdout.readline()
    tools[0].ended()  # with its process
    for tool in (stacks, tools[1]):
        tool.end()

    [row] = [row for row in stacks.json if row["pid"] == victim.pid]
    assert (trigger.pid, 500) == (row["trigger_pid"], row["score_adj"])
    assert 11 << 20 < row["rss"] < 22 << 20
    assert any("oom_kill_process" in frame for frame in row["stack"])
    # The victim is gone, and with it the names of its functions.
    assert [frame for frame in row["user_stack"] if not frame.startswith("[unknown")]
    assert [[victim.pid], []] == [[row["pid"] for row in tool.json] for tool in tools]


def test_whole_groups(trace: Any, holder: Any, memory: Path) -> None:
    """With memory.oom.group each process of the cgroup shows, with the same trigger."""
    if not (memory / "memory.oom.group").exists():
        pytest.skip("needs memory.oom.group of cgroup2")
    (memory / "memory.oom.group").write_text("1")
    tool = trace("oomkill", "--json")
    processes = [holder(2), holder(2), holder(2)]
    ask_for(processes[0], 32)
    for process in processes:
        assert -signal.SIGKILL == process.wait(LIMIT_S)
    tool.end()

    rows = [row for row in tool.json if row["memcg"] == f"/{NAME}"]
    assert sorted(process.pid for process in processes) == sorted(row["pid"] for row in rows)
    assert {processes[0].pid} == {row["trigger_pid"] for row in rows}
    assert all(row["group"] for row in rows)


def test_cgroups_below_the_limit(trace: Any, memory: Path) -> None:
    """The path is that of the victim's own cgroup, the limit that of the one that has no more."""
    inner = memory / "inner"
    if (memory / "cgroup.subtree_control").exists():
        (memory / "cgroup.subtree_control").write_text("+memory")
    inner.mkdir()
    tool = trace("oomkill", "--json")
    pid = use_memory(inner, 2 * LIMIT).pid
    tool.end()

    [row] = [row for row in tool.json if row["pid"] == pid]
    assert (f"/{NAME}/inner", LIMIT) == (row["memcg"], row["limit"])


def test_kills_by_others(trace: Any, memory: Path) -> None:
    """A process that somebody else kills is none that the kernel kills for want of memory."""
    tool = trace("oomkill", "--json")
    child = subprocess.Popen(["sleep", "1000"])
    child.kill()
    child.wait()
    # The end of the first process of a PID namespace kills all others in it.
    subprocess.run(["unshare", "--pid", "--fork", "sh", "-c", "sleep 1000 & :"], check=True)
    pid = use_memory(memory, 2 * LIMIT).pid
    tool.end()

    assert [pid] == [row["pid"] for row in tool.json]


def test_table(trace: Any, memory: Path) -> None:
    """The table has the time first, with -t as a date with milliseconds, and memory in MB."""
    tools = [trace("oomkill"), trace("oomkill", "-t"), trace("oomkill", "--json")]
    use_memory(memory, 2 * LIMIT)
    for tool in tools:
        tool.end()

    [row] = tools[2].json
    [plain], [dated] = tools[0].rows, tools[1].rows
    who = [str(row["pid"]), "dd"]
    thousandths = row["rss"] * 1000 >> 20
    megabytes = f"{thousandths // 1000}.{thousandths % 1000:03}"
    assert [*who, megabytes, "0", *who, f"/{NAME}"] == plain[1:]
    assert plain[1:] == dated[2:]
    # Each tool measures by itself how far the clocks are apart.
    when = datetime.datetime.strptime(" ".join(dated[:2]), "%Y-%m-%d %H:%M:%S.%f")
    assert row["time"] / 1e9 == pytest.approx(when.timestamp(), abs=0.05)
    assert plain[0] in (
        f"{when + datetime.timedelta(seconds=s):%H:%M:%S}" for s in (-0.05, 0, 0.05)
    )

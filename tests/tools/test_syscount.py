# SPDX-License-Identifier: BSD-2-Clause
"""Calls made here are counted, each once, by whatever tells them apart."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tracewheel
from tracewheel.runtime.host import syscalls

CALLS, FAILURES, OTHERS = 10007, 101, 53
MINE = ("-p", str(os.getpid()), "--json")
NAPS, NAP_S = 7, 0.02
NO_CALL = "syscall_-1"


def call(times: int) -> None:
    """Make a system call that nobody else makes often."""
    for _ in range(times):
        os.getpgid(0)


def fail(times: int) -> None:
    """Make a call that fails."""
    for _ in range(times):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir("/no/such/folder")


def counts(tool: Any, *names: str) -> dict[Any, int]:
    """Return the counts of all reports together, by the members that tell them apart."""
    found: dict[Any, int] = {}
    for row in tool.json:
        key = tuple(row[name] for name in names)
        found[key] = found.get(key, 0) + row["count"]
    return found


def test_each_rung_counts_every_call(trace: Any, rungs_of: Any) -> None:
    """Every way of tracing counts each call once, under its name."""
    rungs = rungs_of("syscount", "enter")
    assert ["tp_btf", "raw_tp"] == rungs
    for rung in rungs:
        tool = trace("syscount", *MINE, "--rung", f"enter={rung}")
        call(CALLS)
        fail(FAILURES)
        tool.end()

        found = counts(tool, "syscall")
        expected = {("getpgid",): CALLS, ("rmdir",): FAILURES}
        assert expected == tool.completed({call: found[call] for call in expected}, expected)
        assert sum(found.values()) == tool.counted[0]
        assert {} == tool.losses


@pytest.mark.parametrize("options", [["-x"], ["-e", "ENOENT"], ["-e", str(errno.ENOENT)]])
def test_each_rung_counts_failures(trace: Any, rungs_of: Any, options: list[str]) -> None:
    """Failed calls are told from others by every rung, by -x as by -e."""
    rungs = rungs_of("syscount", "exit", "-x")
    assert ["tp_btf", "raw_tp"] == rungs
    for rung in rungs:
        tool = trace("syscount", *MINE, *options, "--rung", f"exit={rung}")
        call(CALLS)
        fail(FAILURES)
        tool.end()

        expected = {("rmdir",): FAILURES}
        assert expected == tool.completed(counts(tool, "syscall"), expected)


def test_other_errors_are_left_out(trace: Any) -> None:
    """-e leaves out what fails with another error."""
    tool = trace("syscount", *MINE, "-e", "EBADF")
    fail(FAILURES)
    for _ in range(OTHERS):
        with contextlib.suppress(OSError):
            os.close(-1)
    tool.end()

    expected = {("close",): OTHERS}
    assert expected == tool.completed(counts(tool, "syscall"), expected)


def make_no_call() -> None:
    """Make a call that no kernel has: its number is that of a return from a signal handler."""
    result = ctypes.CDLL(None, use_errno=True).syscall(-1)
    assert (-1, errno.ENOSYS) == (result, ctypes.get_errno())


@pytest.mark.parametrize("options", [["-x"], ["-e", "ENOSYS"], ["--errors"], ["-x", "-L"]])
def test_calls_that_do_not_exist(trace: Any, rungs_of: Any, options: list[str]) -> None:
    """syscall(-1) has failed with ENOSYS for every option that counts failures."""
    for rung in rungs_of("syscount", "exit", "-x"):
        tool = trace("syscount", *MINE, *options, "--rung", f"exit={rung}")
        for _ in range(FAILURES):
            make_no_call()
        tool.end()

        found = {call: n for call, n in counts(tool, "syscall").items() if call == (NO_CALL,)}
        expected = {(NO_CALL,): FAILURES}
        assert expected == tool.completed(found, expected)


@pytest.mark.parametrize("error", ["EINTR", "ERESTARTSYS"])
def test_returns_from_handlers_have_not_failed(trace: Any, error: str) -> None:
    """A return from a signal handler brings back EINTR for the call that was interrupted.

    That call itself has returned before, when the kernel did not know yet whether to restart it.
    """
    reader, writer = os.pipe()
    before = signal.signal(signal.SIGALRM, lambda *_: os.write(writer, b"x"))
    tools = [trace("syscount", *MINE, "-x"), trace("syscount", *MINE, "-e", error)]
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    for _ in range(FAILURES):
        os.read(reader, 1)  # begun again by Python after each EINTR
    signal.setitimer(signal.ITIMER_REAL, 0)
    found = [{call for (call,) in counts(tool.end(), "syscall")} for tool in tools]
    signal.signal(signal.SIGALRM, before)
    os.close(reader)
    os.close(writer)

    assert "read" in found[0]
    assert ("read" in found[1]) == (error == "ERESTARTSYS")
    assert NO_CALL not in found[0] | found[1]


def test_table_of_errors(trace: Any) -> None:
    """--errors tells how often which call failed with which error."""
    options = ("--errors", "--syscall", "rmdir")
    tool = trace("syscount", *MINE, *options)
    table = trace("syscount", "-p", str(os.getpid()), *options, "--no-header")
    fail(FAILURES)
    for _ in range(OTHERS):
        with contextlib.suppress(OSError):
            os.rmdir("/")
    tool.end()
    table.end()

    expected = {("rmdir", -errno.ENOENT): FAILURES, ("rmdir", -errno.EBUSY): OTHERS}
    assert expected == tool.completed(counts(tool, "syscall", "error"), expected)
    lines = [line.split()[:2] for line in table.out.splitlines()]
    assert [["rmdir", "ENOENT"], ["rmdir", "EBUSY"]] == lines


def test_processes_apart(trace: Any) -> None:
    """-P counts by process, by the name that it has in the kernel, though it has ended."""
    script = f"import os\nfor _ in range({CALLS}): os.getpgid(0)"
    tool = trace("syscount", "-P", "--syscall", "getpgid", "--json")
    call(FAILURES)
    child = subprocess.Popen(["/usr/bin/python3", "-c", script])
    child.wait()
    tool.end()

    found = {row["pid"]: row for row in tool.json}
    expected = {(child.pid,): CALLS, (os.getpid(),): FAILURES}
    assert expected == tool.completed(counts(tool, "pid"), expected)
    assert found[child.pid]["comm"].startswith("python3")
    assert Path("/proc/self/comm").read_text().strip() == found[os.getpid()]["comm"]
    assert "syscall" not in found[child.pid]


def test_threads_belong_to_their_process(trace: Any) -> None:
    """What a thread calls counts for its process, whatever the thread is named."""

    def renamed() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a-thread")
        call(CALLS)

    tool = trace("syscount", "-B", "--syscall", "getpgid", *MINE)
    thread = threading.Thread(target=renamed)
    thread.start()
    thread.join()
    call(OTHERS)
    tool.end()

    comm = Path("/proc/self/comm").read_text().strip()
    expected = {(os.getpid(), comm, "getpgid"): CALLS + OTHERS}
    assert expected == tool.completed(counts(tool, "pid", "comm", "syscall"), expected)


@pytest.mark.parametrize("option", ["-L", "-m"])
def test_latency(trace: Any, option: str) -> None:
    """-L and -m tell how long calls took, and count those that have returned."""
    tool = trace("syscount", *MINE, option)
    begin = time.monotonic_ns()
    for _ in range(NAPS):
        time.sleep(NAP_S)
    took = time.monotonic_ns() - begin
    call(CALLS)
    tool.end()

    found = {row["syscall"]: row for row in tool.json}
    expected = {("getpgid",): CALLS, ("clock_nanosleep",): NAPS}
    counted = {call: n for call, n in counts(tool, "syscall").items() if call in expected}
    assert expected == tool.completed(counted, expected)
    assert (NAPS - 1) * NAP_S * 1e9 <= found["clock_nanosleep"]["lasted"] <= took
    assert "clock_nanosleep" == tool.json[0]["syscall"]


def test_latency_leaves_nothing_behind(trace: Any) -> None:
    """Processes that end while their time is taken cost no entry: none is lost."""
    tool = trace("syscount", "-L", "--json", "--max-entries", "97", "--comm", "true")
    for _ in range(101):
        subprocess.run(["/bin/true"], check=True)
    tool.end()

    assert {} == tool.losses


# Runs itself again in another thread, as often as the argument says.
EXECS = """
import os, sys, threading
left = int(sys.argv[1])
run_again = [sys.executable, "-c", sys.argv[2], str(left - 1), sys.argv[2]]
if left:
    threading.Thread(target=os.execv, args=(sys.executable, run_again)).start()
    threading.Event().wait()
"""


def test_latency_of_execs(trace: Any) -> None:
    """An execve() by another thread than the first counts, and leaves no entry behind."""
    execs, room = 5, 2
    options = ("-L", "--json", "--syscall", "execve", "--max-entries", str(room))
    command = (sys.executable, "-c", EXECS, str(execs), EXECS)
    tool = trace("syscount", *options, "--", *command).ended()

    [row] = tool.json
    assert ("execve", 1 + execs) == (row["syscall"], row["count"])
    assert row["lasted"] > 0
    assert {} == tool.losses


def test_histograms(trace: Any) -> None:
    """--hist shows how long each call took, to be told within 7 %."""
    tool = trace("syscount", *MINE, "--hist")
    begin = time.monotonic_ns()
    for _ in range(NAPS):
        time.sleep(NAP_S)
    took = time.monotonic_ns() - begin
    call(CALLS)
    tool.end()

    found = {row["syscall"]: row for row in tool.json}
    expected = {("getpgid",): CALLS, ("clock_nanosleep",): NAPS}
    counted = {call: n for call, n in counts(tool, "syscall").items() if call in expected}
    assert expected == tool.completed(counted, expected)
    assert NAP_S * 1e6 * 0.93 <= found["clock_nanosleep"]["percentiles"]["p50"] <= took / 1e3
    assert sum(row["count"] for row in tool.json) == tool.summary["events"]


def test_histograms_go_not_with_tables(run: Any) -> None:
    """What --hist cannot obey is a usage error."""
    with run("syscount", "--hist", "-P") as tool:
        tool.ended()

    assert (2, "syscount: --hist cannot be combined with --process\n") == (tool.code, tool.err)


def test_calls_that_do_not_return(trace: Any) -> None:
    """Processes' ends are counted, and returns from signal handlers under their name."""
    script = "trap : USR1; for i in 1 2 3 4 5 6 7; do kill -USR1 $$; done"
    tool = trace("syscount", "--comm", "dash", "--json")
    for _ in range(3):
        subprocess.run(["/bin/dash", "-c", script], check=True)
    tool.end()

    found = counts(tool, "syscall")
    expected = {("exit_group",): 3, ("rt_sigreturn",): 21}
    assert expected == tool.completed({call: found[call] for call in expected}, expected)
    assert not [name for (name,) in found if name.startswith("syscall_")]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs int $0x80")
@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
def test_calls_of_32_bits(trace: Any, rung: str) -> None:
    """A 32-bit call has a name of its own, not that of the 64-bit call with its number."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov $20,%eax; int $0x80; ret
    get_pid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    options = ["--ppid", str(os.getpid()), "--json", "--rung", f"enter={rung}"]
    tools = [trace("syscount", *options, *more) for more in ([], ["--syscall", "getpid"])]
    child = os.fork()
    if not child:
        os._exit({get_pid() for _ in range(OTHERS)} != {os.getpid()})
    _, status = os.waitpid(child, 0)
    for tool in tools:
        tool.end()
    if os.WIFSIGNALED(status):
        pytest.skip("needs a kernel with 32-bit calls")

    assert 0 == status
    for tool in tools:
        expected = {("compat:getpid",): OTHERS}
        found = {call: n for call, n in counts(tool, "syscall").items() if call in expected}
        assert expected == tool.completed(found, expected)
        assert ("writev",) not in counts(tool, "syscall")  # number 20 of 64-bit calls


def test_call_filter(trace: Any) -> None:
    """--syscall leaves other calls out, and may be repeated."""
    tool = trace("syscount", *MINE, "--syscall", "getpgid", "--syscall", "rmdir")
    call(CALLS)
    fail(FAILURES)
    os.getppid()
    tool.end()

    expected = {("getpgid",): CALLS, ("rmdir",): FAILURES}
    assert expected == tool.completed(counts(tool, "syscall"), expected)


def test_parent_filter(trace: Any) -> None:
    """--ppid counts what children do, not the parent."""
    tool = trace("syscount", "--ppid", str(os.getpid()), "-P", "--syscall", "exit_group", "--json")
    call(OTHERS)
    pids = set()
    for _ in range(5):
        child = subprocess.Popen(["/bin/true"])
        child.wait()
        pids.add(child.pid)
    tool.end()

    assert pids == {row["pid"] for row in tool.json}


def test_intervals_add_up(trace: Any) -> None:
    """Whatever moment a report comes at, each call is in exactly one of them."""
    options = [[], ["-B"], ["-L"]]
    for option in options:
        tool = trace("syscount", *MINE, *option, "--syscall", "getpgid", "-i", "0.05")
        deadline = time.monotonic() + 1
        made = reports = 0
        while time.monotonic() < deadline or reports < 3:
            call(101)
            made += 101
            if select.select([tool.process.stdout], [], [], 0)[0]:
                reports += bool(tool.line())
        tool.end()

        expected = {("getpgid",): made}
        found = counts(tool, "syscall")
        assert expected == tool.completed(found, expected)
        assert sum(found.values()) == tool.counted[0]
        assert {} == tool.losses


def test_too_many_keys(trace: Any) -> None:
    """What finds no room is counted as lost."""
    tool = trace("syscount", "-B", "--max-entries", "3", *MINE)
    for _ in range(CALLS):
        os.getpgid(0)
        os.getppid()
        os.getsid(0)
        os.getuid()
        os.geteuid()
    tool.end()
    seen, lost = tool.counted

    assert {"calls"} == set(tool.losses)
    assert 3 == len(tool.json)
    assert seen == sum(row["count"] for row in tool.json)
    assert seen + lost + tool.skipped >= 5 * CALLS
    assert tool.losses["calls"] >= 2 * CALLS


def test_a_report_makes_room(trace: Any) -> None:
    """Keys of an earlier report take no room: processes come and go for ever."""
    tool = trace("syscount", "-P", "--comm", "true", "--max-entries", "8", "-i", "0.01", "--json")
    for _ in range(31):
        subprocess.run(["/bin/true"], check=True)
        tool.line()
    tool.end()

    assert {} == tool.losses
    assert len({row["pid"] for row in tool.json}) >= 31


def test_top(trace: Any) -> None:
    """-T N shows the N most frequent, in order; JSON has them all."""
    tools = [trace("syscount", "-T", "2", "-p", str(os.getpid()), *more) for more in ([], ["-j"])]
    call(CALLS)
    fail(FAILURES)
    for _ in range(OTHERS):
        os.getuid()
    for tool in tools:
        tool.end()

    assert ["getpgid", "rmdir"] == [row[0] for row in tools[0].rows]
    expected = {("getpgid",): CALLS, ("rmdir",): FAILURES, ("getuid",): OTHERS}
    found = counts(tools[1], "syscall")
    assert expected == tools[1].completed({call: found[call] for call in expected}, expected)


def test_positional_interval_and_count(run: Any) -> None:
    """An interval and a count give so many tables, each under its time."""
    with run("syscount", "--self", "0.2", "3") as tool:
        tool.ended()

    assert 0 == tool.code
    assert 3 == sum(line.count(":") == 2 for line in tool.out.splitlines())
    assert 3 == tool.out.count("SYSCALL")


def test_hostile_names(trace: Any, unescape: Any) -> None:
    """A name of a process cannot reach the terminal but escaped."""
    script = "import os; open('/proc/self/comm', 'wb').write(b'ev\\x1b[31m\\nil'); os.getpgid(0)"
    tool = trace("syscount", "-P", "--ppid", str(os.getpid()), "-T", "0")
    subprocess.run(["/usr/bin/python3", "-c", script], check=True)
    tool.end()

    names = {unescape(line.split()[1]) for line in tool.out.splitlines()[1:]}
    assert b"ev\x1b[31m\nil" in names
    assert all(line.isprintable() for line in tool.out.splitlines())


def test_list_needs_nothing(run: Any) -> None:
    """-l lists the numbers by which the kernel knows the calls."""
    with run("syscount", "-l", user=65534, group=65534, extra_groups=[]) as tool:
        tool.ended()

    listed = dict(reversed(line.split()) for line in tool.out.splitlines())
    assert 0 == tool.code
    assert os.getpid() == ctypes.CDLL(None).syscall(int(listed["getpid"]))
    assert len(listed) == len(syscalls.names())


def test_library(rungs_of: Any) -> None:
    """The library gives rows with the same names."""
    if not rungs_of("syscount", "enter"):
        pytest.skip("needs root")
    with tracewheel.syscount.trace(pid=os.getpid(), both=True) as tracing:
        call(CALLS)
        first = {row.syscall: row.count for row in tracing.read()}
        call(OTHERS)
        second = {row.syscall: row for row in tracing.read()}
        skipped = tracing.losses().get("skipped", 0)

    assert 0 <= CALLS - first["getpgid"] <= skipped
    assert 0 <= OTHERS - second["getpgid"].count <= skipped
    assert os.getpid() == second["getpgid"].pid

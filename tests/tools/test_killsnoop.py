# SPDX-License-Identifier: BSD-2-Clause
"""Signals sent here show as they were sent."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.show.kernel_names import signal_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRIME = 23
ME = os.getpid()
NOBODY = 4_194_303  # the greatest number that a process can have
CALLS = {
    "x86_64": {"rt_sigqueueinfo": 129, "tkill": 200, "tgkill": 234, "rt_tgsigqueueinfo": 297},
    "aarch64": {"tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240},
}[platform.machine()] | {"pidfd_send_signal": 424, "pidfd_open": 434}
PIDFD_SIGNAL_PROCESS_GROUP = 4
SI_USER, SI_QUEUE, SI_TKILL = "SI_USER", "SI_QUEUE", "SI_TKILL"


class Seen(NamedTuple):
    """What a row tells of a signal."""

    call: str | None
    signal: str
    tpid: int | None
    ttid: int | None
    tcomm: str | None
    ret: int | None
    code: str | None
    value: int | None
    outcome: str | None


def seen(tool: Any) -> list[Seen]:
    """Return what the rows tell, without the signals that have ended tools."""
    rows = [Seen(*(row[name] for name in Seen._fields)) for row in tool.json]
    return [row for row in rows if row.tcomm != "killsnoop"]


class SigInfo(ctypes.Structure):
    """A siginfo_t as programs give it to sigqueue(3)."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("signo", "errno", "code", "padding", "pid", "uid")),
        ("value", ctypes.c_int64),
        ("rest", ctypes.c_char * 96),
    ]


def call(name: str, *arguments: Any) -> int:
    """Make a system call; return its result, or a negative errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    ret: int = libc.syscall(CALLS[name], *arguments)
    return ret if ret >= 0 else -ctypes.get_errno()


def queued(value: int) -> Any:
    """Return a siginfo with a value."""
    return ctypes.byref(SigInfo(code=-1, value=value))


def kill(pid: int, number: int) -> int:
    """Send a signal; return 0 or a negative errno."""
    try:
        os.kill(pid, number)
    except OSError as error:
        return -(error.errno or 0)
    return 0


@pytest.fixture
def sleeper() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Give a function that starts a process, the leader of a group, that has ignored SIGUSR2."""
    started = []

    def start() -> subprocess.Popen[bytes]:
        # What is ignored stays so over an exec.
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        started.append(
            subprocess.Popen(["sleep", "1000"], start_new_session=True, restore_signals=False)
        )
        signal.signal(signal.SIGUSR2, before)
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """Survive SIGUSR1 meanwhile."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR1, before)


def mine(rung: str, *options: str) -> tuple[str, ...]:
    """Return the command that traces this process, by one way of tracing."""
    rungs = ("--rung", f"call={rung}", "--rung", f"generate={rung}")
    return ("killsnoop", "-p", str(ME), "--json", *rungs, *options)


def test_each_call(trace: Any, rungs_of: Any, sleeper: Any) -> None:
    """Every way of tracing shows each call once, in order, with its target and its result."""
    rungs = rungs_of("killsnoop", "call")
    assert len(rungs) >= 2
    assert rungs == rungs_of("killsnoop", "generate")
    child = sleeper()
    pid = child.pid
    pidfd = call("pidfd_open", pid, 0)
    folder = os.open(f"/proc/{pid}", os.O_RDONLY)
    tools = [trace(*mine(rung)) for rung in rungs]
    by_kill = Seen("kill", "SIGUSR2", pid, None, "sleep", 0, SI_USER, None, "ignored")
    by_fd = by_kill._replace(call="pidfd_send_signal")
    by_thread = by_kill._replace(call="tkill", ttid=pid, code=SI_TKILL)
    queue = by_kill._replace(call="rt_sigqueueinfo", code=SI_QUEUE)
    queue_to_thread = queue._replace(call="rt_tgsigqueueinfo", ttid=pid)
    unsent = by_kill._replace(outcome=None)
    no_such: dict[str, Any] = {"tcomm": None, "outcome": None, "ret": -errno.ESRCH}
    no_pidfd = by_fd._replace(tpid=None, tcomm=None, outcome=None, ret=-errno.EBADF)
    usr2 = signal.SIGUSR2
    steps: list[tuple[Callable[[], int], Seen]] = [
        *[(lambda: kill(pid, usr2), by_kill)] * PRIME,
        (lambda: kill(pid, 0), unsent._replace(signal="0")),
        (lambda: kill(pid, 100), unsent._replace(signal="100", ret=-errno.EINVAL)),
        (lambda: kill(NOBODY, usr2), by_kill._replace(tpid=NOBODY, **no_such)),
        (lambda: kill(-pid, usr2), unsent._replace(tpid=-pid, tcomm=None)),
        (lambda: kill(-NOBODY, usr2), by_kill._replace(tpid=-NOBODY, **no_such)),
        (lambda: kill(0, 0), unsent._replace(signal="0", tpid=0, tcomm=None)),
        (lambda: kill(-1, 0), unsent._replace(signal="0", tpid=-1, tcomm=None)),
        (lambda: kill(pid, -5), unsent._replace(signal="-5", ret=-errno.EINVAL)),
        (
            lambda: call("tkill", -7, usr2),
            by_thread._replace(tpid=-7, ttid=-7, tcomm=None, outcome=None, ret=-errno.EINVAL),
        ),
        (
            lambda: call("rt_sigqueueinfo", pid, usr2, None),
            queue._replace(outcome=None, code=None, ret=-errno.EFAULT),
        ),
        (lambda: call("tkill", pid, usr2), by_thread),
        (
            lambda: call("tkill", NOBODY, usr2),
            by_thread._replace(tpid=NOBODY, ttid=NOBODY, **no_such),
        ),
        (lambda: call("tgkill", pid, pid, usr2), by_thread._replace(call="tgkill")),
        (
            lambda: call("tgkill", ME, pid, usr2),  # a thread of another process
            by_thread._replace(call="tgkill", tpid=ME, **no_such),
        ),
        (lambda: call("rt_sigqueueinfo", pid, usr2, queued(-4711)), queue._replace(value=-4711)),
        (
            lambda: call("rt_tgsigqueueinfo", pid, pid, usr2, queued(1 << 40)),
            queue_to_thread._replace(value=1 << 40),
        ),
        (lambda: call("pidfd_send_signal", pidfd, usr2, None, 0), by_fd),
        (lambda: call("pidfd_send_signal", folder, usr2, None, 0), by_fd),
        (
            lambda: call("pidfd_send_signal", pidfd, 0, None, 0),
            by_fd._replace(signal="0", outcome=None),
        ),
        (lambda: call("pidfd_send_signal", folder_of_none, usr2, None, 0), no_pidfd),
        (lambda: call("pidfd_send_signal", -1, usr2, None, 0), no_pidfd),
        (
            lambda: kill(pid, signal.SIGKILL),
            by_kill._replace(signal="SIGKILL", outcome="delivered"),
        ),
        (
            lambda: child.wait() and call("pidfd_send_signal", pidfd, usr2, None, 0),
            by_fd._replace(**no_such),
        ),
        (lambda: kill(pid, usr2), by_kill._replace(**no_such)),
    ]
    folder_of_none = os.open("/", os.O_RDONLY)
    results = [act() for act, _ in steps]
    for fd in (pidfd, folder, folder_of_none):
        os.close(fd)
    for tool in tools:
        tool.end()

    expected = [row for _, row in steps]
    assert [row.ret for row in expected] == results
    for tool in tools:
        assert expected == seen(tool)
        assert {} == tool.losses
        assert {(ME, ME, os.getuid())} == {
            (row["pid"], row["tid"], row["uid"]) for row in tool.json
        }


@pytest.mark.parametrize(
    ("pidfd", "flags", "is_for_thread"),
    [(-10000, 0, True), (-10000, 2, False), (-10001, 0, False), (-20000, 0, False)],
)
def test_own_pidfd(trace: Any, pidfd: int, flags: int, is_for_thread: bool) -> None:
    """Descriptors that stand for the caller show as the caller, where the kernel knows them."""
    tool = trace(*mine("tp_btf"))
    results = [
        call("pidfd_send_signal", pidfd, number, None, flags) for number in (0, signal.SIGUSR1)
    ]
    tool.end()

    expected = (ME, ME if is_for_thread else None) if results == [0, 0] else (None, None)
    assert [expected] * 2 == [(row.tpid, row.ttid) for row in seen(tool)]
    assert results == [row.ret for row in seen(tool)]
    assert results in ([0, 0], [-errno.EBADF] * 2, [-errno.EINVAL] * 2)


def test_filters(trace: Any, sleeper: Any) -> None:
    """Each filter shows the calls that meet it, and no others."""
    pid, other = sleeper().pid, sleeper().pid
    filters: dict[tuple[str, ...], Callable[[Seen], bool]] = {
        (): lambda _: True,
        ("-x",): lambda row: row.ret != 0,
        ("--no-probe",): lambda row: row.signal != "0",
        ("--kill-only",): lambda row: row.call == "kill",
        ("-s", "usr2,SIGRTMIN+3"): lambda row: row.signal in ("SIGUSR2", "SIGRTMIN+3"),
        ("-s", "0", "-s", "18"): lambda row: row.signal in ("0", "SIGCONT"),
        ("-T", str(pid)): lambda row: row.tpid in (pid, -pid),
        ("-T", str(pid), "-x"): lambda row: row.tpid == -pid and row.signal == "100",
    }
    tools = [trace(*mine("tp_btf", *options)) for options in filters]
    for target in (pid, other, NOBODY):
        for number in (0, signal.SIGUSR2, signal.SIGCONT):
            kill(target, number)
            call("tkill", target, number)
        kill(-target, signal.SIGUSR2)
    kill(-pid, 0)
    kill(-pid, 100)
    kill(other, signal.SIGRTMIN + 3)
    for tool in tools:
        tool.end()

    rows = seen(tools[0])
    assert 3 * 7 + 3 == len(rows)
    for tool, (options, wanted) in zip(tools, filters.items()):
        assert [*filter(wanted, rows)] == seen(tool), options


def test_what_is_not_allowed(trace: Any) -> None:
    """A signal that its sender may not send shows with the process that it was meant for."""
    tool = trace("killsnoop", "-x", "-T", str(ME), "--json")
    command = ["sh", "-c", f"kill -USR1 {ME}"]
    child = subprocess.Popen(command, user=65534, group=65534, stderr=subprocess.DEVNULL)
    child.wait()
    tool.end()

    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    expected = Seen("kill", "SIGUSR1", ME, None, comm, -errno.EPERM, SI_USER, None, None)
    assert [(child.pid, 65534)] == [(row["pid"], row["uid"]) for row in tool.json]
    assert [expected] == seen(tool)


def test_all_processes(trace: Any, sleeper: Any) -> None:
    """-T shows signals to all processes if they include that one, unless they did not get there."""
    pid = sleeper().pid
    tool = trace("killsnoop", "-T", str(pid), "--json")
    # The sender reaches its child alone: only that is in its namespace, or may be signalled.
    send = "sleep 1000 & kill -s URG -- -1 && kill -KILL $!"
    subprocess.run(["unshare", "--pid", "--fork", "sh", "-c", send], check=True)
    subprocess.run(["sh", "-c", send], user=65534, group=65534, check=True)
    # A descriptor of that number is none.
    in_group = call("pidfd_send_signal", -1, signal.SIGUSR2, None, PIDFD_SIGNAL_PROCESS_GROUP)
    assert in_group in (-errno.EBADF, -errno.EINVAL)
    kill(-1, 0)
    tool.end()

    assert [(ME, -1)] == [(row["pid"], row["tpid"]) for row in tool.json]


# The shell is number 1 of its namespace, and its child, the target, is number 2.
IN_NAMESPACE = "sleep 1000 & echo $$ $!; read line; kill -0 1; kill -0 $!; kill -KILL $!; kill 77"


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def test_numbers_of_another_namespace(trace: Any, until: Any) -> None:
    """What a process in a PID namespace calls 2 shows by the number that the host has for it."""
    tool = trace("killsnoop", "--json")
    unshare = ["unshare", "--pid", "--fork", "sh", "-c", IN_NAMESPACE]
    with subprocess.Popen(
        unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as outer:
        assert outer.stdout
        assert outer.stdin
        assert b"1 2\n" == outer.stdout.readline()
        [shell] = children_of(outer.pid)
        [target] = children_of(shell)
        until(lambda: Path(f"/proc/{target}/comm").read_text() == "sleep\n")
        outer.stdin.write(b"\n")
        outer.stdin.close()
    tool.end()

    # There is no 77, so that the host has no number for it.
    expected = {
        ("0", shell, "sh", 0): 1,
        ("0", target, "sleep", 0): 1,
        ("SIGKILL", target, "sleep", 0): 1,
        ("SIGTERM", 77, None, -errno.ESRCH): 1,
    }
    names = ("signal", "tpid", "tcomm", "ret")
    rows = [tuple(row[name] for name in names) for row in tool.json if row["pid"] == shell]
    assert expected.keys() >= {*rows}
    assert expected == tool.completed({row: rows.count(row) for row in expected}, expected)


TROUBLED = """
import ctypes, os, resource, signal
me = os.getpid()
os.kill(me, signal.SIGURG)
blocked = [signal.SIGALRM, signal.SIGHUP, signal.SIGRTMIN, signal.SIGRTMIN + 1]
signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
os.kill(me, signal.SIGHUP)
os.kill(me, signal.SIGHUP)
signal.setitimer(signal.ITIMER_REAL, 0.001)
signal.sigwait([signal.SIGALRM])
source, end = os.pipe()
os.close(source)
try:
    os.write(end, b"x")
except BrokenPipeError:
    pass
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
os.kill(me, signal.SIGRTMIN)
info = (ctypes.c_int * 32)(0, 0, -1)
ctypes.CDLL(None).syscall(SIGQUEUE, me, signal.SIGRTMIN + 1, info)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
ctypes.string_at(0)
"""


def test_signals_of_the_kernel(trace: Any, rungs_of: Any) -> None:
    """--all shows what the kernel sends, why, and what became of it, beside what calls send."""
    code = TROUBLED.replace("SIGQUEUE", str(CALLS["rt_sigqueueinfo"]))
    rungs = [f"generate={rung}" for rung in rungs_of("killsnoop", "generate")]
    tools = [trace("killsnoop", "--all", "--json", "--rung", rung) for rung in rungs]
    child = subprocess.Popen([sys.executable, "-c", code])
    assert -signal.SIGSEGV == child.wait()
    for tool in tools:
        tool.end()

    expected = [
        ("kill", "SIGURG", SI_USER, "ignored", 0),
        ("kill", "SIGHUP", SI_USER, "delivered", 0),
        ("kill", "SIGHUP", SI_USER, "pending", 0),
        (None, "SIGALRM", "SI_KERNEL", "delivered", None),
        (None, "SIGPIPE", SI_USER, "ignored", None),
        ("kill", "SIGRTMIN", SI_USER, "lost info", 0),
        ("rt_sigqueueinfo", "SIGRTMIN+1", SI_QUEUE, "overflow", -errno.EAGAIN),
        (None, "SIGSEGV", "SEGV_MAPERR", "delivered", None),
    ]
    for tool in tools:
        rows = [row for row in tool.json if row["tpid"] == child.pid]
        names = ("call", "signal", "code", "outcome", "ret")
        assert expected == [tuple(row[name] for name in names) for row in rows]
        # A timer interrupts whatever is running.
        assert {child.pid} == {row["pid"] for row in rows if row["signal"] != "SIGALRM"}
        [died] = [row for row in tool.json if row["pid"] == child.pid and row["tpid"] == ME]
        assert ("SIGCHLD", "CLD_KILLED", None) == (died["signal"], died["code"], died["call"])


def test_a_process_that_kills_itself(trace: Any) -> None:
    """What the kernel sends because of a call is not taken for what the call sends."""
    plain, every = trace("killsnoop", "--json"), trace("killsnoop", "--all", "--json")
    child = subprocess.Popen(["sh", "-c", "kill -KILL $$"])
    child.wait()
    plain.end()
    every.end()

    killed = ("kill", "SIGKILL", child.pid)
    shown = [
        [(row["call"], row["signal"], row["tpid"]) for row in tool.json if row["pid"] == child.pid]
        for tool in (plain, every)
    ]
    assert [[killed], [killed, (None, "SIGCHLD", ME)]] == shown


def test_names_of_signals(trace: Any) -> None:
    """Each signal shows by the name that the shell has for it."""
    numbers = [number for number in range(1, 50) if number not in (32, 33)]
    tool = trace(*mine("tp_btf", "--no-probe"))
    for number in numbers:
        assert -errno.ESRCH == kill(NOBODY, number)
    tool.end()

    listed = "".join(f"kill -l {number};" for number in numbers)
    names = subprocess.run(["bash", "-c", listed], capture_output=True, text=True, check=True)
    assert [f"SIG{name}" for name in names.stdout.split()] == [row.signal for row in seen(tool)]


def test_names_of_codes() -> None:
    """Each code that the kernel's header defines has its name."""
    header = Path("/usr/include/asm-generic/siginfo.h").read_text()
    found = re.findall(r"^#define ([A-Z]+)_([A-Z_]+)\s+(-?(?:0x)?[0-9a-f]+)\b", header, re.M)
    # A definition with underscores in front is for one architecture.
    prefixes = {"ILL", "FPE", "SEGV", "BUS", "TRAP", "CLD", "POLL", "SYS"}
    signals = {prefix: f"SIG{prefix}" for prefix in prefixes} | {"CLD": "SIGCHLD"}
    checked = set()
    for prefix, name, code in found:
        if prefix in {*prefixes, "SI"} and (prefix, name) != ("SI", "MAX_SIZE"):
            number = getattr(signal, signals.get(prefix, "SIGTERM"))
            assert f"{prefix}_{name}" == signal_code(number << 32 | int(code, 0) & 0xFFFFFFFF)
            checked.add(prefix)

    assert {*prefixes, "SI"} == checked
    assert "77" == signal_code(signal.SIGSEGV << 32 | 77)


def test_32_bit_calls(trace: Any, sleeper: Any, call_32: Any) -> None:
    """Calls of 32-bit programs, whose numbers mean others in 64 bits, show like any other."""
    pid = sleeper().pid
    info = SigInfo(code=-1)
    info.uid = 4711  # where a 32-bit program has the value
    pidfd = call("pidfd_open", pid, 0)
    tool = trace("killsnoop", "-s", "USR2", "--json")
    call_32(
        os.fsdecode(bytes(info)),
        (37, pid, signal.SIGUSR2),
        (238, pid, signal.SIGUSR2),
        (270, pid, pid, signal.SIGUSR2),
        (178, pid, signal.SIGUSR2, "path"),
        (335, pid, pid, signal.SIGUSR2, "path"),
        (424, pidfd, signal.SIGUSR2, 0, 0),
    )
    os.close(pidfd)
    tool.end()

    kill_ = Seen("compat:kill", "SIGUSR2", pid, None, "sleep", 0, SI_USER, None, "ignored")
    queue = kill_._replace(code=SI_QUEUE, value=4711)
    assert [
        kill_,
        kill_._replace(call="compat:tkill", ttid=pid, code=SI_TKILL),
        kill_._replace(call="compat:tgkill", ttid=pid, code=SI_TKILL),
        queue._replace(call="compat:rt_sigqueueinfo"),
        queue._replace(call="compat:rt_tgsigqueueinfo", ttid=pid),
        kill_._replace(call="compat:pidfd_send_signal"),
    ] == seen(tool)


def test_threads(trace: Any) -> None:
    """A signal for a thread shows the thread, and the name that it has."""
    told, over = threading.Event(), threading.Event()
    tids = []

    def work() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("worker")
        tids.append(threading.get_native_id())
        told.set()
        over.wait()

    thread = threading.Thread(target=work)
    tool = trace(*mine("tp_btf", "-s", "URG"))
    thread.start()
    told.wait()
    [tid] = tids
    assert 0 == call("tgkill", ME, tid, signal.SIGURG)
    assert 0 == kill(tid, signal.SIGURG)  # is for its process
    over.set()
    thread.join()
    tool.end()

    by_thread = Seen("tgkill", "SIGURG", ME, tid, "worker", 0, SI_TKILL, None, "ignored")
    by_kill = by_thread._replace(call="kill", ttid=None, code=SI_USER)
    assert [by_thread, by_kill] == seen(tool)


def test_many_signals(trace: Any, tmp_path: Path) -> None:
    """Each of many signals shows."""
    count = 20011
    tool = trace(*mine("tp_btf", "-s", "URG", "-o", str(tmp_path / "rows")))
    for _ in range(count):
        os.kill(ME, signal.SIGURG)
    tool.end()

    tool.out = (tmp_path / "rows").read_text()
    assert count == len(tool.json)
    assert {} == tool.losses


@pytest.mark.parametrize("wrong", ["NOSUCH", "65", "-1", "", "RTMIN+31", "KILL,"])
def test_wrong_signals(run: Any, wrong: str) -> None:
    """What is no signal is refused in a line."""
    with run("killsnoop", f"--signal={wrong}") as tool:
        tool.ended()

    assert 2 == tool.code
    assert 1 == tool.err.count("\n")

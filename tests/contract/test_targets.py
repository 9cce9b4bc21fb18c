# SPDX-License-Identifier: BSD-2-Clause
"""What every tool promises of those that it traces: commands, families, namespaces."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.shapes import WITH_INTERVALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PRIME = 23
COMMANDS = Path(sys.executable).parent
# Opens a file so many times for each byte it reads; "f" forks one that does the same, "x" ends.
FAMILY = f"""
import os, sys
def live():
    while order := os.read(0, 1):
        if order == b"x":
            break
        if order == b"f":
            if not os.fork():
                live()
                os._exit(0)
            os.wait()
        for _ in range({PRIME} if order == b"o" else 0):
            os.close(os.open(sys.argv[1], os.O_RDONLY))
        os.write(1, b".")
os.write(1, b".")
live()
"""


class Family:
    """A process that forks and opens as told; the youngest hears."""

    def __init__(self, watched: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAMILY, str(watched)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.answer()

    def answer(self) -> None:
        """Wait until an order is done."""
        assert self.process.stdout
        assert b"." == os.read(self.process.stdout.fileno(), 1)

    def order(self, orders: str) -> None:
        """Have the youngest do something, and wait until it has; a fork has no answer."""
        assert self.process.stdin
        for order in orders:
            os.write(self.process.stdin.fileno(), order.encode())
            if order != "f":
                self.answer()

    def youngest(self) -> int:
        """Return the id of the youngest process."""
        pid = self.process.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Callable[[], Family]]:
    """Give a function that starts families that open the file "watched"."""
    watched = tmp_path / "watched"
    watched.touch()
    families: list[Family] = []

    def start() -> Family:
        families.append(Family(watched))
        return families[-1]

    yield start
    for each in families:
        each.process.communicate()


def positional(tool_name: str) -> list[str]:
    """Return an interval and a count for the tools that have them."""
    return ["100", "2"] if isinstance(load_tool(tool_name)[0], WITH_INTERVALS) else []


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_command(run: Any, tool_name: str, script: str, code: int) -> None:
    """A tool ends with its command, and by its exit code, as a shell tells it."""
    with run(tool_name, *positional(tool_name), "--", "sh", "-c", script) as tool:
        tool.ended()

    assert code == tool.code, tool.err
    assert tool.counted
    assert "Traceback" not in tool.err


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("/etc/passwd", 126), ("", 126)]
)
def test_command_that_cannot_be(run: Any, tool_name: str, command: str, code: int) -> None:
    """A command that is not there is 127, one that cannot be executed 126; a line tells why."""
    with run(tool_name, "--", command) as tool:
        tool.ended()

    assert code == tool.code
    assert f"{tool_name}: cannot execute '{command}': " in tool.err
    assert "Traceback" not in tool.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_reach_the_command(trace: Any, tool_name: str, number: signal.Signals) -> None:
    """A signal sent to the tool ends its command too; the code is the command's."""
    tool = trace(tool_name, "--", "sleep", "1000", preexec_fn=os.setsid)
    tool.end(number)

    assert 128 + number == tool.code
    assert tool.counted


def test_ctrl_c_is_the_commands(run: Any, tool_name: str) -> None:
    """Ctrl-C reaches the command by the terminal, once; the tool traces until that has ended."""
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    script = "trap 'n=$((n + 1)); echo caught >&2' INT; echo up >&2; read x; read x; exit 4$n"
    with run(tool_name, "--", "sh", "-c", script, stdin=end, preexec_fn=take_terminal) as tool:
        tool.wait_for("up\n")
        os.write(terminal, b"\x03")
        tool.wait_for("caught\n")
        os.write(terminal, b"\n\n")
        tool.ended()
    os.close(terminal)
    os.close(end)

    assert 41 == tool.code, tool.err
    assert tool.counted


def test_failing_tool_starts_no_command(run: Any, tmp_path: Path, tool_name: str) -> None:
    """When the tool cannot trace, its command is not executed, and the code is the tool's."""
    mark = tmp_path / "mark"
    with run(tool_name, "-o", "/no/such/folder", "--", "touch", str(mark)) as tool:
        tool.ended()

    assert 1 == tool.code
    assert 1 == tool.err.count("\n")
    assert not mark.exists()


@pytest.mark.parametrize(
    "arguments", [["--"], ["-p", "1", "--", "true"], ["--follow"], ["--container", ""]]
)
def test_usage(run: Any, tool_name: str, arguments: list[str]) -> None:
    """What makes no sense is told in a line."""
    arguments = ["--pid" if word == "-p" else word for word in arguments]
    with run(tool_name, *arguments) as tool:
        tool.ended()

    assert (2, 1) == (tool.code, tool.err.count("\n"))


def test_first_opens_of_a_command(run: Any, tmp_path: Path) -> None:
    """A command is traced from its first instruction: the dynamic linker opens before all."""
    watched = tmp_path / "watched"
    watched.touch()
    rows = tmp_path / "rows"
    with run("opensnoop", "--json", "-o", str(rows), "--", "cat", str(watched)) as tool:
        tool.ended()
    opens = [json.loads(line) for line in rows.read_text().splitlines()]

    assert (0, "") == (tool.code, tool.out)
    assert "/etc/ld.so." in opens[0]["path"]  # ld.so.preload where there is one, else its cache
    assert str(watched) == opens[-2]["path"]
    assert {"cat"} == {each["comm"] for each in opens[:-1]}
    assert 0 == opens[-1]["summary"]["lost"]


def test_exec_of_a_command(run: Any) -> None:
    """Of a command the first row of execsnoop is its own exec, and others follow."""
    with run("execsnoop", "--json", "--", "sh", "-c", "/bin/true; /bin/true") as tool:
        tool.ended()

    assert [["sh", "-c", "/bin/true; /bin/true"], ["/bin/true"]] == [
        e["args"] for e in tool.json[:2]
    ]


def test_command_finds_its_surroundings(run: Any, tmp_path: Path) -> None:
    """A command has the environment, directory and signals of the caller."""
    script = "pwd; echo $SEEN; grep SigIgn /proc/self/status"
    settings: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "SEEN": "x y"}}
    alone = subprocess.run(["sh", "-c", script], capture_output=True, check=True, **settings)
    with run("opensnoop", "-o", "/dev/null", "--", "sh", "-c", script, **settings) as tool:
        tool.ended()

    assert alone.stdout.decode() == tool.out


def test_follow_ends_with_its_process(trace: Any, tool_name: str) -> None:
    """With --follow a tool ends when the process of -p does, for each way to follow."""
    for rung in ("tp_btf", "raw_tp"):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as root:
            options = ["--follow", "--pid", str(root.pid), "--rung", f"follow={rung}"]
            tool = trace(tool_name, *options)
        tool.ended()

        assert 0 == tool.code
        assert 0 == tool.counted[1], tool.err


def test_several_processes(trace: Any, family: Any) -> None:
    """Of several processes all are traced, and no other; one may end meanwhile."""
    first, second, stranger = family(), family(), family()
    pids = [first.process.pid, second.process.pid]
    tool = trace("opensnoop", "-p", f"{pids[0]},{pids[1]}", "-n", "watched", "--json")
    for each in (first, stranger, second, stranger, first):
        each.order("o")
    first.process.communicate()
    tool.wait_for(f"process {pids[0]} has ended")
    second.order("o")
    second.process.communicate()
    tool.ended()

    by = [pids[number] for number in (0, 1, 0, 1) for _ in range(PRIME)]
    assert by == [each["pid"] for each in tool.json]
    assert {} == tool.losses


@pytest.mark.parametrize("tool", ["opensnoop", "syscount"])
def test_rows_come_before_the_end_of_their_process(trace: Any, family: Any, tool: str) -> None:
    """That a process has ended is said behind its last row, in a stream and in a report."""
    target = family()
    pid = target.process.pid
    tracing = trace(tool, "-p", str(pid), "-o", "/dev/stderr")
    target.order("o")
    target.process.communicate()
    tracing.ended()

    lines = tracing.err.splitlines()
    said = lines.index(f"{tool}: process {pid} has ended")
    assert len(lines) - 2 == said, tracing.err  # only the line with the losses is behind it
    assert said > 2  # the banner, the header and a row at least are before it


def test_several_families(trace: Any, family: Any) -> None:
    """With --follow the descendants of all of them are traced, too."""
    first, second = family(), family()
    pids = f"{first.process.pid},{second.process.pid}"
    tool = trace("opensnoop", "--follow", "-p", pids, "-n", "watched", "--json")
    by = []
    for root in (first, second):
        root.order("fo")
        by.append(root.youngest())
    tool.end()

    assert [pid for pid in by for _ in range(PRIME)] == [each["pid"] for each in tool.json]


def test_last_of_several_processes(trace: Any, tool_name: str) -> None:
    """A tool ends with the last of its processes, not with the first."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as last:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as first:
            tool = trace(tool_name, "--pid", f"{first.pid},{last.pid}")
        tool.wait_for(f"process {first.pid} has ended")
        assert tool.process.poll() is None
    tool.ended()

    assert 0 == tool.code
    assert f"{tool_name}: process {last.pid} has ended\n" in tool.err


@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
def test_family(trace: Any, family: Any, rungs_of: Any, rung: str) -> None:
    """Those there at the start, and those forked later, are traced; strangers are not."""
    assert rung in rungs_of("opensnoop", "follow", "--follow", "--pid", str(os.getpid()))
    root, stranger = family(), family()
    root.order("ff")
    tools = [
        trace("opensnoop", "-p", str(root.process.pid), "-n", "watched", "--json", *options)
        for options in (["--follow", "--rung", f"follow={rung}"], [])
    ]
    by = []
    for orders in ("o", "fo", "ffo"):
        root.order(orders)
        by.append(root.youngest())
    stranger.order("ffo")
    for order in "xxxxx":
        root.order(order)
    root.order("o")
    by.append(root.process.pid)
    for tool in tools:
        tool.end()

    assert 4 == len(set(by))
    assert [pid for pid in by for _ in range(PRIME)] == [e["pid"] for e in tools[0].json]
    assert [root.process.pid] * PRIME == [e["pid"] for e in tools[1].json]
    assert [{}, {}] == [tool.losses for tool in tools]


def followed(kernel: Any, pid: int) -> set[int]:
    """Return the processes that a tool follows, as bpftool tells."""
    for kind, number in kernel.held_by(pid):
        show = ["bpftool", "--json", "map", "show", "id", str(number)]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        if kind != "map":
            continue
        shown = subprocess.run(show, capture_output=True, check=True, env=environment).stdout
        if json.loads(shown)["name"] == "followed":
            show[3] = "dump"
            dumped = subprocess.run(show, capture_output=True, check=True, env=environment).stdout
            entries = json.loads(dumped)
            return {int.from_bytes(bytes(int(b, 16) for b in e["key"]), "little") for e in entries}
    raise AssertionError


def test_family_leaves(trace: Any, family: Any, kernel: Any, until: Any) -> None:
    """A process that has ended is not followed any more."""
    root = family()
    tool = trace("opensnoop", "-p", str(root.process.pid), "--follow")
    root.order("fff")
    root.order("o")
    assert 4 == len(followed(kernel, tool.pid))
    root.order("xxx")
    until(lambda: {root.process.pid} == followed(kernel, tool.pid))


def test_family_that_is_too_large(trace: Any, family: Any) -> None:
    """Processes that find no room are counted exactly, and those with room are traced."""
    root = family()
    pid = str(root.process.pid)
    tool = trace(
        "opensnoop", "-p", pid, "--follow", "--max-entries", "4", "-n", "watched", "--json"
    )
    root.order("ofofofofo")
    tool.end()

    assert 4 * PRIME == len(tool.json)
    assert {"followed": 1} == tool.losses


def test_exec_by_another_thread(trace: Any, tmp_path: Path, until: Any) -> None:
    """A process stays followed when a thread that is not its leader executes."""
    watched = tmp_path / "watched"
    watched.touch()
    code = (
        "import os, sys, threading; os.read(0, 1); threading.Thread(target=os.execv,"
        f" args=[sys.executable, [sys.executable, '-c', {FAMILY!r}, {str(watched)!r}]]).start()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin and child.stdout
    tool = trace("opensnoop", "-p", str(child.pid), "--follow", "-n", "watched", "--json")
    os.write(child.stdin.fileno(), b"g")
    os.read(child.stdout.fileno(), 1)
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 324, "aarch64": 283}[os.uname().machine]
    for _ in range(3):  # grace periods of RCU, after which the old leader is freed
        assert 0 == libc.syscall(number, 1, 0, 0)
    os.write(child.stdin.fileno(), b"o")
    os.read(child.stdout.fileno(), 1)
    child.communicate()
    tool.ended()

    assert [child.pid] * PRIME == [e["pid"] for e in tool.json]


def apart(script: str) -> list[str]:
    """Return a command that runs a script in a PID namespace of its own."""
    unshare = shutil.which("unshare")
    assert unshare
    return [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]


INSIDE = f"""
import os, subprocess, sys
mine = str(os.getpid())
tool = subprocess.Popen(
    [{str(COMMANDS / "opensnoop")!r}, "--pid", mine, "--tid", mine, "--json", "-n", "watched"],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
said = ""
while "Tracing" not in said:
    said += tool.stderr.readline().decode()
for _ in range({PRIME}):
    os.close(os.open(sys.argv[1], os.O_RDONLY))
tool.send_signal(2)
out, err = tool.communicate()
print(mine, said.count("PID namespace"), flush=True)
sys.stdout.buffer.write(out)
sys.stdout.flush()
sys.stdin.read()
"""


def test_pid_namespace(until: Any, tmp_path: Path) -> None:
    """In a PID namespace -p and --tid take its ids, and rows show the host's."""
    watched = tmp_path / "watched"
    watched.touch()
    with subprocess.Popen(
        [*apart(INSIDE), str(watched)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdin and outer.stdout
        mine, told = outer.stdout.readline().split()
        rows = [json.loads(outer.stdout.readline()) for _ in range(PRIME + 1)]
        host = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
        outer.stdin.close()

    assert ("1", "1") == (mine, told)
    assert {"rows": PRIME, "lost": 0, "losses": {}} == rows[-1]["summary"]
    assert [host] * PRIME == [row["pid"] for row in rows[:-1]]
    assert host != 1


def test_itself_in_a_pid_namespace() -> None:
    """In a PID namespace, too, a tool leaves out itself, unless told otherwise."""
    counts = []
    for options in ([], ["--self"]):
        command = [str(COMMANDS / "runqlat"), "--comm", "runqlat", *options, "--json", "0.1", "5"]
        script = f"import subprocess; print(subprocess.run({command}, text=True, stdout=-1).stdout)"
        done = subprocess.run(apart(script), capture_output=True, text=True, check=True)
        last = done.stdout.strip().splitlines()[-1]
        counts.append(json.loads(last)["summary"]["events"])

    assert 0 == counts[0]
    assert counts[1] > 0


@pytest.mark.each_tool
def test_each_tool_in_a_pid_namespace(tool_name: str) -> None:
    """In a PID namespace every tool traces, a process and a command."""
    command = COMMANDS / tool_name
    script = f"{command} --pid $$ --duration 0.1 && {command} -- sh -c 'exit 7'"
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
    done = subprocess.run(unshare, capture_output=True, text=True, check=False)

    assert 7 == done.returncode, done.stderr
    assert 2 == done.stderr.count(f"{tool_name}: processes have other ids in this PID namespace")


def test_proc_of_another_namespace(run: Any, tool_name: str) -> None:
    """Where /proc shows other ids than the namespace has, a line tells what to do."""
    command = [str(COMMANDS / tool_name), "--pid", "1"]
    with run(shutil.which("unshare"), "--pid", "--fork", *command) as tool:
        tool.ended()

    assert (4, 1) == (tool.code, tool.err.count("\n"))
    assert "mount -t proc" in tool.err

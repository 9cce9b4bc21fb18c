# SPDX-License-Identifier: BSD-2-Clause
"""Programs executed here show as they were executed, and end as their parent sees them end."""

from __future__ import annotations

import base64
import errno
import fnmatch
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PRIME = 23
TRUE = "/bin/true"
ARGS_MOST = 8192  # of execsnoop.bpf.c
HOSTILE = [
    b"new\nline",
    b"tab\tCR\r",
    b"\x1b[31mred\x07",
    b"\xff\xfe",
    b"a b",
    b'q"\\',
    b"",
    b"\xc2\x9b",
]


@pytest.fixture
def mine(trace: Any) -> Callable[..., Any]:
    """Give a function that starts execsnoop for the children of this process."""
    return lambda *options: trace("execsnoop", "-P", str(os.getpid()), *options)


def execute(program: str | int, args: list[Any]) -> int:
    """Execute in a child, and return its pid when it has ended, whether or not it could."""
    pid = os.fork()
    if not pid:
        try:
            os.execve(program, args, os.environ)
        finally:
            os._exit(127)
    os.waitpid(pid, 0)
    return pid


def now() -> int:
    """Return the clock that records are stamped with."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def args_of(record: dict[str, Any]) -> list[bytes]:
    """Return the arguments of a JSON record, whatever their bytes."""
    if "args_b64" in record:
        return base64.b64decode(record["args_b64"]).split(b"\0")[:-1]
    return [os.fsencode(arg) for arg in record["args"]]


def test_each_rung_shows_every_exec(mine: Any, rungs_of: Any) -> None:
    """Every way of tracing gives the same rows: each exec once, with its bytes and its parent."""
    rungs = rungs_of("execsnoop", "exec")
    assert ["tp_btf", "raw_tp"] == rungs
    for rung in rungs:
        tool = mine("--json", "--rung", f"exec={rung}")
        expected = []
        for number in range(PRIME):
            args = [b"true", str(number).encode(), *HOSTILE[number % 8 :], *HOSTILE[: number % 8]]
            expected.append((execute(TRUE, args), os.getpid(), "true", 0, args))
        tool.end()

        assert expected == [
            (e["pid"], e["ppid"], e["comm"], e["ret"], args_of(e)) for e in tool.json
        ]
        assert 0 == tool.summary["lost"]


def test_exec_of_a_descriptor(mine: Any) -> None:
    """A program given as a descriptor, by execveat, shows like one given by its path."""
    tool = mine("--json", "--file")
    fd = os.open(TRUE, os.O_RDONLY)
    pid = execute(fd, ["by-descriptor", "x"])
    os.close(fd)
    tool.end()

    expected = [(pid, [b"by-descriptor", b"x"], f"/dev/fd/{fd}")]
    assert expected == [(e["pid"], args_of(e), e["file"]) for e in tool.json]


def test_failures_only_when_asked_for(mine: Any, rungs_of: Any, tmp_path: Path) -> None:
    """With -x each failed exec shows with its error, by whatever call and rung; else none does."""
    (tmp_path / "plain").write_text("not a program")
    fd = os.open(tmp_path / "plain", os.O_RDONLY)
    missing = str(tmp_path / "missing")
    options = [["-x", "--rung", f"failed={r}"] for r in rungs_of("execsnoop", "failed", "-x")]
    assert 2 == len(options)
    for each in [[], *options]:
        tool = mine("--json", *each)
        happened = []
        for number in range(PRIME):
            args = [b"some", str(number).encode(), *HOSTILE]
            happened.append((execute(missing, args), -errno.ENOENT, missing, args))
            happened.append((execute(fd, args), -errno.EACCES, "", args))
        tool.end()

        shown = [(e["pid"], e["ret"], e["file"], args_of(e)) for e in tool.json]
        expected = happened if each else []
        assert [e for e in expected if e in shown] == shown
        # From v7.x on the kernel skips a program at sys_exit that another task is preempted in.
        assert len(expected) - len(shown) <= tool.summary["lost"]
    os.close(fd)


@pytest.mark.parametrize("args", [["x"] * 100_000, ["true", "é" * 65_535]], ids=["many", "long"])
def test_too_many_arguments(mine: Any, args: list[str]) -> None:
    """Arguments beyond the bound are cut, between characters, and said to be."""
    tools = []
    for options in (["--columns", "args"], ["--json"]):
        tools.append(mine(*options))
        execute(TRUE, args)
        tools[-1].end()
    line = tools[0].out.splitlines()[1]
    (record,) = tools[1].json

    whole = b"".join(arg.encode() + b"\0" for arg in args)
    shown = whole[:ARGS_MOST].decode(errors="ignore")
    assert shown.removesuffix("\0").split("\0") == record["args"]
    assert record["args_truncated"]
    assert shown.replace("\0", " ") + "..." == line


def test_max_args(mine: Any) -> None:
    """With --max-args no more arguments show, and the mark tells whether there were more."""
    tool = mine("--columns", "args", "--max-args", "3")
    for args in (["a"], ["a", "b", "c"], ["a", "b", "c", "d"]):
        execute(TRUE, args)

    assert ["a", "a b c", "a b c ..."] == tool.end().out.splitlines()[1:]


def test_quotes(mine: Any) -> None:
    """With -q the line tells where each argument begins and ends, as a shell would read it."""
    args = ["a b", "", 'q"uote', "plain", 'back\\"slash\\', "\\"]
    tool = mine("--columns", "args", "-q")
    execute(TRUE, args)

    assert args == shlex.split(tool.end().out.splitlines()[1])


@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
def test_ends(mine: Any, rungs_of: Any, rung: str) -> None:
    """With --exit the end shows the status, and a time that the parent's clock confirms."""
    assert rung in rungs_of("execsnoop", "exit", "--exit")
    tool = mine("--json", "--exit", "--rung", f"exit={rung}")
    children = []
    for number in range(PRIME):
        how = "kill -9 $$" if number % 2 else f"exit {number}"
        begin = now()
        child = subprocess.Popen(
            ["sh", "-c", f"echo; read word; {how}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout
        child.stdout.readline()
        children.append((child, begin, now()))
    expected, bounds = [], []
    for child, begin, running in children:
        least = now() - running
        child.communicate(b"\n")
        bounds.append((least, now() - begin))
        expected.append((child.pid, "sh", child.returncode))
    tool.end()

    ends = [e for e in tool.json if e["exit"] is not None]
    assert expected == [(e["pid"], e["comm"], os.waitstatus_to_exitcode(e["exit"])) for e in ends]
    lasted = [e["duration"] for e in ends]
    assert [] == [each for each in zip(bounds, lasted) if not each[0][0] <= each[1] <= each[0][1]]
    assert PRIME == sum(e["ret"] == 0 for e in tool.json)
    assert 0 == tool.summary["lost"]


def test_end_of_threads(mine: Any) -> None:
    """A process of several threads ends once, with the last, by the status its parent gets."""
    code = (
        "import threading, os; [threading.Thread(target=os._exit, args=[7]).start() for _ in 'abc']"
    )
    tool = mine("--exit", "--json")
    child = subprocess.run([sys.executable, "-c", code], check=False)
    tool.end()

    assert 7 == child.returncode
    assert [7 << 8] == [e["exit"] for e in tool.json if e["exit"] is not None]


def test_ancestors(mine: Any) -> None:
    """With --tree the names are those that /proc gives for the parents, the oldest first."""
    tool = mine("--json", "--tree")
    execute(TRUE, ["true"])
    tool.end()

    names: list[str] = []
    pid = os.getpid()
    while pid and len(names) < 8:
        names.insert(0, Path(f"/proc/{pid}/comm").read_text()[:-1])
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert [">".join(names)] == [e["parents"] for e in tool.json]


def test_surroundings(mine: Any, tmp_path: Path) -> None:
    """Directory, file and variable are those that the program was given."""
    tool = mine("--json", "--cwd", "--env", "WANTED", "--file")
    expected: list[tuple[str, str | None, str]] = []
    padding = {f"UNWANTED{number}": "x" * 1000 for number in range(PRIME)}
    for cwd, wanted in ((str(tmp_path), "va=lue"), ("/", ""), ("/proc", None)):
        env = padding if wanted is None else {**padding, "WANTED": wanted}
        subprocess.run([TRUE], cwd=cwd, env=env, check=True)
        expected.append((cwd, wanted, TRUE))
    tool.end()

    assert expected == [(e["cwd"], e["env"], e["file"]) for e in tool.json]


@pytest.mark.parametrize("glob", ["true*two", "*on?*", "*[a-o]ne *", "true", "*two"])
def test_line_globs(mine: Any, glob: str) -> None:
    """A glob of -l shows the lines that fnmatch matches, and with --exit their ends."""
    lines = ["true", "true one", "true one two", "true xone y", "true two/"]
    tool = mine("--exit", "--json", "-l", glob)
    for line in lines:
        execute(TRUE, line.split())
    tool.end()

    expected = fnmatch.filter(lines, glob)
    assert expected == [" ".join(e["args"]) for e in tool.json if e["exit"] is None]
    assert len(expected) == sum(e["exit"] is not None for e in tool.json)


def test_name_globs(mine: Any) -> None:
    """A glob of -n shows the processes whose name matches, whatever the arguments."""
    tool = mine("--exit", "--json", "-n", "t?ue")
    for program in ("/bin/false", TRUE):
        execute(program, ["truly"])
    tool.end()

    assert [("true", None), ("true", 0)] == [(e["comm"], e["exit"]) for e in tool.json]


def test_name_of_the_parent(mine: Callable[..., Any], called: Any) -> None:
    """-M shows what processes of a name execute, and nobody else."""
    tool = mine("-M", "some-parent", "--json")
    execute("/bin/true", ["before"])
    with called(b"some-parent"):
        pids = [execute("/bin/true", ["true"]) for _ in range(3)]
    execute("/bin/true", ["after"])
    tool.end()

    assert pids == [e["pid"] for e in tool.json]

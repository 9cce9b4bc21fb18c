# SPDX-License-Identifier: BSD-2-Clause
"""A tool survives what befalls a process, and ends with the right code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COMMANDS = Path(sys.executable).parent


def shell(run: Any, script: str, **settings: Any) -> Any:
    """Run a script in a mount namespace of its own, with the tools in its PATH."""
    env = {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    return run(shutil.which("unshare"), "-m", "sh", "-c", script, env=env, **settings)


def state_of(pid: int) -> str:
    """Return the letter that says what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def open_often(path: Path, times: int) -> None:
    """Open a file that exists."""
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY))


def test_second_interrupt(trace: Any, until: Callable[[Any], None], tmp_path: Path) -> None:
    """Pressing Ctrl-C again ends the tool though its report cannot be written."""
    watched = tmp_path / "watched"
    watched.touch()
    source, end = os.pipe()
    tool = trace("opensnoop", "-n", "watched", stdout=end)
    os.close(end)
    open_often(watched, 2003)
    until(lambda: state_of(tool.pid) == "S")
    while tool.process.poll() is None:
        tool.process.send_signal(signal.SIGINT)
    tool.ended()
    os.close(source)

    assert tool.code in (0, 1)
    assert "Traceback" not in tool.err


def test_interrupt_while_it_starts(run: Any, until: Callable[[Any], None]) -> None:
    """Ctrl-C before the tool traces ends it without a traceback."""
    with run("opensnoop") as tool:
        until(lambda: "libbpf" in Path(f"/proc/{tool.pid}/maps").read_text())
        tool.end(signal.SIGINT)

    assert tool.code == 0
    assert "Traceback" not in tool.err


def test_nohup(trace: Any, until: Callable[[Any], None], tmp_path: Path) -> None:
    """Where SIGHUP was ignored from the start, it stays so: nohup works."""
    watched = tmp_path / "watched"
    watched.touch()

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    tool = trace("opensnoop", "-n", "watched", "--no-header", preexec_fn=ignore)
    tool.process.send_signal(signal.SIGHUP)
    open_often(watched, 1)

    assert "watched" in tool.line()
    assert 0 == tool.end().code


def test_reader_leaves_before_the_report(
    trace: Any, until: Callable[[Any], None], tool_name: str
) -> None:
    """A reader that leaves just when the tool ends does not make it fail."""
    source, end = os.pipe()
    tool = trace(tool_name, "--json", "--comm", "no-such-name", stdout=end)
    os.close(end)
    tool.process.send_signal(signal.SIGSTOP)
    until(lambda: state_of(tool.pid) == "T")
    os.close(source)
    tool.process.send_signal(signal.SIGINT)
    tool.process.send_signal(signal.SIGCONT)
    tool.ended()

    assert 0 == tool.code
    assert "Traceback" not in tool.err


def test_help_for_a_reader_that_leaves(run: Any, tool_name: str) -> None:
    """Help that nobody reads to its end is no failure."""
    source, end = os.pipe()
    os.close(source)
    with run(tool_name, "--help", stdout=end) as tool:
        os.close(end)
        tool.ended()

    assert (0, "") == (tool.code, tool.err)


def test_full_device(run: Any, tool_name: str) -> None:
    """An output that is full makes the tool fail with a line that says so."""
    with open("/dev/full", "wb") as full, run(tool_name, "--duration", "1", stdout=full) as tool:
        tool.ended()

    assert 1 == tool.code
    last = tool.err.splitlines()[-1]
    assert f"{tool_name}: cannot write the output: No space left on device" == last
    assert "Traceback" not in tool.err


def test_full_file_system(run: Any, tmp_path: Path) -> None:
    """A file system that is full ends the tool, and its file has no half line."""
    watched = tmp_path / "watched"
    watched.touch()
    full = tmp_path / "full"
    full.mkdir()
    script = (
        f"mount -t tmpfs -o size=16k tmpfs {full} &&"
        f"opensnoop -n watched --json -o {full}/rows; code=$?; cat {full}/rows; exit $code"
    )
    with shell(run, script) as tool:
        tool.attached()
        open_often(watched, 503)
        tool.ended()

    assert 1 == tool.code
    last = tool.err.splitlines()[-1]
    assert "opensnoop: cannot write the output: No space left on device" == last
    assert tool.out.endswith("}\n")
    assert len(tool.out) > 8000
    tool.out += '{"summary": {}}'
    assert tool.json


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_closed_descriptors(run: Any, tool_name: str, closed: str) -> None:
    """Without standard input or error a tool works."""
    with shell(run, f"exec {tool_name} --json --duration 0.1 {closed}") as tool:
        tool.ended()

    assert 0 == tool.code
    assert {} == tool.losses


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_output(run: Any, tmp_path: Path, tool_name: str, closed: str) -> None:
    """Without standard output a tool says so, and writes to nothing else that it has opened."""
    with shell(run, f"exec {tool_name} --json --duration 0.1 {closed}") as tool:
        tool.ended()
    with shell(run, f"exec {tool_name} --json --duration 0.1 -o {tmp_path}/rows {closed}") as other:
        other.ended()

    assert 1 == tool.code
    said = "" if "2>&-" in closed else f"{tool_name}: standard output is closed: use -o FILE\n"
    assert said == tool.err
    assert 0 == other.code
    assert (tmp_path / "rows").read_text().endswith("}}\n")


def test_stop_and_continue(trace: Any, until: Callable[[Any], None], tmp_path: Path) -> None:
    """Ctrl-Z, fg and a new size of the terminal lose nothing."""
    watched = tmp_path / "watched"
    watched.touch()
    # A group of its own, whose parent is in the same session: others cannot be stopped so.
    tool = trace("opensnoop", "-n", "watched", "--json", preexec_fn=os.setpgrp)
    for _ in range(3):
        tool.process.send_signal(signal.SIGTSTP)
        until(lambda: state_of(tool.pid) == "T")
        open_often(watched, 7)
        tool.process.send_signal(signal.SIGWINCH)
        tool.process.send_signal(signal.SIGCONT)
        until(lambda: state_of(tool.pid) != "T")
    tool.end()

    assert 0 == tool.code
    assert (21, 0) == tool.counted


def test_interrupted_at_any_time(run: Any) -> None:
    """Ctrl-C in the first 60 ms ends a tool, without a traceback from any of its modules.

    The interpreter can be interrupted before it runs the first line, and says so itself.
    """
    for delay_us in range(0, 60_000, 500):
        at = time.monotonic_ns() + delay_us * 1000
        with run("opensnoop") as tool:
            while time.monotonic_ns() < at:
                pass
            tool.end()

        assert "tracewheel/runtime" not in tool.err
        assert "KeyboardInterrupt" in tool.err or tool.code in (0, -signal.SIGINT), tool.err


def test_target_ends(trace: Any, tool_name: str) -> None:
    """When the process of -p ends the tool says so and ends too."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as target:
        tool = trace(tool_name, "--pid", str(target.pid))
    tool.ended()

    assert 0 == tool.code
    assert f"{tool_name}: process {target.pid} has ended\n" in tool.err
    assert tool.counted


def test_target_is_a_zombie(run: Any, tool_name: str) -> None:
    """A process that has ended and waits for its parent is as good as gone."""
    target = subprocess.Popen(["true"])
    os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
    with run(tool_name, "--pid", str(target.pid)) as tool:
        tool.ended()
    target.wait()

    assert tool.code in (0, 5)
    assert "Traceback" not in tool.err


def test_output_to_a_file(trace: Any, tmp_path: Path, tool_name: str) -> None:
    """With -o all goes to the file, and standard output stays empty."""
    rows = tmp_path / "rows"
    tool = trace(tool_name, "--json", "-o", str(rows)).end()

    assert (0, "") == (tool.code, tool.out)
    assert rows.read_text().endswith("}}\n")


@pytest.mark.parametrize("path", ["/", "/no/such/folder/rows", ""])
def test_output_that_cannot_be(run: Any, tool_name: str, path: str) -> None:
    """A file that cannot be written makes the tool fail before it traces."""
    with run(tool_name, "-o", path) as tool:
        tool.ended()

    assert (1, "") == (tool.code, tool.out)
    assert 1 == tool.err.count("\n")
    assert tool.err.startswith(f"{tool_name}: cannot write ")

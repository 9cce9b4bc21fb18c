# SPDX-License-Identifier: BSD-2-Clause
"""What every tool promises while it traces and when it ends, on every kernel."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.show.lines import header
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import Counts, Histogram, Stacks
from tracewheel.runtime.trace.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NOBODY = 65534
NO_TRACEBACK = "Traceback"
SOON_S = 30  # on an emulated machine


def nothing(tool_name: str) -> list[str]:
    """Return options that no event matches."""
    session = Session(tool_name, Request(load_tool(tool_name)[0], {}))
    known = "filter_comm" in session.variables
    session.close()
    if not known:
        pytest.skip("the tool has no filter by name")
    return ["--comm", "no-such-name"]


def title(tool_name: str) -> list[str]:
    """Return what a tool prints though nothing has happened."""
    tool, _ = load_tool(tool_name)
    if isinstance(tool, (Histogram, Stacks)):
        return ["no events"]
    return [" ".join(header(Request(tool, {}).columns()).split())]


def test_duration_ends_in_time(trace: Any, tool_name: str) -> None:
    """With --duration 1 the tool ends by itself after a second."""
    tool = trace(tool_name, "--duration", "1")
    begin = time.monotonic()
    tool.ended()

    assert 0 == tool.code
    assert 0.5 < time.monotonic() - begin < SOON_S
    assert tool.counted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_with_the_report(
    trace: Any, stir: Callable[[], None], tool_name: str, number: signal.Signals
) -> None:
    """Ctrl-C, a service manager and a lost terminal end the tool with all that it has seen."""
    tool = trace(tool_name)
    stir()
    begin = time.monotonic()
    tool.end(number)

    assert 0 == tool.code
    assert time.monotonic() - begin < SOON_S
    assert tool.counted
    assert tool.out
    assert NO_TRACEBACK not in tool.err


def test_reader_that_leaves_ends_it_quietly(trace: Any, tool_name: str) -> None:
    """When the reader of a pipe leaves, the tool ends at once, though nothing happens."""
    source, end = os.pipe()
    tool = trace(tool_name, *nothing(tool_name), stdout=end)
    os.close(end)
    os.close(source)
    tool.process.wait(SOON_S)
    tool.ended()

    assert 0 == tool.code
    assert NO_TRACEBACK not in tool.err
    assert " lost" not in tool.err


def test_nothing_stays(
    trace: Any, until: Callable[[Any], None], kernel: Any, tool_name: str
) -> None:
    """Nothing is pinned, and programs, maps and links go with the tool, even after SIGKILL."""
    before = os.listdir("/sys/fs/bpf")
    for number in (signal.SIGINT, signal.SIGKILL):
        tool = trace(tool_name)
        held = kernel.held_by(tool.pid)
        assert {"prog", "map"} <= {kind for kind, _ in held}
        assert held <= kernel.all()
        assert before == os.listdir("/sys/fs/bpf")
        tool.end(number)
        until(lambda held=held: not held & kernel.all())


def test_without_privilege(run: Any, tool_name: str) -> None:
    """Without capabilities the exit code is 3, and one line names those that are needed."""
    with run(tool_name, user=NOBODY, group=NOBODY, extra_groups=[]) as tool:
        tool.ended()

    assert 3 == tool.code
    assert "" == tool.out
    assert 1 == tool.err.count("\n")
    assert "CAP_BPF" in tool.err
    assert "CAP_PERFMON" in tool.err


def unlock_memory() -> None:
    """Lift the limit of locked memory if that is allowed: maps count as such before 5.11."""
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)


@pytest.mark.each_tool
def test_with_two_capabilities(run: Any, tool_name: str) -> None:
    """CAP_BPF and CAP_PERFMON are enough, or the line says which one tracefs or uprobes take."""
    kept = "+bpf,+perfmon"
    command = str(Path(sys.executable).with_name(tool_name))
    with run(
        shutil.which("setpriv"), "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups",
        "--inh-caps", kept, "--ambient-caps", kept, command, "--duration", "0.1",
        preexec_fn=unlock_memory,
    ) as tool:  # fmt: skip
        tool.ended()

    if tool.code != 0:
        assert 3 == tool.code
        assert 1 == tool.err.count("\n")
        assert "CAP_DAC_READ_SEARCH" in tool.err or "CAP_SYS_ADMIN" in tool.err


def test_filter_that_matches_nothing(trace: Any, stir: Callable[[], None], tool_name: str) -> None:
    """Without a match the tool prints nothing, goes on, and says 0."""
    tool = trace(tool_name, *nothing(tool_name))
    stir()
    with pytest.raises(subprocess.TimeoutExpired):
        tool.process.wait(0.2)
    tool.end()

    assert 0 == tool.code
    lines = [" ".join(line.split()) for line in tool.out.splitlines()]
    if isinstance(load_tool(tool_name)[0], Counts):
        assert {"0"} == set(lines.pop().split()[1:])  # behind the time
    assert title(tool_name) == lines
    assert (0, 0) == tool.counted


# To import one of these takes longer than a tool may take to start.
SLOW_TO_IMPORT = {"argparse", "dataclasses", "inspect", "json", "re", "subprocess", "typing"}
IMPORTED = """
import sys
before = set(sys.modules)
sys.argv = sys.argv[1:]
from tracewheel.runtime.cli import main
code = main()
print(*(set(sys.modules) - before))
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["opensnoop", "execsnoop", "biosnoop"])
def test_start_imports_little(name: str) -> None:
    """A tool that shows rows imports nothing that takes long, from its start to its end."""
    command = [sys.executable, "-c", IMPORTED, name, "--duration", "0.01", "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert 0 == done.returncode, done.stderr
    assert set() == SLOW_TO_IMPORT & set(done.stdout.split())


@pytest.mark.each_tool
def test_each_rung_traces(trace: Any, tool_name: str) -> None:
    """Each rung that this kernel offers can be asked for, and the first of them is taken."""
    tool, _ = load_tool(tool_name)
    session = Session(tool_name, Request(tool, {}), all_ladders=True)
    attempts = [(ladder, rung) for ladder, rung, error in session.attempts() if not error]
    ladders = set(session.ladders()) - need_a_value(tool)
    session.close()
    required = Session(tool_name, Request(tool, {}))
    required.close()

    assert set(required.ladders()) <= {ladder for ladder, _ in attempts}
    # One start forces a rung of each ladder that is always climbed.
    starts: dict[Any, list[str]] = {}
    for ladder in ladders:
        rungs = [rung for what, rung in attempts if what == ladder]
        for number, rung in enumerate(rungs):
            key = number if ladder in required.ladders() else (ladder, number)
            options = [] if ladder in required.ladders() else flags_for(tool, ladder)
            starts.setdefault(key, []).extend([*options, "--rung", f"{ladder}={rung}"])
    for options in starts.values():
        forced = trace(tool_name, *options).end()
        assert 0 == forced.code
        assert NO_TRACEBACK not in forced.err


def need_a_value(tool: Any) -> set[str]:
    """Return the ladders that only some values of an option need, such as some disks."""
    return {ladder for option in tool.options if option.only_if for ladder in option.enables}


def flags_for(tool: Any, ladder: str) -> list[str]:
    """Return the options that make a tool climb a ladder."""
    for option in tool.options:
        if ladder in option.enables:
            return [option.flags[-1]]
    own = ["--pid", str(os.getpid())]
    return ["--follow", *own] if ladder == "follow" else own


def test_two_at_once(
    trace: Any, stir: Callable[[], None], silent_tools: set[str], tool_name: str
) -> None:
    """Two copies trace side by side; all they print is JSON, and the last line counts the rest."""
    tools = [trace(tool_name, "--json") for _ in range(2)]
    stir()
    for tool in tools:
        tool.end()

        assert 0 == tool.code
        assert all(isinstance(each, dict) for each in tool.json)
        assert {"lost", "losses"} < set(tool.summary)
        seen, lost = tool.counted
        assert [seen, lost + tool.skipped] == list(tool.summary.values())[:2]
        if "rows" in tool.summary:
            assert seen == len(tool.json)
            assert (tool_name in silent_tools) == (seen == 0)


def test_all_tools_at_once(trace: Any, stir: Callable[[], None], silent_tools: set[str]) -> None:
    """All tools trace side by side."""
    tools = {name: trace(name, "--json") for name in tool_names()}
    stir()
    for tool in tools.values():
        tool.end()

    assert {0} == {tool.code for tool in tools.values()}
    silent = {n for n, tool in tools.items() if "rows" in tool.summary and not tool.json}
    assert silent_tools == silent

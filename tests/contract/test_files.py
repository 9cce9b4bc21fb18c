# SPDX-License-Identifier: BSD-2-Clause
"""The files that a tool writes in the end hold what it has seen, and its exit code tells alerts."""

from __future__ import annotations

import json
import os
import re
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.spec.alerts import CONDITION_UNITS
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.shapes import Histogram, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SHAPES = {name: load_tool(name)[0] for name in tool_names()}
STACKED = [name for name, tool in SHAPES.items() if isinstance(tool, Stream) and tool.stack]
HISTOGRAMS = {name: tool for name, tool in SHAPES.items() if isinstance(tool, Histogram)}
SVG = "{http://www.w3.org/2000/svg}"
OPENS = 23


def weights(folded: str) -> list[int]:
    """Return the numbers at the ends of folded lines."""
    return [int(line.rpartition(" ")[2]) for line in folded.splitlines()]


@pytest.mark.parametrize("name", STACKED)
def test_stacks_hold_all_events(
    trace: Any, stir: Callable[[], None], tmp_path: Path, name: str
) -> None:
    """Each form counts every event once, and standard output has no row beside folded stacks."""
    flame, scope = tmp_path / "flame.svg", tmp_path / "scope.json"
    tool = trace(name, "--folded", "-", f"--flame={flame}", "--speedscope", str(scope))
    stir()
    tool.end()
    seen, _ = tool.counted

    assert 0 == tool.code
    assert seen == sum(weights(tool.out))
    assert seen == json.loads(scope.read_text())["profiles"][0]["endValue"]
    drawn = [int(box.attrib["data-w"]) for box in ET.parse(flame).iter(f"{SVG}svg")
             if box.attrib.get("data-d") == "0"]  # fmt: skip
    assert seen == sum(drawn)
    assert {"flame.svg", "scope.json"} == {p.name for p in tmp_path.iterdir() if p.suffix}


# The ladder of each tool, and what a stack begins with: where its event happens, or what made the
# system call that ended. From v7 on the function that fexit traces is not on the stack while the
# program runs.
CALLERS = r"do_syscall_64|entry_SYSCALL\w+|invoke_syscall|el0_svc\w*"
BEGINS = {
    "capable": ("check", r"cap_\w+|security_\w+"),
    "killsnoop": ("call", CALLERS),
    # Part of its callers in some kernels; where memory is used up is anywhere.
    "oomkill": ("kill", r"mark_oom_victim|__oom_kill_process|oom_kill_process|out_of_memory"),
    "opensnoop": ("open", rf"do_sys_openat2|__\w+_sys_(open|creat)\w*|{CALLERS}"),
    "statsnoop": ("stat", CALLERS),
    "syncsnoop": ("sync", CALLERS),
    "tcpaccept": ("accept", rf"security_sock_graft|(__)?inet_accept|{CALLERS}"),
    "tcpconnect": (
        "connect",
        r"inet_sk_state_store|tcp_set_state|tcp_v[46]_connect|__inet_stream_connect",
    ),
    "tcpretrans": ("retransmit", r"__tcp_retransmit_skb|tcp_rtx_synack"),
}


@pytest.mark.parametrize("name", STACKED)
def test_stacks_begin_where_events_happened(
    trace: Any,
    stir: Callable[[], None],
    silent_tools: set[str],
    rungs_of: Any,
    tmp_path: Path,
    name: str,
) -> None:
    """By every rung, and in every form, no stack begins with frames of the tracing itself."""
    if name in silent_tools:
        pytest.skip(f"needs what {name} traces, which cannot happen on this machine")
    ladder, wanted = BEGINS[name]
    for rung in rungs_of(name, ladder):
        chosen = ("--rung", f"{ladder}={rung}")
        file = tmp_path / rung  # takes what would fill a pipe
        rows = trace(name, *chosen, "--stack", "--json", "-o", str(file))
        folded = trace(name, *chosen, "--folded", "-")
        stir()
        rows.end()
        folded.end()

        *lines, _ = file.read_text().splitlines()
        stacks = [row["stack"] for row in map(json.loads, lines) if row["stack"]]
        assert stacks
        begins = {stack[0].partition("+")[0] for stack in stacks}
        begins |= {line.rpartition(" ")[0].split(";")[-1] for line in folded.out.splitlines()}
        assert not [begin for begin in begins if not re.fullmatch(wanted, begin)]


def test_stacks_of_known_events(trace: Any, tmp_path: Path) -> None:
    """Opens from one place are one stack: this process, its frames, then the kernel's."""
    comm = Path("/proc/self/comm").read_text().strip()
    tool = trace("opensnoop", "-p", str(os.getpid()), "-n", "known-*", "--folded", "-")
    for number in range(OPENS):
        os.close(os.open(tmp_path / f"known-{number}", os.O_CREAT | os.O_RDONLY))
    tool.end()

    assert (OPENS, 0) == tool.counted
    assert [OPENS] == weights(tool.out)
    frames = tool.out.rpartition(" ")[0].split(";")
    assert comm == frames[0]
    symbols = Path("/proc/kallsyms").read_text()
    inner = [frame for frame in frames[1:] if not frame.startswith(("0x", "["))]
    assert any(f" {frame}\n" in symbols for frame in inner)


def test_stacks_and_rows(trace: Any, tmp_path: Path) -> None:
    """A file beside the rows leaves the rows as they are, JSON too, and implies --stack."""
    flame = tmp_path / "flame.svg"
    tool = trace("opensnoop", "-p", str(os.getpid()), "-n", "known", "--json", f"--flame={flame}")
    for _ in range(OPENS):
        os.close(os.open(tmp_path / "known", os.O_CREAT | os.O_RDONLY))
    tool.end()

    assert OPENS == len(tool.json) == tool.summary["rows"]
    assert all(record["stack"] for record in tool.json)
    assert f">{OPENS} opens in " in flame.read_text()


def test_reader_that_leaves_does_not_take_the_file(
    trace: Any, until: Callable[[Any], None], tmp_path: Path
) -> None:
    """When the reader of the rows leaves, the file is written nevertheless."""
    flame = tmp_path / "flame.svg"
    source, end = os.pipe()
    tool = trace("opensnoop", "--comm", "no-such-name", f"--flame={flame}", stdout=end)
    os.close(end)
    os.close(source)
    tool.ended()

    assert 0 == tool.code
    assert "0 opens in 0 stacks" in flame.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_files_are_whole_or_absent(trace: Any, tmp_path: Path, number: signal.Signals) -> None:
    """A tool that is killed leaves neither a part of the file nor another."""
    flame = tmp_path / "flame.svg"
    trace("opensnoop", f"--flame={flame}", "-o", "/dev/null").end(number)

    assert ([] if number == signal.SIGKILL else ["flame.svg"]) == os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--folded", "-", "--json"], 2),
        (["--folded", "-", "--flame", "-"], 2),
        (["--flame", "/"], 1),
        (["--speedscope", "/no/such/file"], 1),
    ],
)
@pytest.mark.parametrize("name", STACKED)
def test_wrong_files(run: Any, name: str, options: list[str], code: int) -> None:
    """What cannot be written is told in one line before anything is traced."""
    with run(name, *options) as tool:
        tool.ended()

    assert (code, "", 1) == (tool.code, tool.out, tool.err.count("\n"))


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_heatmap_holds_all_events(
    trace: Any, stir: Callable[[], None], tmp_path: Path, name: str
) -> None:
    """The cells of the picture count every event of the reports once."""
    path = tmp_path / "heat.svg"
    tool = trace(name, "0.2", f"--heatmap={path}", "--json")
    stir()
    tool.end()
    titles = [title.text or "" for title in ET.parse(path).iter(f"{SVG}title")]
    told = [text.split("\n") for text in titles]  # of cells: time, values, events
    cells = [int(re.sub(r"\D", "", lines[2])) for lines in told if len(lines) == 3]

    assert tool.summary["events"] == sum(cells) == sum(each["count"] for each in tool.json)
    assert ["heat.svg"] == [each.name for each in tmp_path.glob("*.svg")]


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_alerts(run: Any, name: str) -> None:
    """Exit code and lines tell how often a claim was true, for each report."""
    unit = next(iter(CONDITION_UNITS[HISTOGRAMS[name].units[0]]))
    # This process only waits, so that no tool has more than one histogram in a report.
    options = ["0.1", "3", "-p", str(os.getpid()), "--alert", f"p99 < 0{unit}"]
    with run(name, *options, "--alert", "count>=0") as tool:
        tool.ended()
    with run(name, *options) as quiet:
        quiet.ended()

    assert (10, 3) == (tool.code, tool.err.count(f"{name}: alert: count>=0: count is "))
    assert 3 == tool.err.count("alert")
    assert (0, 0) == (quiet.code, quiet.err.count("alert"))


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_wrong_claims(run: Any, name: str) -> None:
    """A claim that makes no sense, and a heat map without interval, are wrong usage."""
    for options in (["--alert", "p99"], ["--alert", "p99>1parsec"], ["--heatmap", "x"],
                    ["--baseline", "/no/such/file"], ["--baseline", "/etc/passwd"]):  # fmt: skip
        with run(name, *options) as tool:
            tool.ended()
        assert (2, "", 1) == (tool.code, tool.out, tool.err.count("\n"))


def test_baseline_of_its_own(trace: Any, stir: Callable[[], None], tmp_path: Path) -> None:
    """What --json has written is a baseline, whose percentiles stand beside those of now."""
    path = tmp_path / "before"
    first = trace("runqlat", "--json", "-o", str(path))
    stir()
    first.end()
    before, summary = map(json.loads, path.read_text().splitlines())
    second = trace("runqlat", "--json", "--baseline", str(path))
    stir()
    second.end()
    (now,) = second.json

    assert summary["summary"]["events"] == before["count"] == now["baseline"]["count"]
    assert before["percentiles"] == now["baseline"]["percentiles"]
    expected = {n: value - before["percentiles"][n] for n, value in now["percentiles"].items()}
    assert expected == now["baseline"]["difference"]

# SPDX-License-Identifier: BSD-2-Clause
"""Whatever is too much for a tool is counted: what it has seen and lost is what has happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

STORM = 30011


@pytest.fixture
def storm(tmp_path: Path) -> tuple[list[str], Callable[[], None]]:
    """Give options that select certain opens in the kernel, and a function that makes STORM."""
    watched = tmp_path / "watched"
    watched.touch()

    def blow() -> None:
        for _ in range(STORM):
            os.close(os.open(watched, os.O_RDONLY))

    return ["-p", str(os.getpid()), "-n", watched.name], blow


def state_of(pid: int) -> str:
    """Return the letter that says what a process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def memory_of(pid: int) -> int:
    """Return the resident kilobytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("form", [(), ("--json",), ("--stack",)])
def test_small_ring(trace: Any, storm: Any, form: tuple[str, ...]) -> None:
    """With a ring too small for the storm, rows and losses add up to the opens."""
    options, blow = storm
    tool = trace("opensnoop", *options, "--buffer-size", "8K", *form)
    blow()
    tool.end()
    rows, lost = tool.counted

    assert STORM - tool.skipped <= rows + lost <= STORM
    assert rows == sum(" " not in line[:1] and "watched" in line for line in tool.out.split("\n"))


def test_stopped_reader(trace: Any, until: Callable[[Any], None], storm: Any) -> None:
    """What comes while the tool is stopped is lost when its ring is full, and counted."""
    options, blow = storm
    tool = trace("opensnoop", *options, "--buffer-size", "8K", "--json")
    tool.process.send_signal(signal.SIGSTOP)
    until(lambda: state_of(tool.pid) == "T")
    blow()
    tool.process.send_signal(signal.SIGCONT)
    tool.end()
    rows, lost = tool.counted

    assert STORM - tool.skipped <= rows + lost <= STORM
    assert 0 < rows < STORM
    assert rows == len(tool.json)
    assert {"opens": lost} == tool.losses


@pytest.mark.parametrize("form", [(), ("--json",), ("--stack",)])
def test_output_that_nobody_reads(
    trace: Any, until: Callable[[Any], None], storm: Any, form: tuple[str, ...]
) -> None:
    """A blocked pipe costs no memory, does not delay Ctrl-C, and what it kept out is counted."""
    options, blow = storm
    source, end = os.pipe()
    begin = time.monotonic()
    tool = trace("opensnoop", *options, "--buffer-size", "1M", *form, stdout=end)
    start_s = time.monotonic() - begin
    os.close(end)
    blow()
    until(lambda: state_of(tool.pid) == "S")
    filled = memory_of(tool.pid)
    blow()
    grown = memory_of(tool.pid) - filled
    begin = time.monotonic()
    tool.process.send_signal(signal.SIGINT)
    tool.process.wait(60)
    end_s = time.monotonic() - begin
    tool.ended()
    with open(source, "rb") as pipe:
        shown = pipe.read().split(b"\n")[:-1]
    rows, lost = tool.counted

    assert 0 == tool.code
    assert grown < 1 << 10
    # As slow as the machine is.
    assert end_s < 1 + 2 * start_s
    assert 2 * STORM - tool.skipped <= rows + lost <= 2 * STORM
    begun = sum(b" " not in line[:1] and b"watched" in line for line in shown)
    # The last one may lack frames of its stack.
    assert begun in ((rows, rows + 1) if "--stack" in form else (rows,))
    assert "output" in tool.err


def test_slow_reader(trace: Any, storm: Any) -> None:
    """A reader that takes its time gets every row that is not counted as lost."""
    options, blow = storm
    source, end = os.pipe()
    tool = trace("opensnoop", *options, "--json", "--buffer-size", "64K", stdout=end)
    os.close(end)
    blow()
    with open(source, "rb", buffering=0) as pipe:
        shown = b""
        while shown.count(b"\n") < 53:
            shown += pipe.read(512)
        tool.process.send_signal(signal.SIGINT)
        while piece := pipe.read(512):
            shown += piece
    tool.ended()
    rows, lost = tool.counted

    assert STORM - tool.skipped <= rows + lost <= STORM
    assert rows == shown.count(b"watched")


def test_small_ring_counted_by_stack(trace: Any, storm: Any) -> None:
    """Events that are counted by stack and losses add up to the opens, too."""
    options, blow = storm
    tool = trace("opensnoop", *options, "--buffer-size", "8K", "--folded", "-")
    blow()
    tool.end()
    seen, lost = tool.counted

    assert STORM - tool.skipped <= seen + lost <= STORM
    assert seen == sum(int(line.rpartition(" ")[2]) for line in tool.out.splitlines())

# SPDX-License-Identifier: BSD-2-Clause
"""Tools of others at work beside ours.

A peer by the name of NAME-libbpf is of libbpf-tools, NAME-bpfcc of bcc, NAME.bt of bpftrace.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PEERS = os.environ.get("TRACEWHEEL_PEERS", "")
ME = str(os.getpid())
LIMIT_S = 240
SECOND = r"\d+:\d+:\d+.*\n"


class Peer:
    """Another tool at work, on a terminal, so that it shows each line at once."""

    def __init__(self, tool: str, *arguments: str) -> None:
        self._terminal, end = pty.openpty()
        peers = Peers(Path(PEERS), {})
        if tool.endswith("-bpfcc"):
            command = peers.bcc(tool, *arguments)
        else:
            folder = "bin" if tool == "bpftrace" else "sbin"
            command = peers.command(f"{folder}/{tool}", *arguments)
        # bcc compiles with the headers that os.environ tells of, those of this very kernel.
        environment = {**command.environment, **os.environ}
        self._process = subprocess.Popen(command.argv, stdout=end, stderr=end, env=environment)
        os.close(end)
        self.out = ""

    def _hear(self, seconds: float) -> bool:
        """Read what it shows in that time, and tell whether there was something."""
        if not select.select([self._terminal], [], [], seconds)[0]:
            return False
        self.out += os.read(self._terminal, 65536).decode(errors="replace")
        return True

    def wait_for(self, pattern: str, act: Callable[[], Any] = int, after: int = 0) -> None:
        """Wait until it has shown something, acting now and then."""
        deadline = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.out[after:]):
            try:
                if not self._hear(1):
                    act()
            except OSError:  # EIO: it has ended
                deadline = 0
            assert time.monotonic() < deadline, self.out

    def next_second(self) -> int:
        """Wait until it has shown another second; return how much it has shown."""
        while self._hear(0):
            pass
        self.wait_for(SECOND, after=len(self.out))
        return len(self.out)

    def end(self, begin: int = 0) -> str:
        """Interrupt it; return what it has shown."""
        self._process.send_signal(signal.SIGINT)
        with suppress(OSError):  # EIO: it has ended
            while self._hear(LIMIT_S):
                pass
        self.close()
        return self.out[begin:].replace("\r", "")

    def rows(self) -> list[list[str]]:
        """Interrupt it; return the words of each line."""
        return [line.split() for line in self.end().splitlines()]

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
            os.close(self._terminal)


@pytest.fixture
def beside() -> Iterator[Callable[..., list[Peer]]]:
    """Give a function that starts peers side by side, and waits until all trace."""
    if not PEERS:
        pytest.skip("needs peers: ./dev vm test --peers")
    started: list[Peer] = []

    def start(
        *commands: tuple[str, ...], shows: str = "Tracing|Attached", act: Callable[[], Any] = int
    ) -> list[Peer]:
        for command in commands:
            started.append(Peer(*command))
        for each in started:
            each.wait_for(shows, act)
        return started

    yield start
    for each in started:
        each.close()


def script(name: str, old: str = "", new: str = "") -> tuple[str, ...]:
    """Run a script of bpftrace's, with something replaced.

    What it prints and forgets each second it prints at its end instead: between the two, what
    happens is lost.
    """
    text = Path(PEERS, "usr/sbin", name).read_text()
    assert old in text
    return "bpftrace", "-e", text.replace(old, new).partition("interval:")[0]


def of_me(name: str, probe: str) -> tuple[str, ...]:
    """Run a script of bpftrace's, whose last probe is to see this process alone."""
    return script(name, f"{probe}\n{{", f"{probe}\n/pid == {ME}/\n{{")


def counts(shown: str) -> dict[str, int]:
    """Return the counts of a table, or of a map of bpftrace."""
    found = re.findall(r"^(?:@\w*\[)?(\w+)\]?:?\s+(\d+)$", shown, re.MULTILINE)
    return {name: int(count) for name, count in found}


def buckets(shown: str) -> dict[int, int]:
    """Return the counts of a histogram by their lower bounds."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20}
    found = re.findall(r"^\s*\[?(\d+)([KM]?)(?: ->|,|\]).*?[\s:]+(\d+) +\|", shown, re.MULTILINE)
    return {int(low) * units[unit]: int(count) for low, unit, count in found}


def buckets_of_ours(tool: Any) -> dict[int, int]:
    """Return those of ours."""
    (histogram,) = tool.json
    return {low: count for low, _, count in histogram["buckets"]}


@contextmanager
def worker(code: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """Give the pid of a process that sleeps, and a function that has it do something once."""
    answer = "print(flush=True); input()"
    command = ["/usr/bin/python3", "-c", f"import time\n{answer}\n{code}\n{answer}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        order, answers = process.stdin, process.stdout
        answers.readline()

        def work() -> None:
            order.write(b"\n")
            order.flush()
            answers.readline()

        yield process.pid, work
        process.communicate(b"\n")

# SPDX-License-Identifier: BSD-2-Clause
"""Start a tool, prove that it traces, and stop it."""

from __future__ import annotations

import itertools
import math
import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .peers import Command

BUILD = Path(__file__).with_name("build")
PROBE = "tracewheel-probe-"
_numbers = itertools.count(1)
# A guest emulates its CPU: there bcc takes more than a minute to compile a tool.
_PATIENCE = 20 if os.environ.get("TRACEWHEEL_GUEST") else 1


def open_probe() -> int:
    """Open a path that no other open has; return its number."""
    number = next(_numbers)
    # bcc's trace cannot read the path of a tracepoint, hence the number as directory, too.
    # The kernel ignores it, the path being absolute.
    with suppress(FileNotFoundError):
        os.open(f"/{PROBE}{number}-", os.O_RDONLY, dir_fd=number)
    return number


@dataclass(frozen=True)
class Usage:
    """What a tool needed until it was gone."""

    cpu_seconds: float
    exit_seconds: float
    lost: int
    repeats: int  # events that are not shown because they are like others, as told


class Session:
    """A running tool, its output on a pipe or in a file."""

    def __init__(self, name: str, command: Command, *, pipe: bool = False) -> None:
        """Start the tool."""
        self.output, self.errors = BUILD / f"{name}.out", BUILD / f"{name}.err"
        if pipe:
            self._reader, writer = os.pipe()
        else:
            writer = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self._reader = os.open(self.output, os.O_RDONLY)
        os.set_blocking(self._reader, False)
        self._tail = b""
        environment = {**os.environ, **command.environment}
        with self.errors.open("wb") as errors:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                command.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=errors,
            )
        os.close(writer)

    def read(self) -> bytes:
        """Return the end of the output so far."""
        with suppress(BlockingIOError):
            while chunk := os.read(self._reader, 1 << 20):
                self._tail = (self._tail + chunk)[-65536:]
        return self._tail

    def prove(self, limit: float = 30) -> float:
        """Open paths until one is shown; return when the first shown one was opened."""
        tried: dict[int, float] = {}
        deadline = time.monotonic() + limit * _PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            begin = time.monotonic()
            tried[open_probe()] = begin
            time.sleep(0.0005)
            for shown in re.findall(rf"{PROBE}(\d+)-".encode(), self.read()):
                if int(shown) in tried:
                    return tried[int(shown)]
        raise TimeoutError(f"no open shown: {self.errors.read_text(errors='replace')[-300:]}")

    def show_one(self, limit: float = 1) -> float:
        """Open one path; return the seconds until it is shown."""
        begin = time.monotonic()
        marker = f"{PROBE}{open_probe()}-".encode()
        while marker not in self.read():
            if time.monotonic() > begin + limit:
                return math.inf
            time.sleep(0.0002)
        return time.monotonic() - begin

    def wait_for(self, text: str, limit: float = 30) -> None:
        """Wait until the tool says so on stdout or stderr."""
        deadline = time.monotonic() + limit * _PATIENCE
        while text.encode() not in self.read() + self.errors.read_bytes():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"not said: {text}: {self.errors.read_text()[-300:]}")
            time.sleep(0.001)

    def wait_for_descriptor(self, kind: str, limit: float = 30) -> None:
        """Wait until the tool holds a descriptor of this kind, as their descriptions tell."""
        deadline = time.monotonic() + limit * _PATIENCE
        while True:
            text = b""
            for file in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
                with suppress(FileNotFoundError):
                    text += file.read_bytes()
            if f"{kind}:".encode() in text:
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"no {kind}: {self.errors.read_text()[-300:]}")
            time.sleep(0.05)

    def peak_mb(self) -> float:
        """Return the most memory that the tool had; ru_maxrss counts its parent's, too."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1e3

    def stop(self, limit: float = 10) -> Usage:
        """Press Ctrl-C and wait for the end."""
        end = select.poll()
        process = os.pidfd_open(self.process.pid)
        end.register(process, select.POLLIN)
        begin = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        ended = end.poll(limit * 1000 * _PATIENCE)
        exit_seconds = time.monotonic() - begin if ended else math.inf
        if not ended:
            self.process.kill()
        _, self.process.returncode, usage = os.wait4(self.process.pid, 0)
        os.close(process)
        said = self.errors.read_text(errors="replace")
        lost = sum(int(a or b) for a, b in re.findall(r"(\d+) lost|lost (\d+)", said, re.I))
        repeats = sum(map(int, re.findall(r"(\d+) repeats", said)))
        return Usage(usage.ru_utime + usage.ru_stime, exit_seconds, lost, repeats)

    def __enter__(self) -> Session:
        """Return the session."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the tool if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._reader)

# SPDX-License-Identifier: BSD-2-Clause
"""Arguments become what they name, or an error that says what was expected."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime import kernel, options
from tracewheel.runtime.errors import BpfError, NotSupported, TargetGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: list[Callable[[str], Any]] = [
    kernel.parse_count,
    kernel.parse_seconds,
    kernel.parse_process,
    kernel.parse_thread,
    kernel.parse_user,
    kernel.parse_comm,
    kernel.parse_cpu,
    kernel.parse_disk,
    kernel.parse_cgroup,
    options.parse_bytes,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=30) | st.text("0123456789.-+eE_ /", max_size=30))
def test_any_text(parse: Callable[[str], Any], text: str) -> None:
    """Any text gives a value or one of our own errors, of one line."""
    try:
        parse(text)
    except BpfError as error:
        assert "\n" not in str(error)


@given(st.integers(-10, 2**40), st.integers(0, 100), st.integers(0, 2**40))
def test_counts(number: int, least: int, most: int) -> None:
    """A whole number is accepted just within its bounds."""
    if least <= number <= most:
        assert number == kernel.parse_count(str(number), least, most)
    else:
        with pytest.raises(UsageError):
            kernel.parse_count(str(number), least, most)


@pytest.mark.parametrize("text", ["0", "-0", "-1", "nan", "inf", "1e10", "1s", "", " "])
def test_no_seconds(text: str) -> None:
    """A duration is positive, finite, and has no unit."""
    with pytest.raises(UsageError):
        kernel.parse_seconds(text)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.25", 0.25), ("1e9", 1e9)])
def test_seconds(text: str, seconds: float) -> None:
    """A duration may have a fraction."""
    assert seconds == kernel.parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("512K", 1 << 19), ("8m", 8 << 20), ("2G", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """A size has a unit or none."""
    assert size == options.parse_bytes(text)


def test_processes_and_threads() -> None:
    """A thread is no process; both exist or are gone."""
    begun, over = threading.Event(), threading.Event()

    def live() -> None:
        begun.set()
        over.wait()

    thread = threading.Thread(target=live)
    thread.start()
    begun.wait()
    tid = thread.native_id
    own = os.getpid()

    assert own == kernel.parse_process(str(own))
    assert tid == kernel.parse_thread(str(tid))
    with pytest.raises(TargetGone, match=f"thread of {own}: use --tid"):
        kernel.parse_process(str(tid))
    over.set()
    thread.join()
    with pytest.raises(TargetGone):
        kernel.parse_process(str(2**31 - 1))


def test_watched_process_is_gone() -> None:
    """A process that ended before it could be watched is not waited for."""
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(TargetGone, match="has ended"):
        kernel.watch_process(process.pid)
    assert -1 == kernel.watch_process(None)


def test_users() -> None:
    """A user goes by number or name."""
    assert 0 == kernel.parse_user("root") == kernel.parse_user("0")
    assert 4_000_000_000 == kernel.parse_user("4000000000")


def test_names_of_commands() -> None:
    """A command's name has 15 bytes, as in the kernel."""
    assert b"nginx".ljust(16, b"\0") == kernel.parse_comm("nginx")
    assert b"x" * 15 + b"\0" == kernel.parse_comm("x" * 40)
    assert b"\xff\xc3\xa9".ljust(16, b"\0") == kernel.parse_comm("\udcffé")


def test_disks() -> None:
    """A disk goes by its name; a partition is none."""
    blocks = list(Path("/sys/class/block").iterdir())
    disks = [path for path in blocks if not (path / "partition").exists()]
    for path in disks:
        major, minor = map(int, (path / "dev").read_text().split(":"))
        assert major << 20 | minor == kernel.parse_disk(path.name)
        assert major << 20 | minor == kernel.parse_disk(f"/dev/{path.name}")
    for path in set(blocks) - set(disks):
        with pytest.raises(UsageError, match="its disk: use "):
            kernel.parse_disk(path.name)


def test_cgroups() -> None:
    """A cgroup goes by its path, from the root of all cgroups or of all files, or by its id."""
    try:
        root = kernel.cgroup_root()
    except NotSupported:
        pytest.skip("needs a cgroup2 file system")
    number = os.stat(root).st_ino

    assert (number, 0) == kernel.parse_cgroup("/") == kernel.parse_cgroup(root)
    assert (number, 0) == kernel.parse_cgroup(str(number))
    for path in sorted(Path(root).glob("*/"))[:1]:
        expected = (path.stat().st_ino, 1)
        assert expected == kernel.parse_cgroup(path.name)
        assert expected == kernel.parse_cgroup(f"{path}/")
        assert expected == kernel.parse_cgroup(str(expected[0]))
    for text in ("..", "../..", f"{root}/../..", "no-such"):
        with pytest.raises(TargetGone):
            kernel.parse_cgroup(text)


def test_cgroup_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that goes while its id is looked up is no error."""
    monkeypatch.setattr(os, "walk", lambda root: [(f"{root}/just-gone", [], []), (root, [], [])])
    try:
        root = kernel.cgroup_root()
    except NotSupported:
        pytest.skip("needs a cgroup2 file system")
    number = os.stat(root).st_ino

    assert (number, 0) == kernel.parse_cgroup(str(number))


def test_online_cpus(tmp_path: Path) -> None:
    """They are those that /proc/stat has a line of; the file tells ranges and single ones."""
    words = (line.split()[0] for line in Path("/proc/stat").read_text().splitlines())
    file = tmp_path / "online"
    file.write_text("0-2,5,8-9\n")

    assert [int(word[3:]) for word in words if word[:3] == "cpu" < word] == kernel.online_cpus()
    assert [0, 1, 2, 5, 8, 9] == kernel.online_cpus(str(file))


def test_clocks() -> None:
    """The offset turns the clock of records into the time of day."""
    before = time.time_ns()
    now = kernel.boot_time_ns() + kernel.boot_to_epoch_ns()

    assert before - 1_000_000 <= now <= time.time_ns() + 1_000_000

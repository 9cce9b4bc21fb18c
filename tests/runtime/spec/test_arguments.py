# SPDX-License-Identifier: BSD-2-Clause
"""Arguments become what they name, or an error that says what was expected."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.cgroups import cgroup_root
from tracewheel.runtime.host.disks import find_device
from tracewheel.runtime.host.errors import BpfError, NotSupported, TargetGone, UsageError
from tracewheel.runtime.spec.arguments import (
    parse_cgroup,
    parse_comm,
    parse_count,
    parse_cpu,
    parse_process,
    parse_seconds,
    parse_thread,
    parse_user,
)
from tracewheel.runtime.spec.options import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: list[Callable[[str], Any]] = [
    parse_count,
    parse_seconds,
    parse_process,
    parse_thread,
    parse_user,
    parse_comm,
    parse_cpu,
    find_device,
    parse_cgroup,
    parse_bytes,
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
        assert number == parse_count(str(number), least, most)
    else:
        with pytest.raises(UsageError):
            parse_count(str(number), least, most)


@pytest.mark.parametrize("text", ["0", "-0", "-1", "nan", "inf", "1e10", "1s", "", " "])
def test_no_seconds(text: str) -> None:
    """A duration is positive, finite, and has no unit."""
    with pytest.raises(UsageError):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.25", 0.25), ("1e9", 1e9)])
def test_seconds(text: str, seconds: float) -> None:
    """A duration may have a fraction."""
    assert seconds == parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("512K", 1 << 19), ("8m", 8 << 20), ("2G", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """A size has a unit or none."""
    assert size == parse_bytes(text)


def test_processes_and_threads() -> None:
    """A thread is not taken for a process; either must exist."""
    begun, over = threading.Event(), threading.Event()

    def live() -> None:
        begun.set()
        over.wait()

    thread = threading.Thread(target=live)
    thread.start()
    begun.wait()
    tid = thread.native_id
    own = os.getpid()

    assert own == parse_process(str(own))
    assert tid == parse_thread(str(tid))
    with pytest.raises(TargetGone, match=f"thread of {own}: use --tid"):
        parse_process(str(tid))
    over.set()
    thread.join()
    with pytest.raises(TargetGone):
        parse_process(str(2**31 - 1))


def test_users() -> None:
    """A user goes by number or name."""
    assert 0 == parse_user("root") == parse_user("0")
    assert 4_000_000_000 == parse_user("4000000000")


def test_names_of_commands() -> None:
    """A command's name has 15 bytes, as in the kernel."""
    assert b"nginx".ljust(16, b"\0") == parse_comm("nginx")
    assert b"x" * 15 + b"\0" == parse_comm("x" * 40)
    assert b"\xff\xc3\xa9".ljust(16, b"\0") == parse_comm("\udcffé")


def test_cgroups() -> None:
    """A cgroup goes by its path, from the root of all cgroups or of all files, or by its id."""
    try:
        root = cgroup_root()
    except NotSupported:
        pytest.skip("needs a cgroup2 file system")
    number = os.stat(root).st_ino

    assert (number, 0) == parse_cgroup("/") == parse_cgroup(root)
    assert (number, 0) == parse_cgroup(str(number))
    for path in sorted(Path(root).glob("*/"))[:1]:
        expected = (path.stat().st_ino, 1)
        assert expected == parse_cgroup(path.name)
        assert expected == parse_cgroup(f"{path}/")
        assert expected == parse_cgroup(str(expected[0]))
    for text in ("..", "../..", f"{root}/../..", "no-such"):
        with pytest.raises(TargetGone):
            parse_cgroup(text)


def test_cgroup_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that is removed while its id is looked up is not an error."""
    monkeypatch.setattr(os, "walk", lambda root: [(f"{root}/just-gone", [], []), (root, [], [])])
    try:
        root = cgroup_root()
    except NotSupported:
        pytest.skip("needs a cgroup2 file system")
    number = os.stat(root).st_ino

    assert (number, 0) == parse_cgroup(str(number))

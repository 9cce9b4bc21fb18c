# SPDX-License-Identifier: BSD-2-Clause
"""The tools as Python objects give what the commands print."""

from __future__ import annotations

import collections
import ctypes
import errno
import os
import pickle
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel.runtime.host.errors import BpfError, UsageError
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.shapes import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HISTOGRAMS = [n for n in tool_names() if isinstance(load_tool(n)[0], Histogram)]
NAMES = [b"plain", "grün".encode(), b"\xff\xfe", b"a\nb", b"\x1b[31m"]


def opens_of(path: bytes, times: int = 1) -> None:
    """Open a file."""
    for _ in range(times):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Path]:
    """Open a file again and again in another thread."""
    watched, over = tmp_path / "watched", threading.Event()

    def open_on() -> None:
        while not over.is_set():
            opens_of(os.fsencode(watched))

    thread = threading.Thread(target=open_on)
    thread.start()
    yield watched
    over.set()
    thread.join()


def test_records(tmp_path: Path) -> None:
    """Texts come back as the bytes they were, results and times as numbers; and by pickle, too."""
    paths = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    before = time.time_ns()
    found = []
    with tracewheel.opensnoop.trace(pid=os.getpid(), path="*/test_records*") as events:
        for path in paths:
            opens_of(path)
        for event in events:
            found.append(event)
            if len(found) == len(paths):
                break
        assert {} == events.losses()

    assert paths == [os.fsencode(event.path) for event in found]
    assert {os.getpid()} == {event.pid for event in found}
    assert all(event.ret >= 0 for event in found)
    assert all(before <= event.time <= time.time_ns() for event in found)
    assert {"OpensnoopOpen"} == {type(event).__name__ for event in found}
    assert found == pickle.loads(pickle.dumps(found))


@pytest.mark.parametrize("error", [BpfError, *BpfError.__subclasses__()])
def test_exceptions(error: type[BpfError]) -> None:
    """Whatever tracewheel raises can be imported from it, and is listed by dir()."""
    assert getattr(tracewheel, error.__name__) is error
    assert error.__name__ in dir(tracewheel)


def test_repr(tool_name: str) -> None:
    """A tool tells its name and what it does."""
    _, description = load_tool(tool_name)

    assert f"<tool {tool_name}: {description}>" == repr(getattr(tracewheel, tool_name))


def test_every_name_of_an_option() -> None:
    """An option is taken by each of its long names, and without its argument if it may lack one."""
    for name in ("count", "totals"):
        with tracewheel.tcpconnect.trace(**{name: True}) as connects:
            assert [] == connects.read()
    with pytest.raises(UsageError, match="include_self"):
        tracewheel.opensnoop.trace(include_sel=True)


def test_texts_that_are_cut_or_unreadable() -> None:
    """An event tells that its text is only the beginning, or None where it could not be read."""
    path = b"/" + b"long/" * 2000
    libc = ctypes.CDLL(None, use_errno=True)
    with tracewheel.opensnoop.trace(pid=os.getpid(), failed=True, duration=0.1) as events:
        for pointer, error in ((path, errno.ENAMETOOLONG), (ctypes.c_void_p(1), errno.EFAULT)):
            assert -1 == libc.open(pointer, os.O_RDONLY)
            assert error == ctypes.get_errno()
        found = {event.ret: event for event in events}
    cut, unreadable = found[-errno.ENAMETOOLONG], found[-errno.EFAULT]

    assert cut.path_truncated
    assert path.startswith(os.fsencode(cut.path))
    assert (None, False) == (unreadable.path, unreadable.path_truncated)


def test_include_self(tmp_path: Path) -> None:
    """The events of the tracing process itself are seen only with include_self=True."""
    path = tmp_path / "opened"
    path.touch()
    seen = []
    for options in ({}, {"include_self": True}):
        with tracewheel.opensnoop.trace(path=str(path), duration=0.1, **options) as events:
            opens_of(os.fsencode(path), 7)
            subprocess.run(["/bin/cat", str(path)], check=True)
            seen.append(collections.Counter(event.pid == os.getpid() for event in events))

    assert [{False: 1}, {False: 1, True: 7}] == seen


def test_names_of_the_package() -> None:
    """The package lists each tool that has a BPF object, and says plainly what it does not have."""
    objects = (Path(tracewheel.__file__).parent / "bpf").glob("*.bpf.o")

    tools = [name for name in dir(tracewheel) if name.islower()]

    assert sorted(path.name.partition(".")[0] for path in objects) == tools
    assert all(callable(getattr(tracewheel, name).trace) for name in tools)
    with pytest.raises(ImportError, match="cannot import name 'nosuch' from 'tracewheel'"):
        exec("from tracewheel import nosuch")


@pytest.mark.parametrize("name", ["json", "columns", "output", "flame"])
def test_options_for_printing(name: str) -> None:
    """What only changes the output of the command is refused, and not silently ignored."""
    with pytest.raises(UsageError, match="only changes what opensnoop prints"):
        tracewheel.opensnoop.trace(**{name: "-"})


def test_duration_ends_a_flood(opening: Path) -> None:
    """A duration ends though events keep coming, and loses none that it has seen."""
    begin = time.monotonic()
    options = {"pid": os.getpid(), "name": opening.name, "duration": 0.3}
    with tracewheel.opensnoop.trace(**options) as events:
        found = sum(1 for _ in events)

    assert found > 0
    assert time.monotonic() - begin < 60


def test_glob_too_large_for_the_kernel(tmp_path: Path) -> None:
    """A glob that is matched in user space drops no batch that holds other names."""
    glob = "*a" + "?" * 12
    wanted = os.fsencode(tmp_path) + b"/a23456789012b"
    found = []
    with tracewheel.opensnoop.trace(pid=os.getpid(), name=glob, duration=1e6) as events:
        for _ in range(5):
            opens_of(os.fsencode(tmp_path / "other"), 2003)
            opens_of(wanted)
        for event in events:
            found.append(event.path)
            if len(found) == 5:
                break

    assert [os.fsdecode(wanted)] * 5 == found


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms(name: str) -> None:
    """A histogram can be read at any time and at intervals, and its counts only grow."""
    with getattr(tracewheel, name).trace(interval=0.1, count=3) as tracing:
        reports = list(tracing)
        total = sum(histogram.total for histogram in tracing.read())

    assert 3 == len(reports)
    assert sum(each.total for report in reports for each in report) <= total


def test_leaving_unloads(kernel: Any, until: Any) -> None:
    """Leaving the context detaches and unloads, also by an exception."""
    held = set()
    with pytest.raises(ZeroDivisionError), tracewheel.opensnoop.trace():
        held = kernel.held_by(os.getpid())
        _ = 1 // 0

    assert {"prog", "map"} <= {kind for kind, _ in held}
    assert set() == kernel.held_by(os.getpid())
    until(lambda: not held & kernel.all())


def test_wrong_uses() -> None:
    """What makes no sense is told."""
    tracing = tracewheel.opensnoop.trace()
    with pytest.raises(BpfError, match="with statement"):
        next(iter(tracing))
    with pytest.raises(UsageError, match="no option"):
        tracewheel.opensnoop.trace(no_such_option=1)
    with tracing, pytest.raises(UsageError, match="no reports"):
        tracing.read()


def test_reports_without_interval(interval_name: str) -> None:
    """What reports at intervals cannot be iterated over without one."""
    with (
        getattr(tracewheel, interval_name).trace() as tracing,
        pytest.raises(UsageError, match="interval"),
    ):
        next(iter(tracing))

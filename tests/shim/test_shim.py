# SPDX-License-Identifier: BSD-2-Clause
"""The C API answers wrong calls with an errno, and treats descriptors as promised."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError, NotSupported
from tracewheel.runtime.host.kernel_types import kernel_enum
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.trace.btf import take_log, tracepoint_args
from tracewheel.runtime.trace.object import BpfObject, find_map, find_program, read_object
from tracewheel.runtime.trace.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def opened() -> Iterator[BpfObject]:
    """Give an object that is not loaded."""
    ret = BpfObject(read_object("opensnoop"))
    yield ret
    ret.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give the ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"x" * 5000])
def test_open_garbage(data: bytes) -> None:
    """Bytes that are not a BPF object are refused."""
    with pytest.raises(BpfError):
        BpfObject(data)


def test_log_is_taken_once() -> None:
    """What libbpf says is kept until it is taken."""
    take_log()
    assert not lib.shim_open(b"x" * 5000, 5000, -1)

    assert take_log().startswith("libbpf: ")
    assert "" == take_log()


@settings(max_examples=60)
@given(st.integers(4, 20000), st.integers(0, 255))
def test_open_damaged(at: int, byte: int) -> None:
    """A damaged header, or any cut, is refused or opened, but never a crash."""
    data = bytearray(read_object("opensnoop"))
    data[at % 64] = byte
    for damaged in (bytes(data), bytes(data[: at % len(data)])):
        found = lib.shim_open(damaged, len(damaged), -1)
        if found:
            lib.bpf_object__close(found)


def test_unknown_names(opened: BpfObject) -> None:
    """A name that does not exist is an error, not a crash."""
    with pytest.raises(BpfError):
        find_program(opened.handle, "no_such_name")
    with pytest.raises(BpfError):
        find_map(opened.handle, "no_such_name")


def test_values_have_to_fit(opened: BpfObject) -> None:
    """A global variable takes a value of its own size and no other."""
    (pid,) = (each for each in opened.variables() if each.name == "filter_pid")
    for value in (bytes(8), b""):
        with pytest.raises(BpfError):
            pid.pack(value)
    with pytest.raises(OverflowError):
        pid.pack(1 << 32)
    opened.set(pid, pid.pack((1 << 32) - 1))


def test_not_loaded(opened: BpfObject) -> None:
    """An object that is not loaded cannot be read, nor its programs attached."""
    (lost,) = (each for each in opened.variables() if each.name == "opens_lost")

    assert opened.attach(opened.programs()[0]) < 0
    assert 0 == opened.get(lost)
    with (
        contextlib.closing(Session("opensnoop", Request(load_tool("opensnoop")[0], {}))) as session,
        pytest.raises(BpfError),
    ):
        list(session.read_map("followed"))
    opened.detach()


def test_facts_of_the_kernel() -> None:
    """Tracepoints and enums come from the running kernel; what it lacks is an error."""
    assert 2 == tracepoint_args("sys_exit")
    assert 0 == kernel_enum("pid_type")["PIDTYPE_PID"]
    for name in ("no_such_name", "x" * 500):
        with pytest.raises(BpfError):
            tracepoint_args(name)
        with pytest.raises(NotSupported):
            kernel_enum(name)


def test_escape_without_room() -> None:
    """An escaped text that does not fit is none at all."""
    out = ffi.new("char[]", 4)

    assert 4 == lib.shim_escape(b"abcd", 4, False, out, 4)
    assert 0 == lib.shim_escape(b"abc\n", 4, False, out, 4)


def test_wait_for_a_time() -> None:
    """Without any descriptor a wait lasts its time."""
    begin = time.monotonic()

    assert -errno.ETIME == lib.shim_wait(-1, -1, -1, -1, 50)
    assert time.monotonic() - begin >= 0.045
    assert -errno.ETIME == lib.shim_wait(-1, -1, -1, -1, 0)


def test_wait_for_a_wish_to_stop(pipe: tuple[int, int]) -> None:
    """A readable wake ends the wait, before all else."""
    os.write(pipe[1], b"x")
    assert -errno.EINTR == lib.shim_wait(-1, pipe[0], -1, -1, -1)


def test_wait_for_a_reader_that_leaves(pipe: tuple[int, int]) -> None:
    """A pipe without reader ends the wait."""
    os.close(pipe[0])
    assert -errno.EPIPE == lib.shim_wait(-1, -1, pipe[1], -1, -1)


def test_wait_for_a_process() -> None:
    """The end of a process ends the wait."""
    with subprocess.Popen(["true"]) as process:
        watched = os.pidfd_open(process.pid)
        assert -errno.ESRCH == lib.shim_wait(-1, -1, -1, watched, -1)
    os.close(watched)


def test_wait_outlasts_signals() -> None:
    """A signal that a thread handles does not end the wait early."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    begin = time.monotonic()
    assert -errno.ETIME == lib.shim_wait(-1, -1, -1, -1, 60)
    assert time.monotonic() - begin >= 0.055
    timer.join()
    signal.signal(signal.SIGUSR1, before)


def write(fd: int, text: bytes, wake: int, timeout: int) -> tuple[int, int]:
    """Return the error and how many bytes were written."""
    wrote = ffi.new("size_t *")
    return lib.shim_write(fd, text, len(text), wake, timeout, wrote), wrote[0]


def test_write(pipe: tuple[int, int]) -> None:
    """A write that fits is done at once."""
    assert (0, 5) == write(pipe[1], b"hello", -1, -1)
    assert (0, 0) == write(pipe[1], b"", -1, -1)
    assert b"hello" == os.read(pipe[0], 10)


def test_write_to_a_full_pipe(pipe: tuple[int, int]) -> None:
    """A full pipe takes what it can, until the time is over or a stop is wished."""
    wish = os.pipe()
    text = bytes(1 << 20)
    error, wrote = write(pipe[1], text, wish[0], 20)
    os.write(wish[1], b"x")

    assert -errno.ETIME == error
    assert 4096 <= wrote < len(text)
    assert (-errno.EINTR, 0) == write(pipe[1], text, wish[0], -1)
    for end in wish:
        os.close(end)


def test_write_to_nobody(pipe: tuple[int, int]) -> None:
    """A pipe without reader, a full device and a wrong descriptor are errors."""
    os.close(pipe[0])
    assert -errno.EPIPE == write(pipe[1], b"x", -1, -1)[0]
    full = os.open("/dev/full", os.O_WRONLY)
    assert -errno.ENOSPC == write(full, b"x", -1, -1)[0]
    os.close(full)
    assert -errno.EBADF == write(full, b"x", -1, 100)[0]


@given(st.data())
def test_sums_of_all_cpus(data: st.DataObject) -> None:
    """The values that a per-CPU map has for an element become one: their sum, or the greatest."""
    cpus, words = lib.libbpf_num_possible_cpus(), data.draw(st.integers(1, 5))
    element = st.lists(st.integers(0, 2**48), min_size=cpus * words, max_size=cpus * words)
    elements = data.draw(st.lists(element, max_size=5))
    values = ffi.new("uint64_t[]", [number for each in elements for number in each] or [0])
    greatest = data.draw(st.integers(0, 2**words - 1))
    lib.shim_sum(values, len(elements), 8 * words, greatest)

    ways = [max if greatest >> word & 1 else sum for word in range(words)]
    expected = [way(each[word::words]) for each in elements for word, way in enumerate(ways)]
    assert expected == list(values)[: len(expected)]


@pytest.mark.parametrize("count", [0, 1, 2, 131])
def test_close_links(pipe: tuple[int, int], count: int) -> None:
    """All descriptors are closed when the call returns, however many they are."""
    reader, writer = pipe
    fds = [os.dup(writer) for _ in range(count)]
    os.close(writer)

    lib.shim_close_links(fds, len(fds))

    assert b"" == os.read(reader, 1)  # the end: nobody holds the other end of the pipe

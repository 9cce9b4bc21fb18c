# SPDX-License-Identifier: BSD-2-Clause
"""What reaches a file, a pipe or a terminal, and what is counted when it does not."""

from __future__ import annotations

import os
import pty
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.show.output import Output, ReaderGone, Stop, count_rows


class NeverStop(Stop):
    """A wish to stop that a test expresses, instead of a signal."""

    def __enter__(self) -> NeverStop:
        self.asked = False
        self.wake, self._wake_end = os.pipe()
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.wake)
        os.close(self._wake_end)

    def ask(self) -> None:
        """Express the wish."""
        self.asked = True
        os.write(self._wake_end, b"x")


def output_to(fd: int, stop: Stop) -> Output:
    """Open an output that writes to the file of a descriptor."""
    return Output(f"/proc/self/fd/{fd}", stop)


@given(st.lists(st.tuples(st.text("ab ", min_size=1).map(str.strip), st.integers(0, 3))))
def test_rows_are_counted(rows: list[tuple[str, int]]) -> None:
    """The frames of a stack are lines of the row above them."""
    text = "".join(f"x{row}\n" + "    frame\n" * frames for row, frames in rows)

    assert len(rows) == count_rows(text.encode())


@given(st.lists(st.integers(0, 60), min_size=1), st.data())
def test_rows_that_are_left(widths: list[int], data: st.DataObject) -> None:
    """A row that was written in part counts as left, wherever it was cut."""
    text = b"".join(b"12" + b" " * width + b"x\n" for width in widths)
    at = data.draw(st.integers(0, len(text)))

    assert len(widths) - text[:at].count(b"\n") == count_rows(text[at:])


def test_full_pipe_after_a_stop() -> None:
    """After a wish to stop, rows that nobody takes are given up for good, and counted."""
    source, end = os.pipe()
    rows = b"".join(b"row %d\n" % number for number in range(20_011))
    with NeverStop() as stop:
        output = output_to(end, stop)
        threading.Timer(0.1, stop.ask).start()
        left = output.write(rows)
        taken = os.read(source, 1 << 20)
        # There is room again, but only half a row was written.
        assert 1 == output.write(b"one more\n")
        output.text("and a text\n")

    os.set_blocking(source, False)
    with pytest.raises(BlockingIOError):
        os.read(source, 1)
    assert rows.startswith(taken)
    assert 20_011 == left + taken.count(b"\n")
    for each in (source, end, output.fd):
        os.close(each)


def test_slow_reader_gets_all() -> None:
    """Without a wish to stop, a slow reader gets every row."""
    source, end = os.pipe()
    rows = b"".join(b"row %d\n" % number for number in range(50_021))
    taken: list[bytes] = []

    def read() -> None:
        while len(b"".join(taken)) < len(rows):
            taken.append(os.read(source, 3001))

    reader = threading.Thread(target=read)
    with NeverStop() as stop:
        output = output_to(end, stop)
        reader.start()
        assert 0 == output.write(rows)
        reader.join()

    assert rows == b"".join(taken)
    for each in (source, end, output.fd):
        os.close(each)


def test_reader_gone() -> None:
    """A pipe without reader is told apart from errors."""
    source, end = os.pipe()
    with NeverStop() as stop:
        output = output_to(end, stop)
        os.close(source)
        with pytest.raises(ReaderGone):
            output.write(b"row\n")
    os.close(end)
    os.close(output.fd)


def test_terminal() -> None:
    """A terminal gets rows and is not watched, because a write to it fails when it has gone."""
    master, slave = pty.openpty()
    with NeverStop() as stop:
        output = output_to(slave, stop)
        output.write(b"row\n")
    assert -1 == output.watched
    assert b"row\r\n" == os.read(master, 100)
    for each in (master, slave, output.fd):
        os.close(each)


def test_file_is_replaced(tmp_path: Path) -> None:
    """An older file of the name is overwritten, with the rights that the umask leaves."""
    path = tmp_path / "rows"
    path.write_text("old\n" * 100)
    with NeverStop() as stop:
        output = Output(str(path), stop)
        output.write(b"new\n")
    os.close(output.fd)

    assert "new\n" == path.read_text()


@pytest.mark.parametrize("path", ["/", "", "/no/such/file", "a\0b"])
def test_file_that_cannot_be(path: str) -> None:
    """An error names the file that cannot be opened."""
    with NeverStop() as stop, pytest.raises(BpfError, match="cannot write"):
        Output(path, stop)


def test_signals_wake_and_are_remembered() -> None:
    """A signal makes the descriptor readable and sets the flag."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM,
                                                              signal.SIGHUP)}  # fmt: skip
    try:
        with Stop() as stop:
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert os.read(stop.wake, 1)
            assert stop.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

# SPDX-License-Identifier: BSD-2-Clause
"""Write rows to a terminal, a pipe or a file, and stop in time if it does not take them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.files import reason_of
from tracewheel.runtime.host.terminal import speaks_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REPORT_MS = 500  # how long a report may wait for a reader after Ctrl-C
_TAIL_BYTES = 1 << 16  # of a file, in which half a line is looked for


class ReaderGone(Exception):
    """The reader of a pipe has closed it, so the tool shall end without a message."""


class Stop:
    """The wish to stop, which SIGINT, SIGTERM or SIGHUP express.

    The first signal sets ``asked`` and makes the descriptor ``wake`` readable; the second one ends
    this process at once. Both are passed on to the process ``child``. Use as a context manager, in
    the main thread.
    """

    asked = False
    wake = -1

    def __init__(self, child: int = 0) -> None:
        self._child = child

    def __enter__(self) -> Stop:
        self.wake, self._wake_end = os.pipe()
        os.set_blocking(self._wake_end, False)
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup has it ignored
            signals.append(signal.SIGHUP)
        for number in signals:
            signal.signal(number, self._on_signal)
        if self._child and _has_terminal():
            # The terminal sends Ctrl-C to the child as well. If the child ends, so does the tool.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.wake)
        os.close(self._wake_end)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked:
            os._exit(1)
        self.asked = True
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)


def _has_terminal() -> bool:
    """Tell whether Ctrl-C on the terminal goes to this process and its children."""
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    finally:
        os.close(fd)


class Output:
    """Standard output or a file. Raises BpfError if it cannot be written.

    ``watched`` is a descriptor that tells when the reader has gone, -1 if there is no reader.
    """

    def __init__(self, path: str | None, stop: Stop) -> None:
        self._stop = stop
        self._deadline: float | None = None  # of time.monotonic(), after a wish to stop
        self._gave_up = False
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.fd = 1 if path is None else os.open(path, flags, 0o644)
            mode = os.fstat(self.fd).st_mode
            if fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise BpfError("standard output is closed: use -o FILE")
        except (OSError, ValueError) as error:
            raise BpfError(f"cannot write {path or 'output'}: {reason_of(error)}") from None
        self._file = stat.S_ISREG(mode)
        self.watched = self.fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else -1
        self.ascii = speaks_ascii()

    def write(self, rows: Any) -> int:
        """Write whole lines; return how many rows could not be written in time after Ctrl-C.

        Raises BpfError or ReaderGone.
        """
        view = memoryview(rows)
        try:
            if self._file:
                self._write_file(view)
                return 0
            written = self._write_stream(view)
            return count_rows(bytes(view[written:]))
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise BpfError(f"cannot write the output: {error.strerror}") from None

    def text(self, lines: str) -> None:
        """Write text."""
        self.write(lines.encode("ascii" if self.ascii else "utf-8", "backslashreplace"))

    def _write_file(self, view: memoryview) -> None:
        while view:
            try:
                written = os.write(self.fd, view)
                view = view[written:]
            except OSError:
                self._cut_half_line()
                raise

    def _cut_half_line(self) -> None:
        """Cut off what is behind the last whole line of the file."""
        size = os.lseek(self.fd, 0, os.SEEK_CUR)
        with open(f"/proc/self/fd/{self.fd}", "rb") as file:
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
        end_of_line = tail.rfind(b"\n") + 1
        os.ftruncate(self.fd, size - len(tail) + end_of_line)

    def _write_stream(self, view: memoryview) -> int:
        """Write to a pipe or a terminal; return how many bytes it has taken. Raises OSError."""
        data = ffi.from_buffer(view)
        wrote = ffi.new("size_t *")
        at = 0
        while at < len(view) and not self._gave_up:
            if self._stop.asked and self._deadline is None:
                self._deadline = time.monotonic() + _REPORT_MS / 1000
            left = -1  # ms; without limit
            wake = self._stop.wake
            if self._deadline is not None:
                left = max(0, int((self._deadline - time.monotonic()) * 1000))
                wake = -1  # it is readable already
            error = lib.shim_write(self.fd, data + at, len(view) - at, wake, left, wrote)
            at += wrote[0]
            # Nothing is written later, because it would continue half a line.
            self._gave_up = error == -errno.ETIME
            if error not in (0, -errno.EINTR, -errno.ETIME):
                raise OSError(-error, os.strerror(-error))
        return at


def count_rows(text: bytes) -> int:
    """Count rows, each of which may be followed by indented lines of a stack."""
    lines = text.count(b"\n")
    stack_lines = text.count(b"\n    ")
    return lines - stack_lines

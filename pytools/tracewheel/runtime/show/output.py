# SPDX-License-Identifier: BSD-2-Clause
"""Where rows go: a terminal, a pipe or a file, and what to do when it will not take them."""

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


class ReaderGone(Exception):
    """The reader of a pipe has closed it: stop, quietly."""


class Stop:
    """Turn SIGINT, SIGTERM and SIGHUP into a flag and a readable descriptor; the second one kills.

    The process ``child`` gets them too. Use as a context manager, in the main thread.
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
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
            signals.append(signal.SIGHUP)
        for number in signals:
            signal.signal(number, self._on_signal)
        if self._child and _has_terminal():
            # Ctrl-C reaches the child by the terminal, and the child decides what becomes of it.
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
    """Tell whether what is typed on the terminal is for this process and its children."""
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    finally:
        os.close(fd)


class Output:
    """Standard output or a file."""

    def __init__(self, path: str | None, stop: Stop) -> None:
        self._stop = stop
        self._deadline: float | None = None  # once a stop is asked for
        self._gave_up = False
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.fd = 1 if path is None else os.open(path, flags, 0o644)
            mode = os.fstat(self.fd).st_mode
            if fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise BpfError("output: standard output is closed")
        except (OSError, ValueError) as error:
            raise BpfError(f"cannot write {path or 'output'}: {reason_of(error)}") from None
        self._file = stat.S_ISREG(mode)
        self.watched = self.fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else -1
        self.ascii = speaks_ascii()

    def write(self, rows: Any) -> int:
        """Write whole lines; after Ctrl-C give up in time and return how many were left over.

        Raises BpfError or ReaderGone.
        """
        view = memoryview(rows)
        try:
            if self._file:
                self._write_file(view)
                return 0
            return count_rows(bytes(view[self._write_stream(view) :]))
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise BpfError(f"output: {error.strerror}") from None

    def text(self, lines: str) -> None:
        """Write text."""
        self.write(lines.encode("ascii" if self.ascii else "utf-8", "backslashreplace"))

    def _write_file(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except OSError:
                self._cut_half_line()
                raise

    def _cut_half_line(self) -> None:
        size = os.lseek(self.fd, 0, os.SEEK_CUR)
        with open(f"/proc/self/fd/{self.fd}", "rb") as file:
            file.seek(max(0, size - (1 << 16)))
            tail = file.read(1 << 16)
        os.ftruncate(self.fd, size - len(tail) + tail.rfind(b"\n") + 1)

    def _write_stream(self, view: memoryview) -> int:
        data = ffi.from_buffer(view)
        wrote = ffi.new("size_t *")
        at = 0
        while at < len(view) and not self._gave_up:
            if self._stop.asked and self._deadline is None:
                self._deadline = time.monotonic() + _REPORT_MS / 1000
            left, wake = -1, self._stop.wake
            if self._deadline is not None:
                left, wake = max(0, int((self._deadline - time.monotonic()) * 1000)), -1
            error = lib.shim_write(self.fd, data + at, len(view) - at, wake, left, wrote)
            at += wrote[0]
            # For good: what came behind half a line would be no line.
            self._gave_up = error == -errno.ETIME
            if error not in (0, -errno.EINTR, -errno.ETIME):
                raise OSError(-error, os.strerror(-error))
        return at


def count_rows(text: bytes) -> int:
    """Count the ends of rows: of lines that no indented line of a stack follows."""
    return text.count(b"\n") - text.count(b"\n    ")

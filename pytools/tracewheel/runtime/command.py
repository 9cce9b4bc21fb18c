# SPDX-License-Identifier: BSD-2-Clause
"""The command to trace: it is started, executes once tracing has begun, and is waited for."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn

from tracewheel.runtime.host.errors import say
from tracewheel.runtime.host.processes import TaskId


class Command:
    """A child process that executes a command when ``go`` is called, and just ends without that.

    Leaving the context waits for its end. The child has the environment, user, directory,
    descriptors and process group of this process.
    """

    def __init__(self, tool: str, words: list[str]) -> None:
        gate, self._gate = os.pipe()
        self.code = 0  # its exit status when it has ended, as a shell would tell it
        # The child has Python's handler until it has changed that, and would forget a Ctrl-C.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.pid = TaskId(os.fork())
        if not self.pid:
            self._execute(tool, gate, words, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(gate)

    def _execute(
        self, tool: str, gate: int, words: list[str], mask: set[int | signal.Signals]
    ) -> NoReturn:
        code = 126
        try:
            os.close(self._gate)
            # Python has changed how these signals are handled; the command expects the default.
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if os.read(gate, 1):
                os.execvp(words[0], words)
        except (OSError, ValueError) as error:
            say(f"{tool}: cannot execute {words[0]!r}: {getattr(error, 'strerror', error)}")
            code = 127 if isinstance(error, FileNotFoundError) else 126
        finally:
            os._exit(code)

    def go(self) -> None:
        """Let the child execute the command."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"x")

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._gate)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.code = code if code >= 0 else 128 - code

# SPDX-License-Identifier: BSD-2-Clause
"""The command that is traced gets the signals that are sent to it, whenever they come."""

from __future__ import annotations

import os
import signal

import pytest
from tracewheel.runtime.command import Command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_before_the_command_runs(number: signal.Signals) -> None:
    """A signal that comes at once after the fork ends the command, which then never executes."""
    for _ in range(20):
        with Command("test", ["true"]) as command:
            os.kill(command.pid, number)
            command.go()

        assert 128 + number == command.code


def test_mask_is_as_before() -> None:
    """Neither this process nor the command blocks other signals than before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Command("test", ["sh", "-c", "kill -INT $$"]) as command:
        command.go()

    assert 128 + signal.SIGINT == command.code
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])

# SPDX-License-Identifier: BSD-2-Clause
"""The doctor shows how far it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tracewheel.runtime import doctor
from tracewheel.runtime.spec.catalogue import tool_names

if TYPE_CHECKING:
    from pytest import CaptureFixture, MonkeyPatch


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress(monkeypatch: MonkeyPatch, capfd: CaptureFixture[str], on_terminal: bool) -> None:
    """On a terminal each tool is named while it is examined, and the line is cleared at the end."""
    monkeypatch.setattr(os, "isatty", lambda fd: on_terminal and fd == 2)
    monkeypatch.setattr(
        doctor, "diagnose", lambda name: doctor.Diagnosis(name, "", 0, {"a": "b"}, [], [])
    )

    doctor.examine()

    shown = capfd.readouterr().err
    names = tool_names()
    lines = [f"examining {name} ({at} of {len(names)})" for at, name in enumerate(names, 1)]
    expected = "".join(f"\r\x1b[K{line}" for line in [*lines, ""])
    assert (expected if on_terminal else "") == shown

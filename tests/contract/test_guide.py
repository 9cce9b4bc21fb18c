# SPDX-License-Identifier: BSD-2-Clause
"""Every command line of guide.txt traces."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.contract.guide import LINES, words_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.each_tool
def test_lines_of_the_guide_trace(trace: Any, tool_name: str) -> None:
    """Each line traces for a second, and ends by telling what it has seen and lost."""
    lines = [line for line in LINES if line.split()[0] == tool_name]
    assert lines
    tools = [trace(*words_of(line)) for line in lines]
    trace(tool_name, "--duration", "1").ended()
    for line, tool in zip(lines, tools):
        tool.end()

        assert 0 == tool.code, line
        assert tool.counted, line
        assert "Traceback" not in tool.err, line

# SPDX-License-Identifier: BSD-2-Clause
"""Every word of a last line is explained."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tracewheel.runtime.spec import losses
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.trace.object import BpfObject, read_object

PAGE = Path(__file__).parents[2] / "docs/loss.md"


def test_each_counter_is_explained(tool_name: str) -> None:
    """The counters that are found in an object's bytes are those that its BTF tells."""
    data = read_object(tool_name)
    with contextlib.closing(BpfObject(data)) as opened:
        names = [variable.name for variable in opened.variables()]
    expected = {name.removesuffix("_lost") for name in names if name.endswith("_lost")}
    expected |= {"unsampled"} if "clock_samples" in names else set()

    found = losses.losses_of(load_tool(tool_name)[0], losses.counters_in(data))
    words = [loss.word for loss in found]
    assert expected == {*words} - {"skipped", "bad records", "unfinished", "output"}
    assert len(words) == len({*words})
    assert all(loss.sentence.endswith(".") for loss in found)


def test_page_has_each_sentence(tool_name: str) -> None:
    """The page of the documentation explains each word by the same sentence."""
    page = PAGE.read_text()
    for loss in losses.losses_of(
        load_tool(tool_name)[0], losses.counters_in(read_object(tool_name))
    ):
        assert f"| {loss.sentence} |" in page

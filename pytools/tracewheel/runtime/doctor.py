# SPDX-License-Identifier: BSD-2-Clause
"""What this kernel offers, and how each tool would trace on it."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from tracewheel.runtime import cli, kernel
from tracewheel.runtime.errors import BpfError
from tracewheel.runtime.options import Request
from tracewheel.runtime.session import Session

if TYPE_CHECKING:
    from tracewheel.runtime.shapes import Shape


def explain(name: str, tool: Shape, request: Request) -> int:
    """Print each ladder of a tool, which rung holds and why others do not."""
    holds: dict[str, bool] = {}
    with contextlib.closing(Session(name, request)) as session:
        for ladder, rung, error in session.attempts():
            note = tool.rungs.get(f"{ladder}__{rung}", "")
            state = error or ("holds" if holds.get(ladder) else "taken")
            holds[ladder] = not error or holds.get(ladder, False)
            print(f"{name}: {ladder} by {rung}: {state}" + (f" ({note})" if note else ""))
    return 0 if all(holds.values()) else kernel.explain_failure(name, -errno.EPERM, "").code


def examine() -> int:
    """Print facts of the kernel, then every tool's ladders."""
    print(f"kernel: {os.uname().release} {os.uname().machine}\nlockdown: {kernel.lockdown()}")
    facts = {
        "types (/sys/kernel/btf/vmlinux)": os.path.exists("/sys/kernel/btf/vmlinux"),
        "tracefs": os.path.exists("/sys/kernel/tracing/events"),
        **{name: kernel.has_capability(name) for name in kernel.CAPABILITIES},
    }
    for name, holds in facts.items():
        print(f"{name}: {'yes' if holds else 'no'}")
    worst = 0
    for name in cli.tool_names():
        tool, _ = cli.load_tool(name)
        every = {o.dest: True for o in tool.options if o.enables and not o.becomes}
        try:
            worst = max(worst, explain(name, tool, Request(tool, every)))
        except BpfError as error:
            print(f"{name}: {error}")
            worst = max(worst, error.code)
    return worst

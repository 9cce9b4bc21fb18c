# SPDX-License-Identifier: BSD-2-Clause
"""What this kernel offers, and how each tool would trace on it."""

from __future__ import annotations

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
    session = Session(name, request)
    taken: set[str] = set()
    failed: set[str] = set()
    try:
        for attempt in session.attempts():
            note = tool.rungs.get(f"{attempt.ladder}__{attempt.rung}", "")
            state = attempt.error or ("holds" if attempt.ladder in taken else "taken")
            if attempt.error:
                failed.add(attempt.ladder)
            else:
                taken.add(attempt.ladder)
            line = f"{name}: {attempt.ladder} by {attempt.rung}: {state}"
            print(line + (f" ({note})" if note else ""))
    finally:
        session.close()
    return kernel.explain_failure(name, -errno.EPERM, "").code if failed - taken else 0


def examine() -> int:
    """Print facts of the kernel, then every tool's ladders."""
    present = {True: "yes", False: "no"}
    print(f"kernel: {os.uname().release} {os.uname().machine}")
    print(f"types (/sys/kernel/btf/vmlinux): {present[os.path.exists('/sys/kernel/btf/vmlinux')]}")
    print(f"tracefs: {present[os.path.exists('/sys/kernel/tracing/events')]}")
    print(f"lockdown: {kernel.lockdown()}")
    for name in ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"):
        print(f"{name}: {present[kernel.has_capability(name)]}")
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

# SPDX-License-Identifier: BSD-2-Clause
"""eBPF tools that need no compiler on the host.

``with tracewheel.opensnoop.trace(pid=1234) as events: for event in events: ...`` traces with the
same options as the command ``opensnoop``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracewheel.runtime.library import Tool

# A tool runs as root in whatever directory is at hand: nothing is imported from there, nor from
# where PYTHONPATH points.
if not TYPE_CHECKING and sys.argv[:1] and not sys.flags.isolated:
    import os

    _elsewhere = {os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) not in _elsewhere:
        sys.path[:] = [p for p in sys.path if p and os.path.abspath(p) not in _elsewhere]


def __getattr__(name: str) -> Tool:
    """Return the tool of that name."""
    from tracewheel.runtime import library

    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return library.Tool(name)
    except ModuleNotFoundError:
        raise AttributeError(f"tracewheel has no tool {name!r}") from None

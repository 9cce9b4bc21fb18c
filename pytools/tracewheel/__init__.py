# SPDX-License-Identifier: BSD-2-Clause
"""eBPF tools that need no compiler on the host.

``with tracewheel.opensnoop.trace(pid=1234) as events: for event in events: ...`` traces with the
same options as the command ``opensnoop``. The classes of the events are in ``tracewheel.events``;
type checkers know them, and the options of each tool.

What goes wrong is raised as a BpfError, or as one of its kinds: UsageError, NotPermitted,
NotSupported or TargetGone. ``from tracewheel import BpfError`` imports them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ERRORS = ("BpfError", "NotPermitted", "NotSupported", "TargetGone", "UsageError")


def __getattr__(name: str) -> Any:
    """Return the tool of that name, or the exception."""
    if name in _ERRORS:
        from tracewheel.runtime.host import errors

        return getattr(errors, name)
    from tracewheel.runtime import library

    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return library.Tool(name)
    except ModuleNotFoundError:
        raise AttributeError(f"tracewheel has no tool {name!r}") from None


def __dir__() -> list[str]:
    """Return the names of the exceptions and of the tools."""
    from tracewheel.runtime.spec.catalogue import tool_names

    return [*_ERRORS, *tool_names()]

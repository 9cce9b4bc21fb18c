# SPDX-License-Identifier: BSD-2-Clause
"""The tools that there are."""

from __future__ import annotations

import importlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Shape


_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TOOLS = os.path.join(_PACKAGE, "tools")


def tool_names() -> list[str]:
    """Return the names of all tools."""
    return sorted(n[:-3] for n in os.listdir(_TOOLS) if n.endswith(".py") and n[0] != "_")


def load_tool(name: str) -> tuple[Shape, str]:
    """Return a tool and its one-line description."""
    module = importlib.import_module(f"tracewheel.tools.{name}")
    return module.tool, (module.__doc__ or "").strip()

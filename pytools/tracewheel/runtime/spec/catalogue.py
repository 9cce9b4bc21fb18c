# SPDX-License-Identifier: BSD-2-Clause
"""The list of tools, and how to load one."""

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
    files = [name for name in os.listdir(_TOOLS) if name.endswith(".py") and name[0] != "_"]
    return sorted(name.removesuffix(".py") for name in files)


def load_tool(name: str) -> tuple[Shape, str]:
    """Return a tool and its one-line description. Raises ModuleNotFoundError."""
    module = importlib.import_module(f"tracewheel.tools.{name}")
    return module.tool, (module.__doc__ or "").strip()

# SPDX-License-Identifier: BSD-2-Clause
"""What is done with what was traced: one module for each shape of a tool."""

from __future__ import annotations

from tracewheel.runtime.spec.shapes import Top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.spec.shapes import Shape


def module_of(tool: Shape) -> Any:
    """Return the module for tools of a shape: it has run() for commands, Reader for the library."""
    from importlib import import_module

    name = "counts" if isinstance(tool, Top) else type(tool).__name__.lower()
    return import_module(f"tracewheel.runtime.shapes.{name}")

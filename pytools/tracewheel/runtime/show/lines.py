# SPDX-License-Identifier: BSD-2-Clause
"""Render batches of records as lines of a table, as lines of JSON, or as Python objects."""

from __future__ import annotations

import errno
import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.show.plan import Plan, Style

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tracewheel.runtime.host.symbols import Frames
    from tracewheel.runtime.show.output import Output
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.spec.shapes import Column
    from tracewheel.runtime.trace.batch import Layout

TEXT_MOST = 1 << 19  # bytes that are rendered at a time

# Kinds of meaning.py whose texts may be cut: NAME_truncated is then true.
CAN_BE_CUT = ("text", "path", "args")

new_buffer = ffi.new_allocator(should_clear_after_alloc=False)


def style_of(request: Request, started: int, ascii_only: bool) -> Style:
    """Return the style of a request's rows. ``started`` is in ns of CLOCK_BOOTTIME."""
    frames: Frames | None = None
    if request.stacks:
        from tracewheel.runtime.host.symbols import Frames

        frames = Frames(request.pids)
    return Style(bool(request.json), ascii_only, started, frames)


class Lines:
    """Renders batches to an output.

    Counts the rows, the records that were too short, and the rows that the output did not take.
    """

    def __init__(
        self, layout: Layout, columns: tuple[Column, ...], style: Style, output: Output | Objects
    ) -> None:
        self._plan = Plan(layout, columns, style)
        self._output = output
        self._text = new_buffer("char[]", TEXT_MOST)
        self._done = ffi.new("struct shim_rendered *")
        self.rows = self.bad = self.unwritten = 0

    def render(self, batch: Any, used: int) -> None:
        """Write a row for each record of a batch of so many bytes."""
        at = 0
        done = self._done
        self._plan.refresh()
        while at < used:
            error = lib.shim_render(
                self._plan.plan, batch + at, used - at, self._text, TEXT_MOST, done
            )
            is_full = error == -errno.ENOSPC
            lacks_name = error == -errno.ENOKEY
            if (error and not is_full and not lacks_name) or (is_full and not done.consumed):
                raise BpfError(f"cannot render a record: {os.strerror(-error)}")
            at += done.consumed
            self.rows += done.records
            self.bad += done.bad
            if done.produced:
                self.unwritten += self._output.write(ffi.buffer(self._text, done.produced))
            if lacks_name:
                self._plan.find_name(done.table, done.key, batch + at)


def class_name(tool: str, struct: str) -> str:
    """Return the name of the class in tracewheel.events for a struct of a tool."""
    return "".join(word.capitalize() for word in (tool, *struct.split("_")))


class Objects:
    """Turns batches into named tuples of tracewheel.events, with the values that --json prints."""

    def __init__(self, tool: str, struct: str, layout: Layout, style: Style) -> None:
        from tracewheel import events

        self._lines = Lines(layout, (), style, self)
        self._class = getattr(events, class_name(tool, struct))
        self._text: list[bytes] = []

    def write(self, text: Any) -> int:
        """Keep lines, in place of an output."""
        self._text.append(bytes(text))
        return 0

    def of(self, batch: Any, used: int) -> Iterator[Any]:
        """Yield an object for each record of a batch of so many bytes."""
        self._lines.render(batch, used)
        text = b"".join(self._text)
        self._text = []
        import json  # loads re, for which commands shall not wait when they start

        for line in text.split(b"\n")[:-1]:
            yield self._class(**_whole(json.loads(line)))


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """Return a record's values with its texts as they were traced.

    JSON has a text that is no UTF-8 in another member, NAME_b64, as well.
    """
    import base64

    for name in [name for name in values if name.endswith("_b64")]:
        text = os.fsdecode(base64.b64decode(values.pop(name)))
        name = name.removesuffix("_b64")
        is_list = isinstance(values[name], list)
        values[name] = text.removesuffix("\0").split("\0") if is_list else text
    return values


def header(columns: tuple[Column, ...]) -> str:
    """Return the header line."""
    headers = [c.header.ljust(c.width) for c in columns if "STACK" not in c.header]
    return " ".join(headers).rstrip() + "\n"

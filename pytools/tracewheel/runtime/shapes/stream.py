# SPDX-License-Identifier: BSD-2-Clause
"""The shape Stream: print a line, or yield a Python object, for each record of a ring."""

from __future__ import annotations

from tracewheel.runtime.shapes.records import Reader, batches
from tracewheel.runtime.show.lines import Lines, Objects, header, style_of
from tracewheel.runtime.show.output import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tracewheel.runtime.show.output import Output
    from tracewheel.runtime.spec.shapes import Stream
    from tracewheel.runtime.trace.session import Session


def iterate(session: Session, tool: Stream) -> Iterator[Any]:
    """Yield each record as an object of a class of tracewheel.events, until the time is over."""
    reader = Reader(session, tool)
    style = style_of(session.request, session.started, ascii_only=False)
    objects = Objects(session.name, session.maps[tool.ring].record, reader.layout, style)
    for used in batches(reader, None, Stop()):
        yield from objects.of(reader.buffer, used)


def run(session: Session, tool: Stream, output: Output, stop: Stop) -> dict[str, int]:
    """Print rows until asked to stop, and write pictures; return what to say at the end."""
    request = session.request
    if not request.by_stack:
        counts = _print_rows(session, Reader(session, tool), output, stop)
        if tool.repeats:
            counts["repeats"] = _read_repeats(session, tool.repeats)
        return counts
    from tracewheel.runtime.shapes.by_stack import CountingReader
    from tracewheel.runtime.show import flame

    reader = CountingReader(session, tool)
    try:
        if not request.without_rows:
            return _print_rows(session, reader, output, stop)
        for _ in batches(reader, output, stop):
            pass
        return {"events": sum(reader.stacks.values())}
    finally:
        title = f"{session.name}: {tool.ring} by stack"
        flame.write(request, reader.stacks, title, tool.ring, output)


def _print_rows(session: Session, reader: Reader, output: Output, stop: Stop) -> dict[str, int]:
    """Print a row for each record that a reader reads; return what to say at the end."""
    request = session.request
    columns = request.columns()
    style = style_of(request, session.started, output.ascii)
    lines = Lines(reader.layout, columns, style, output)
    if not request.no_header and not request.json:
        output.text(header(columns))
    for used in batches(reader, output, stop):
        lines.render(reader.buffer, used)
    return {
        "rows": lines.rows - lines.unwritten,
        "bad records": lines.bad,
        "output": lines.unwritten,
    }


def _read_repeats(session: Session, name: str) -> int:
    """Return how many events were not shown because they are like others that were."""
    ((_, count),) = session.read_map(name, summed=True)
    return int.from_bytes(count, "little")

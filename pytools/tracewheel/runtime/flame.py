# SPDX-License-Identifier: BSD-2-Clause
"""Stacks and their weights: as folded lines, as a flame graph, as a speedscope profile."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.errors import BpfError
from tracewheel.runtime.meaning import name_of
from tracewheel.runtime.output import escape, replace_file
from tracewheel.runtime.stream import Reader, part_of
from tracewheel.runtime.symbols import KERNEL, Symbols, without_tracing

if TYPE_CHECKING:
    from tracewheel.runtime.options import Request
    from tracewheel.runtime.output import Output
    from tracewheel.runtime.session import Session
    from tracewheel.runtime.shapes import Stream

# Frames, the outermost first, and what was counted or measured in the last of them.
Folded = Mapping[tuple[str, ...], int]

_ROW = 17  # pixels
_NARROWEST = 5_000  # part of the whole: below, a frame is left out, lest the file have no bound
_LOST = "[lost stack]"
_MOST = 1 << 14  # stacks of addresses whose names are held
_CONTROLS = """<foreignObject id="controls" x="40%" y="8" width="59%" height="32">\
<div xmlns="http://www.w3.org/1999/xhtml"><span id="matched" role="status"></span>\
<input id="search" type="search" placeholder="Search: text or regex"/>\
<button id="reset" disabled="">Reset zoom (Esc)</button></div></foreignObject>
"""


class _Box(NamedTuple):
    name: str
    depth: int
    begin: int
    weight: int


@functools.lru_cache(1 << 16)
def _shown(name: str) -> str:
    return escape(os.fsencode(name))


def folded(stacks: Folded) -> str:
    r"""Return a line for each stack: frames joined by ``;``, a space, the weight.

    Names are escaped as everywhere, and a ``;`` in them is ``\x3b``.
    """
    lines = sorted(
        ";".join(_shown(name).replace(";", "\\x3b") for name in stack) + f" {weight}\n"
        for stack, weight in stacks.items()
    )
    return "".join(lines)


def _boxes(
    stacks: list[tuple[tuple[str, ...], int]], least: float,
    name: str = "all", depth: int = 0, begin: int = 0,
) -> Iterator[_Box]:  # fmt: skip
    """Yield the box below sorted stacks that begin alike, then those on it.

    On a box that is lighter than the least there are none.
    """
    weight = sum(weight for _, weight in stacks)
    yield _Box(name, depth, begin, weight)
    if weight < least:
        return
    for frame, group in itertools.groupby(stacks, lambda each: each[0][depth : depth + 1]):
        above = list(group)
        if frame:  # else they end here
            yield from _boxes(above, least, frame[0], depth + 1, begin)
        begin += sum(weight for _, weight in above)


def _color(box: _Box) -> str:
    """Return a warm colour that a function has in every graph, or a cold one for what is none."""
    import zlib

    if box.depth <= 1:
        return "#b9cbdc"
    if box.name.startswith(("[", "0x")):
        return "#d5d2cc"
    mix = zlib.crc32(os.fsencode(box.name))
    return f"rgb({225 + mix % 30},{110 + (mix >> 8) % 110},{70 + (mix >> 16) % 50})"


def svg(stacks: Folded, title: str, unit: str) -> str:
    """Return a flame graph, in which one can zoom and search; it is whole without script too.

    A frame is an image in the image, which the browser lays out, and cuts its text off.
    """
    from html import escape as xml

    from tracewheel.runtime.figure import HEAD, figure

    stacks = {stack: weight for stack, weight in stacks.items() if weight > 0}
    total = sum(stacks.values())
    least = total / _NARROWEST
    boxes = list(_boxes(sorted(stacks.items()), least)) if total else []
    shown = [box for box in boxes if box.weight >= least]
    height = _ROW * (1 + max((box.depth for box in shown), default=0))
    body = []
    for box in shown:
        begin, part = 100 * box.begin / total, 100 * box.weight / total
        name = xml(_shown(box.name))
        body.append(
            f'<svg data-b="{box.begin}" data-w="{box.weight}" data-d="{box.depth}" '
            f'x="{begin:.6g}%" width="{part:.6g}%" y="{height - _ROW * (box.depth + 1)}" '
            f'height="{_ROW}"><title>{name}\n{box.weight:,} {xml(unit)}, {part:.2f} %</title>'
            f'<rect width="100%" height="{_ROW - 1}" rx="2" fill="{_color(box)}"/>'
            f'<text x="4" y="12">{name}</text></svg>\n'
        )
    summary = f"{total:,} {unit} in {len(stacks):,} stacks"
    if len(shown) < len(boxes):
        summary += f"; {len(boxes) - len(shown):,} branches below {100 / _NARROWEST} % are left out"
    shapes = f'<svg id="shapes" x="1%" y="{HEAD}" width="98%" height="{height}">\n{"".join(body)}'
    return figure(title, summary, height + 10, f"{shapes}</svg>", _CONTROLS, "flame.js")


def speedscope(stacks: Folded, title: str, unit: str) -> str:
    """Return a profile in the file format of speedscope."""
    import json

    units = {"usecs": "microseconds", "msecs": "milliseconds", "bytes": "bytes"}
    numbers: dict[str, int] = {}
    samples = [
        [numbers.setdefault(_shown(name), len(numbers)) for name in stack] for stack in stacks
    ]
    profile = {
        "type": "sampled", "name": f"{title} ({unit})", "unit": units.get(unit, "none"),
        "startValue": 0, "endValue": sum(stacks.values()),
        "samples": samples, "weights": list(stacks.values()),
    }  # fmt: skip
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": title, "exporter": "tracewheel", "activeProfileIndex": 0,
        "shared": {"frames": [{"name": name} for name in numbers]}, "profiles": [profile],
    }  # fmt: skip
    return json.dumps(document) + "\n"


FORMS = {"flame": svg, "folded": lambda stacks, _title, _unit: folded(stacks),
         "speedscope": speedscope}  # fmt: skip


def write(request: Request, stacks: Folded, title: str, unit: str, output: Output) -> None:
    """Write the files that the options ask for; ``-`` goes where else the rows would go."""
    for name, form in FORMS.items():
        path = request.values.get(name)
        if path == "-":
            if output.write(form(stacks, title, unit).encode()):
                raise BpfError("output: nobody has read all of it")
        elif path:
            replace_file(path, form(stacks, title, unit))


class CountingReader(Reader):
    """A reader that counts the records that it reads by their stacks.

    ``stacks`` has how many records had each: process name, user frames, kernel frames; before
    them, if containers are told apart, the container.
    """

    def __init__(self, session: Session, tool: Stream) -> None:
        super().__init__(session, tool)
        self.stacks: dict[tuple[str, ...], int] = {}
        self._symbols = Symbols()
        self._names = functools.lru_cache(_MOST)(self._name)
        self._pid = next(member for member in self.members if member.name == "pid")
        at = {member.meaning: member for member in self.members}
        self._cgroup = at["ev_cgroup"] if session.request.per_container else None
        self._comm, self._user, self._kernel = at["ev_comm"], at["ev_user_stack"], at["ev_stack"]

    def read(self) -> int:
        """Fill the buffer, and count what is in it; at once, as a process may soon be gone."""
        used = super().read()
        for record in self.records(used):
            who = [os.fsdecode(self._comm.chars(record))]
            if self._cgroup:
                who.insert(0, name_of("container", self._cgroup.unpack(record)))
            frames = self._names(
                self._pid.unpack(record),
                part_of(record, self._user, self.size)[0],
                part_of(record, self._kernel, self.size)[0],
            )
            stack = (*who, *frames)
            self.stacks[stack] = self.stacks.get(stack, 0) + 1
        return used

    def _name(self, pid: int, user: bytes, kernel: bytes) -> tuple[str, ...]:
        """Return the frames, the outermost first, without offsets: a function is one box."""
        frames = without_tracing(self._symbols.names(kernel, KERNEL, offset=False))
        for name in self._symbols.names(user, pid, offset=False):
            # Where code without frame pointers leads a walk: the address says nothing.
            frames.append("[unknown]" if name.startswith("[unknown+") else name)
        return tuple(frames[::-1]) or (_LOST,)

# SPDX-License-Identifier: BSD-2-Clause
"""Stacks and their weights: as folded lines, as a flame graph, as a speedscope profile."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.files import replace_file
from tracewheel.runtime.host.terminal import escape

if TYPE_CHECKING:
    from tracewheel.runtime.show.output import Output
    from tracewheel.runtime.spec.request import Request


# Frames, the outermost first, and what was counted or measured in the last of them.
Folded = Mapping[tuple[str, ...], int]
_ROW = 17  # pixels
_NARROWEST = 5_000  # part of the whole: below, a frame is left out, lest the file have no bound
_CONTROLS = """<foreignObject id="controls" x="40%" y="8" width="59%" height="32">\
<div xmlns="http://www.w3.org/1999/xhtml"><span id="matched" role="status"></span>\
<input id="search" type="search" placeholder="Search: text or regex"/>\
<button id="reset" disabled="">Reset zoom (Esc)</button></div></foreignObject>
"""


class _Box(NamedTuple):
    frames: tuple[str, ...]  # its own is the last; the lowest box has none
    begin: int
    weight: int

    @property
    def depth(self) -> int:
        return len(self.frames)


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
    stacks: list[tuple[tuple[str, ...], int]], least: float, depth: int = 0, begin: int = 0
) -> Iterator[_Box]:
    """Yield the box below sorted stacks that begin alike, then those on it.

    On a box that is lighter than the least there are none.
    """
    weight = sum(weight for _, weight in stacks)
    yield _Box(stacks[0][0][:depth], begin, weight)
    if weight < least:
        return
    for frame, group in itertools.groupby(stacks, lambda each: each[0][depth : depth + 1]):
        above = list(group)
        if frame:  # else they end here
            yield from _boxes(above, least, depth + 1, begin)
        begin += sum(weight for _, weight in above)


def _color(box: _Box) -> str:
    """Return a warm colour that a function has in every graph, or a cold one for what is none."""
    import zlib

    if box.depth <= 1:
        return "#b9cbdc"
    name = box.frames[-1]
    if name.startswith(("[", "0x")):
        return "#d5d2cc"
    mix = zlib.crc32(os.fsencode(name))
    return f"rgb({225 + mix % 30},{110 + (mix >> 8) % 110},{70 + (mix >> 16) % 50})"


def svg(stacks: Folded, title: str, unit: str) -> str:
    """Return a flame graph, in which one can zoom and search; it is whole without script too.

    Unnamed frames that follow each other are one box, lest they be most of the picture.
    A frame is an image in the image, which the browser lays out, and cuts its text off.
    """
    from html import escape as xml

    from tracewheel.runtime.show.figure import HEAD, figure
    from tracewheel.runtime.show.unnamed import JoinedStacks

    stacks = {stack: weight for stack, weight in stacks.items() if weight > 0}
    total = sum(stacks.values())
    least = total / _NARROWEST
    joined = JoinedStacks(stacks)
    boxes = list(_boxes(sorted(joined.weights.items()), least)) if total else []
    shown = [box for box in boxes if box.weight >= least]
    height = _ROW * (1 + max((box.depth for box in shown), default=0))
    body = []
    for box in shown:
        begin, part = 100 * box.begin / total, 100 * box.weight / total
        name = xml(_shown(joined.describe(box.frames) if box.frames else "all"))
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
    shapes = (
        f'<svg id="shapes" class="flame" x="1%" y="{HEAD}" width="98%" height="{height}">\n'
        f"{''.join(body)}</svg>"
    )
    return figure(title, summary, height + 10, shapes, _CONTROLS, "flame.js")


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

# SPDX-License-Identifier: BSD-2-Clause
"""Stacks and their weights: as folded lines, as a flame graph, as a speedscope profile."""

from __future__ import annotations

import functools
import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.errors import BpfError
from tracewheel.runtime.output import escape, replace_file
from tracewheel.runtime.stream import Reader
from tracewheel.runtime.symbols import Symbols

if TYPE_CHECKING:
    from tracewheel.runtime.options import Request
    from tracewheel.runtime.output import Output
    from tracewheel.runtime.session import Session
    from tracewheel.runtime.shapes import Stream

# Frames, the outermost first, and what was counted or measured in the last of them.
Folded = Mapping[tuple[str, ...], int]

_ROW = 17  # pixels
_LETTER = 7.3  # as in flame.js
_NARROWEST = 5_000  # part of the whole: below, a frame is left out, lest the file have no bound
_PART = struct.Struct("<IH").unpack_from  # where and how long, of struct ev_part
_PID = struct.Struct("<I").unpack_from
_LOST = "[lost stack]"
_MOST = 1 << 14  # stacks of addresses that are held
_CONTROLS = """<foreignObject id="controls" x="40%" y="8" width="59%" height="32" \
style="display: none"><div xmlns="http://www.w3.org/1999/xhtml"><span id="matched" role="status">\
</span><input id="search" type="search" placeholder="Search: text or regex (/)"/>\
<button id="reset">Reset zoom (Esc)</button></div></foreignObject>"""


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


def _boxes(stacks: Folded) -> Iterator[_Box]:
    """Yield a box for each call path; those that begin with the same frames share their boxes."""
    path: list[tuple[str, int]] = []
    at = 0
    for stack, weight in [*sorted(stacks.items()), ((), 0)]:
        frames = ("all", *stack) if stack or weight else ()
        pairs = zip(path, frames)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0][0] == pair[1], pairs))
        while len(path) > same:
            name, begin = path.pop()
            yield _Box(name, len(path), begin, at - begin)
        path += [(name, at) for name in frames[same:]]
        at += weight


def _fit(name: str, pixels: float) -> str:
    """Return as much of a name as there is room for."""
    room = (pixels - 6) / _LETTER
    for at, letter in enumerate(name):
        room -= 2 if letter > "\u10ff" else 1
        if room < 0:
            return name[: at - 1] + "…" if at >= 3 else ""
    return name


def _color(box: _Box) -> str:
    """Return a warm colour that a function has in every graph, or a cold one for what is none."""
    import zlib
    from colorsys import hls_to_rgb

    if box.depth <= 1:
        return "#b9cbdc"
    if box.name.startswith(("[", "0x")):
        return "#d5d2cc"
    mix = zlib.crc32(os.fsencode(box.name))
    hue, light = (6 + mix % 44) / 360, 0.62 + (mix >> 8) % 14 / 100
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, light, 0.88))


def svg(stacks: Folded, title: str, unit: str) -> str:
    """Return a flame graph, in which one can zoom and search; it is whole without script too."""
    from tracewheel.runtime.figure import HEAD, WIDTH, figure, xml

    stacks = {stack: weight for stack, weight in stacks.items() if weight > 0}
    total = sum(stacks.values())
    boxes = list(_boxes(stacks))
    shown = [box for box in boxes if box.weight * _NARROWEST >= total]
    shown.sort(key=lambda box: (box.depth, box.begin))
    deepest = max((box.depth for box in shown), default=0)
    body = []
    for box in shown:
        name = _shown(box.name)
        x, width = f"{100 * box.begin / total:.6g}%", f"{100 * box.weight / total:.6g}%"
        y = (deepest - box.depth) * _ROW
        label = _fit(name, 0.98 * WIDTH * box.weight / total)
        body.append(
            f'<g data-b="{box.begin}" data-w="{box.weight}" data-d="{box.depth}"><title>'
            f"{xml(name)}\n{box.weight:,} {xml(unit)}, {100 * box.weight / total:.2f} %</title>"
            f'<rect x="{x}" y="{y}" width="{width}" height="{_ROW - 1}" rx="2" '
            f'fill="{_color(box)}"/><text x="{x}" dx="4" y="{y + 12}">{xml(label)}</text></g>\n'
        )
    summary = f"{total:,} {unit} in {len(stacks):,} stacks"
    if len(shown) < len(boxes):
        summary += f"; {len(boxes) - len(shown):,} frames below {100 / _NARROWEST} % are left out"
    height = (deepest + 1) * _ROW
    shapes = f'<svg x="1%" y="{HEAD}" width="98%" height="{height}" id="shapes">\n{"".join(body)}'
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


_Key = tuple[int, bytes, bytes, bytes]  # process, its name, addresses of user and kernel


class CountingReader(Reader):
    """A reader that counts the records that it reads by their stacks."""

    def __init__(self, session: Session, tool: Stream) -> None:
        super().__init__(session, tool)
        at = {member.meaning: member.offset for member in self.members}
        self._pid = next(member.offset for member in self.members if member.name == "pid")
        self._comm = slice(at["ev_comm"], at["ev_comm"] + 16)
        self._kernel, self._user = at["ev_stack"], at["ev_user_stack"]
        self._symbols = Symbols()
        self._held: dict[_Key, tuple[tuple[str, ...], list[int]]] = {}
        self._stacks: dict[tuple[str, ...], int] = {}

    def read(self) -> int:
        """Fill the buffer, and count what is in it."""
        used = super().read()
        held, comm, size = self._held, self._comm, self.size
        for record in self.records(used):
            user, user_length = _PART(record, self._user)
            kernel, length = _PART(record, self._kernel)
            key = (
                _PID(record, self._pid)[0],
                bytes(record[comm]),
                bytes(record[size + user : size + user + user_length]),
                bytes(record[size + kernel : size + kernel + length]),
            )
            if key not in held:
                held[key] = self._name(*key), [0]  # now: the process may soon be gone
            held[key][1][0] += 1
        if len(held) > _MOST:
            self.stacks()
        return used

    def stacks(self) -> Folded:
        """Return how many records had each stack: process name, user frames, kernel frames."""
        for stack, (count,) in self._held.values():
            self._stacks[stack] = self._stacks.get(stack, 0) + count
        self._held.clear()
        return self._stacks

    def _name(self, pid: int, comm: bytes, user: bytes, kernel: bytes) -> tuple[str, ...]:
        """Return the frames, the outermost first, without offsets: a function is one box."""
        frames = [self._symbols.kernel(address, offset=False) for address in _addresses(kernel)]
        for address in _addresses(user):
            name = self._symbols.user(pid, address, offset=False)
            # Where code without frame pointers leads a walk: the address says nothing.
            frames.append("[unknown]" if name.startswith("[unknown+") else name)
        return (os.fsdecode(comm.split(b"\0")[0]), *(frames[::-1] or [_LOST]))


def _addresses(part: bytes) -> list[int]:
    """Return the addresses of a stack, the innermost first."""
    return [int.from_bytes(part[at : at + 8], "little") for at in range(0, len(part), 8)]

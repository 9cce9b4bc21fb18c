# SPDX-License-Identifier: BSD-2-Clause
"""The shape Histogram: read histograms, and print them as JSON or as bars of stars."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from tracewheel.runtime.host.files import replace_file
from tracewheel.runtime.shapes.intervals import reports, stamps
from tracewheel.runtime.show.meaning import MEANINGS, TABLES, describe_key, name_of
from tracewheel.runtime.spec.distribution import SUM_SLOT, Histogram, difference
from tracewheel.runtime.spec.options import UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracewheel.runtime.show.output import Output, Stop
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.spec.shapes import Histogram as Shape
    from tracewheel.runtime.trace.btf import Member
    from tracewheel.runtime.trace.session import Session


class Reader:
    """Read a session's histograms, since the start or since the last reading."""

    def __init__(self, session: Session, tool: Shape) -> None:
        request = session.request
        self._session = session
        self._earlier: dict[bytes, Mapping[int, int]] = {}
        self._name = tool.histograms
        # A key of this map is a struct: the key of a histogram, then the number of a slot.
        key, self._slot = session.object.members(session.maps[tool.histograms + "_by"].key)
        members = session.object.members(key.meaning)
        self._key = [m for m in members if m.name in request.key_members]
        self._container_key = session.key_by_container(members)

    def read(self, since_last: bool = False) -> list[Histogram]:
        """Return the histograms that have events, with their keys in ascending order."""
        slots = self._read_keyed() if self._key else self._read_single()
        request = self._session.request
        found = []
        for key, counts in slots.items():
            if since_last:
                counts = difference(counts, self._earlier.get(key, {}))
            total = None
            if request.extension:
                # The sum is in ns or bytes. UNITS has 2**30, divided by their number in a unit.
                total = counts.pop(SUM_SLOT, 0) * UNITS[request.unit] / 2**30
            if counts:
                described = {m.name: _describe(m, key) for m in self._key}
                if "cgroup" in described:
                    described["container"] = name_of("container", described["cgroup"])
                found.append(Histogram(described, request.unit, counts, total))
        if since_last:
            self._earlier.update(slots)
        return sorted(found, key=lambda histogram: tuple(histogram.key.values()))

    def _read_single(self) -> dict[bytes, dict[int, int]]:
        """Return the counts of each slot of the only histogram, whose key is empty."""
        (element,) = self._session.read_map(self._name, summed=True)
        _, slots = element
        counts = memoryview(slots).cast("Q")
        return {b"": {slot: count for slot, count in enumerate(counts) if count}}

    def _read_keyed(self) -> dict[bytes, dict[int, int]]:
        """Return the counts of each slot of each histogram, by its key."""
        found: dict[bytes, dict[int, int]] = {}
        for key_and_slot, value in self._session.read_map(self._name + "_by"):
            key = self._container_key(key_and_slot[: self._slot.offset])
            counts = found.setdefault(key, {})
            slot = self._slot.unpack(key_and_slot)
            counts[slot] = counts.get(slot, 0) + int.from_bytes(value, "little")
        return found


def _describe(member: Member, key: bytes) -> Any:
    """Return the value of a member of a key, or its name if its type has names."""
    kind = MEANINGS[member.meaning].text if member.meaning in MEANINGS else ""
    if kind == "chars":
        return os.fsdecode(member.chars(key))
    value = member.unpack(key)
    return name_of(kind, value) if kind in TABLES else value


def run(session: Session, tool: Shape, output: Output, stop: Stop) -> dict[str, int]:
    """Print histograms at each interval, or at the end; return what to say at the end."""
    request = session.request
    distributions = Reader(session, tool)
    start = time.monotonic()
    events = alerts = 0
    heatmap = None
    if request.heatmap:
        from tracewheel.runtime.show.heatmap import Heatmap

        heatmap = Heatmap(f"{session.name}: {tool.title}", request.unit, request.interval)
    try:
        for _ in reports(session, output, stop):
            found = distributions.read(since_last=True)
            events += sum(histogram.total for histogram in found)
            if heatmap:
                heatmap.add(found)
            if request.alert:
                whole = not (stop.asked and request.interval)
                from tracewheel.runtime.shapes import compare

                alerts += compare.alert(session.name, request, found, whole)
            _report(request, found, output, start)
    finally:
        if heatmap:
            replace_file(request.heatmap, heatmap.svg())
    return {"events": events, "alerts": alerts}


def _report(request: Request, found: list[Histogram], output: Output, start: float) -> None:
    now = time.time_ns()
    if request.json:
        for histogram in found:
            described = {"time": now, **histogram.to_json()}
            if request.sample_rate:
                described["sample_rate"] = request.sample_rate
            if request.baseline:
                from tracewheel.runtime.shapes import compare

                described["baseline"] = compare.describe(request.baseline, histogram)
            output.text(json.dumps(described) + "\n")
        return
    lines = [f"{line}\n" for line in stamps(request, start, now / 1e9)]
    if request.sample_rate:
        lines.append(f"sampled 1/{request.sample_rate}\n")
    for histogram in found:
        if histogram.key:
            lines.append(f"{describe_key(histogram.key, output.ascii)}\n")
        lines.append(histogram.text(fine=bool(request.verbose)))
        if request.baseline:
            from tracewheel.runtime.shapes import compare

            lines.append(compare.text(request.baseline, histogram))
        lines.append("\n")
    if not found:
        lines.append("no events\n")
    output.text("".join(lines))

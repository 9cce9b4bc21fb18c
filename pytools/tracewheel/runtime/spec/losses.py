# SPDX-License-Identifier: BSD-2-Clause
"""The words of a tool's last line: why events are missing, and what to do about it.

The man pages are made of these sentences; docs/loss.md has the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.spec.shapes import Stacks, Stream, Top

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tracewheel.runtime.spec.shapes import Shape


# The meaning of a counter NAME_lost, by what it counts.
RING = (
    "Records that did not fit into the ring buffer, because more events happened at once than the "
    "tool could read: give a larger --buffer-size, or filter more."
)
SUMS = (
    "Events that are in no row, because the map of sums was full: give a larger --max-entries, or "
    "filter more."
)
BEGINS = (
    "Events whose begin could not be kept until their end, because too many were under way at "
    "once: give a larger --max-entries, or filter more."
)
# The meaning of single counters, by their names.
COUNTERS = {
    "ends": "Requests whose end no program was run for, so that their time is not known. "
    "The kernel does not tell why; the events around them are whole.",
    "unseen": "Sleeps that have ended without the kernel running the program: that the thread "
    "has slept is certain, for how long is not. Virtual machines hide some switches.",
    "arrivals": "New processes that were not announced, because the ring buffer was full: what "
    "such a process does may be missing. Give a larger --buffer-size.",
    "followed": "Processes that --follow did not keep, because there were too many: what they and "
    "their children do is missing.",
    "requests": "Requests for writeback that could not be kept until a flusher took them, because "
    "too many were waiting at once: for whom their pages were written is not known. Give a larger "
    "--max-entries.",
    "orders": "Requests for writeback that could not be kept until a flusher had done them, "
    "because too many flushers were working at once: for whom their pages were written is not "
    "known. Give a larger --max-entries.",
    "unowned": "Events of sockets whose process is not known, which an option such as -p has left "
    "out: some of them may be of the processes that were asked for. The process had closed the "
    "socket before the tracing began, or there were too many sockets: give a larger --max-entries.",
    "closed": "Accepts whose new descriptor another thread had closed before accept() returned, so "
    "that the connection is not known: some of them may be accepts that the filters would drop. "
    "This happens only where the kernel refuses fexit.",
    "unplaced": "Drops in a network namespace that cannot be told, which --netns-id or --pid-netns "
    "has left out: some of them may be in the namespace that was asked for.",
}
# Losses that no counter of a program tells: the runtime finds them out.
SKIPPED = (
    "Runs of a program that the kernel left out, because another program was running on the same "
    "CPU: at most so many events are missing. They may be events that the filters would drop."
)
UNSAMPLED = (
    "Samples that should have been taken on a busy CPU and were not, because the kernel was "
    "changing a map or running another program: shares may be wrong by as many samples."
)
UNFINISHED = "Events that had begun and not ended when the tracing ended: they are in no row."
BAD_RECORDS = "Records that were shorter than they must be. That is a fault of the tool: report it."
OUTPUT = "Rows that could not be written, because the reader of the output did not take them."


class Loss(NamedTuple):
    """A word that the last line of a tool may have, and what it means."""

    word: str
    sentence: str


def counters_in(bpf_object: bytes) -> list[str]:
    """Return the counters of losses in the bytes of a BPF object, by the names of its variables.

    ``clock`` is among them if the object is run by clocks.
    """
    names = re.findall(rb"(?<=\0)(?:(\w+)_lost|(clock)_samples)(?=\0)", bpf_object)
    return sorted({(counter or clock).decode() for counter, clock in names})


def losses_of(tool: Shape, counters: Iterable[str]) -> list[Loss]:
    """Return the words that a tool's last line may have. ``counters`` are those of its object."""
    shapes = [tool, *(option.as_shape for option in tool.options if option.as_shape)]
    sums = {getattr(each, "sums", "") or getattr(each, "histograms", "") for each in shapes}
    losses = []
    for name in counters:
        if name == "clock":
            losses.append(Loss("unsampled", UNSAMPLED))
        elif name in COUNTERS:
            losses.append(Loss(name, COUNTERS[name]))
        elif isinstance(tool, Stream) and name == tool.ring:
            losses.append(Loss(name, RING))
        elif name in sums:
            losses.append(Loss(name, SUMS))
        else:
            losses.append(Loss(name, BEGINS))
    losses.append(Loss("skipped", SKIPPED))
    if isinstance(tool, Stream):
        losses.append(Loss("bad records", BAD_RECORDS))
    if isinstance(tool, Top) and tool.pending:
        losses.append(Loss("unfinished", UNFINISHED))
    if not isinstance(tool, Stacks):
        losses.append(Loss("output", OUTPUT))
    return losses

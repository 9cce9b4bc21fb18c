# SPDX-License-Identifier: BSD-2-Clause
"""Show how long block devices take to answer, as a histogram."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_disk
from tracewheel.runtime.spec.shapes import Histogram, Option

tool = Histogram(
    histograms="latencies",
    title="block device I/O",
    options=(
        Option(("-h", "--hist"), "print histograms, as is done anyway"),
        Option(("-d", "--disk"), "only this disk", parse_disk, "NAME",
               sets="filter_disk"),
        Option(("-Q", "--queued"), "include the time that a request waits in the kernel's queue",
               sets="queued", enables=("queue",)),
        Option(("-D", "--per-disk"), "a histogram for each disk", shows=("disk",),
               sets="per_disk"),
        Option(("-F", "--per-flag"), "a histogram for each operation: READ, WRITE, FLUSH ...",
               shows=("operation",), sets="per_operation"),
    ),
    owner_ladder="queue",
    sampled=True,
    examples=(
        ("biolatency", "trace until Ctrl-C, then print the latencies in microseconds"),
        ("biolatency -m 1 10", "print ten times, once a second, in milliseconds"),
        ("biolatency -d sda -F", "one disk, reads apart from writes"),
        ("biolatency -Q -D", "with the time in the queue, each disk apart"),
        ("biolatency --per-container", "the containers that requests are made for, apart"),
        ("biolatency --sample-rate 10", "one request in ten"),
    ),
    overhead="a request costs 0.6 microseconds more, of the tens or hundreds that it takes.",
)  # fmt: skip

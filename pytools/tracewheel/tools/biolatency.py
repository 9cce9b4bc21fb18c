# SPDX-License-Identifier: BSD-2-Clause
"""Show how long block devices take to answer, as a histogram."""

from __future__ import annotations

from tracewheel.runtime.spec.block import device_options
from tracewheel.runtime.spec.shapes import SHOW, Histogram, Option

tool = Histogram(
    histograms="latencies",
    title="block device I/O",
    options=(
        Option(("-h", "--hist"), "print a histogram (the default)", group=SHOW),
        *device_options("queue", "issue", "complete"),
        Option(
            ("-Q", "--queued"),
            "include the time that a request waits in the kernel's queue",
            sets="queued",
            enables=("queue",),
        ),
        Option(
            ("-D", "--per-disk"), "show a histogram for each disk", shows=("disk",), sets="per_disk"
        ),
        Option(
            ("-F", "--per-flag"),
            "show a histogram for each operation, such as READ, WRITE or FLUSH",
            shows=("operation",),
            sets="per_operation",
        ),
    ),
    owner_ladder="queue",
    sampled=True,
    examples=(
        ("biolatency", "trace until Ctrl-C, then print a histogram"),
        ("biolatency -m 1 10", "print ten reports, one each second, in ms"),
        ("biolatency -d sda -F", "show one disk, with a histogram per operation"),
        ("biolatency -Q -D", "include time in the queue, for each disk"),
        ("biolatency --per-container", "show a histogram for each container"),
        ("biolatency --sample-rate 10", "trace one request in ten"),
    ),
    overhead="Each request takes 0.6 microseconds longer, in addition to tens or hundreds.",
    rungs={
        "bio_end": "of a request merged from bios that another device sent on, only the first 16 "
        "are counted",
    },
)

# SPDX-License-Identifier: BSD-2-Clause
"""Show how large the I/O of block devices is, as a histogram per process."""

from __future__ import annotations

from tracewheel.runtime.spec.block import device_options
from tracewheel.runtime.spec.shapes import SHOW, Histogram, Option

_REQUEST_LADDERS = ("start", "issue", "complete")

tool = Histogram(
    histograms="sizes",
    title="sizes of block device I/O",
    units=("bytes",),
    by=("comm",),
    options=(
        Option(("--hist",), "print a histogram (the default)", group=SHOW),
        *device_options(*_REQUEST_LADDERS, bio_ladders=("bio_start",)),
        Option(
            ("--bio",),
            "count what is submitted (bios), before the kernel merges and splits it into requests",
            enables=("bio_start",),
            disables=_REQUEST_LADDERS,
        ),
        Option(
            ("-P", "--pids"),
            "show a histogram for each process, not for each command name",
            shows=("pid",),
            sets="per_process",
        ),
        Option(
            ("-D", "--per-disk"), "show a histogram for each disk", shows=("disk",), sets="per_disk"
        ),
        Option(
            ("-F", "--per-flag"),
            "show a histogram for each operation, such as READ, WRITE or DISCARD; a FLUSH has no "
            "size and is not counted",
            shows=("operation",),
            sets="per_operation",
        ),
    ),
    short={"comm": "-c"},
    examples=(
        ("bitesize", "trace until Ctrl-C, then print a histogram for each command name"),
        ("bitesize -e 1 10", "print ten reports with averages and totals, one each second"),
        ("bitesize -d sda -F", "show one disk, with a histogram per operation"),
        ("bitesize -c postgres -D", "show what one command submits, for each disk"),
        ("bitesize --bio -p 1234", "show what a process submits, before requests are merged"),
        ("bitesize --per-container", "show a histogram for each container"),
    ),
    overhead="Each request takes 0.7 to 1.2 microseconds longer. With --bio, each bio takes 0.3\n"
    "  microseconds longer.",
    rungs={
        "bio_start": "a device that is made of others passes bios on: with --bio, they are counted "
        "for each device that they reach, and -D tells the devices apart",
    },
)

# SPDX-License-Identifier: BSD-2-Clause
"""Trace calls of the stat family: who, which file, with what result."""

from __future__ import annotations

from tracewheel.runtime.spec.common import NO_IO_URING, PRINT_UID, UNTIMED, WHO
from tracewheel.runtime.spec.shapes import SHOW, Column, Option, Stream

tool = Stream(
    ring="stats",
    columns=(
        *WHO,
        Column("SYSCALL", "syscall", 12, hidden=True),
        Column("FLAGS", "flags", 19, hidden=True),
        Column("MS", "duration", 8, hidden=True),
        Column("RET", "ret", 3),
        Column("ERR", "ret", 9, kind="errno"),
        Column("PATH", "path", 0),
    ),
    options=(
        Option(("-x", "--failed"), "trace only calls that failed", sets="failed_only"),
        Option(
            ("--path",),
            "trace only calls for a file whose path matches this glob: the path that the process "
            "gave, or the whole path of a file that is open",
            str,
            "GLOB",
            sets=lambda _: {"by_path": True},
            globs="path",
        ),
        Option(
            ("--access",),
            "trace access, faccessat and faccessat2 as well",
            sets="with_access",
        ),
        Option(
            ("-F", "--full-path"),
            "show complete paths instead of relative ones",
            sets="full_path",
            group=SHOW,
        ),
        Option(("-s", "--sysname"), "show the system call (SYSCALL)", shows=("SYSCALL",)),
        Option(
            ("-L", "--latency"),
            "show how many milliseconds the calls took (MS)",
            sets="with_duration",
            shows=("MS",),
            enables=("enter", "gone"),
        ),
        PRINT_UID,
        Option(
            ("-v", "--verbose"),
            "show all columns, and complete paths",
            sets=lambda _: {"full_path": True, "with_duration": True},
            enables=("enter", "gone"),
            group=SHOW,
        ),
    ),
    short={"comm": "-n"},
    container=True,
    stack=True,
    sampled=True,
    examples=(
        ("statsnoop", "trace all calls that ask for the state of a file, such as stat and statx"),
        ("statsnoop -x", "trace calls that failed"),
        ('statsnoop -n "nginx"', "trace the processes of that name"),
        ("statsnoop -v -p 1234", "trace one process, and show all columns"),
        ('statsnoop --path "*.py" -x', "show where Python looks for modules in vain"),
    ),
    overhead="Each traced call takes 0.4 to 0.6 microseconds longer, and with -L or -v 0.3 more.\n"
    "  Every other system call takes about 80 ns longer, and with -L or -v 130. Each row\n"
    "  costs the tool 0.1 microseconds of CPU time.",
    notes=(NO_IO_URING, f"{UNTIMED}."),
)

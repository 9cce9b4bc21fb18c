# SPDX-License-Identifier: BSD-2-Clause
"""Trace the lines that users type into bash."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_file
from tracewheel.runtime.spec.common import DATE, PRINT_UID
from tracewheel.runtime.spec.shapes import TRACE, Column, Option, Stream, Uprobes

tool = Stream(
    ring="commands",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PID", "pid", 7),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("COMMAND", "command", 0),
    ),
    options=(
        Option(
            ("-s", "--shared"),
            "trace only lines read by the functions of this file, a libreadline or a program, "
            "whatever program calls them, and show the name of that program (COMM)",
            parse_file,
            "PATH",
            shows=("COMM",),
            disables=("arrival",),
            group=TRACE,
        ),
        Option(
            ("-l", "--line"),
            "trace only lines that match this glob",
            str,
            "GLOB",
            globs="command",
        ),
        DATE,
        PRINT_UID,
    ),
    container=True,
    uprobes=Uprobes(
        # A probe of readline() misses the call that a waiting shell is already in. So the first
        # choice is readline_internal_teardown(), which is called once a line is complete.
        functions=(("readline_internal_teardown", "readline"),),
        caveats={"readline": "the line that is being typed now will not be shown"},
        program="bash",
        libraries=("libreadline.so",),
        usual=("/bin/bash",),
        file_option="shared",
    ),
    examples=(
        ("bashreadline", "trace all bash shells, also those in containers"),
        ("bashreadline -t", "show the date and milliseconds as well"),
        ("bashreadline -p 1234", "trace one shell"),
        ('bashreadline -U -l "*sudo *"', "trace lines with sudo, and show who typed them"),
    ),
    overhead="Each line typed takes about 20 microseconds longer, and each exec up to 5.",
)

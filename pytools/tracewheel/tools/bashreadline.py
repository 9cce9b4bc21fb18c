# SPDX-License-Identifier: BSD-2-Clause
"""Trace the lines that users type into bash."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_file
from tracewheel.runtime.spec.shapes import Column, Option, Stream, Uprobes

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
        Option(("-s", "--shared"), "only lines read by the functions in this file, a libreadline "
               "or a program, whatever program calls them", parse_file, "PATH",
               shows=("COMM",), disables=("arrival",)),
        Option(("-l", "--line"), "only lines that match", str, "GLOB", globs="command"),
        Option(("-t", "--timestamps"), "show the date and milliseconds too", numbers_column="TIME"),
        Option(("-U", "--print-uid"), "show the user's id", shows=("UID",)),
    ),
    container=True,
    uprobes=Uprobes(
        # Where readline itself is probed, it has to be called first: a shell that waits has.
        functions=(("readline_internal_teardown", "readline"),),
        caveats={"readline": "the line that is being typed now will not show"},
        program="bash",
        libraries=("libreadline.so",),
        usual=("/bin/bash",),
        file_option="shared",
    ),
    examples=(
        ("bashreadline", "trace all bash shells, also those in containers"),
        ("bashreadline -t", "with date and milliseconds"),
        ("bashreadline -p 1234", "one shell"),
        ('bashreadline -U -l "*sudo *"', "lines with sudo, and whose they are"),
    ),
    overhead="a line typed costs some 20 microseconds more, an exec up to 5.",
)  # fmt: skip

# SPDX-License-Identifier: BSD-2-Clause
"""Trace files that are opened: who, which, with what result."""

from __future__ import annotations

import os
import struct

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.shapes import Column, Option, Stream

_WANTED_MOST = 32  # of opensnoop.bpf.c
_ACCESS_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)


def _flag(text: str) -> str:
    # Some have no bits here, as O_LARGEFILE where every file may be large.
    if text != "O_RDONLY" and not (text.startswith("O_") and getattr(os, text, None)):
        raise UsageError(f"no open flag {text!r}: try O_CREAT or O_WRONLY")
    return text


def _wanted(names: tuple[str, ...]) -> dict[str, object]:
    """Tell access modes, which are numbers, from flags, which are sets of bits."""
    values = {getattr(os, name) for name in names}
    flags = sorted(values.difference(_ACCESS_MODES))
    padding = [0] * (_WANTED_MOST - len(flags))
    return {
        "some_wanted": True,
        "wanted_access": sum(1 << mode for mode in values.intersection(_ACCESS_MODES)),
        "wanted_flags": struct.pack(f"={_WANTED_MOST}I", *flags, *padding),
    }


tool = Stream(
    ring="opens",
    columns=(
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16),
        Column("FD", "ret", 3),
        Column("ERR", "ret", 9, kind="errno"),
        Column("FLAGS", "flags", 20, hidden=True),
        Column("MODE", "mode", 5, hidden=True),
        Column("PATH", "path", 0),
    ),
    options=(
        Option(("-x", "--failed"), "only opens that failed", sets="failed_only"),
        Option(("-n", "--name"), "only files of this name, or path if the glob has a slash", str,
               "GLOB", globs="path"),
        Option(("--path",), "only paths, as the process gave them, that match", str, "GLOB",
               globs="path"),
        Option(("-F", "--full-path"), "complete relative paths", sets="full_path"),
        Option(("-U", "--print-uid"), "show the user's id", shows=("UID",)),
        Option(("-e", "--extended"), "show flags and mode", shows=("FLAGS", "MODE")),
        Option(("-f", "--flag"), "only opens with this flag; may be repeated", _flag, "O_FLAG",
               sets=_wanted, repeat=True),
        Option(("--write-only",), "only opens for writing", sets="write_only"),
        Option(("--all",), "also opens without an open syscall: io_uring, exec, file handles",
               enables=("all", "handle")),
    ),
    container=True,
    short={"uid": "-u", "stack": "-c"},
    stack=True,
    sampled=True,
    examples=(
        ("opensnoop", "trace all opens"),
        ("opensnoop -p 1234", "of one process"),
        ('opensnoop -n "*.txt"', "of text files"),
        ("opensnoop -x --comm nginx", "that failed in nginx"),
        ("opensnoop -t --stack", "with timestamps and stacks"),
    ),
    overhead="an open costs 0.2 to 0.6 microseconds more; where fexit is refused, any other\n"
    "  system call costs some 50 ns more. A row costs the tool 0.1 microseconds of CPU.",
    rungs={
        "open__fexit": "openat2 calls with a bad struct size are not seen",
        "handle": "a tracepoint does not tell which file a handle names",
    },
)  # fmt: skip

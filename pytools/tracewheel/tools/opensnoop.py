# SPDX-License-Identifier: BSD-2-Clause
"""Trace files that are opened: who, which, with what result."""

from __future__ import annotations

import os
import struct

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.common import PRINT_UID, WHO
from tracewheel.runtime.spec.shapes import SHOW, Column, Option, Stream

_WANTED_MOST = 32  # WANTED_MOST of opensnoop.bpf.c
_ACCESS_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)


def _flag(text: str) -> str:
    # O_LARGEFILE and others may be 0 on this machine: then no open can be told by them.
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
        *WHO,
        Column("FD", "ret", 3),
        Column("ERR", "ret", 9, kind="errno"),
        Column("FLAGS", "flags", 20, hidden=True),
        Column("MODE", "mode", 5, hidden=True),
        Column("PATH", "path", 0),
    ),
    options=(
        Option(("-x", "--failed"), "trace only opens that failed", sets="failed_only"),
        Option(
            ("-n", "--name"),
            "trace only files whose name matches this glob; with a slash in the glob, whose path "
            "matches it",
            str,
            "GLOB",
            globs="path",
        ),
        Option(
            ("--path",),
            "trace only opens whose path, as the process gave it, matches this glob",
            str,
            "GLOB",
            globs="path",
        ),
        Option(
            ("-F", "--full-path"),
            "show complete paths instead of relative ones",
            sets="full_path",
            group=SHOW,
        ),
        PRINT_UID,
        Option(
            ("-e", "--extended"),
            "show the flags and the mode of each open (FLAGS, MODE)",
            shows=("FLAGS", "MODE"),
        ),
        Option(
            ("-f", "--flag"),
            "trace only opens with this flag; may be repeated, and then one of the flags is enough",
            _flag,
            "O_FLAG",
            sets=_wanted,
            repeat=True,
        ),
        Option(("--write-only",), "trace only opens for writing", sets="write_only"),
        Option(
            ("--all",),
            "trace opens without an open system call as well: by io_uring, exec or a file handle",
            enables=("all", "handle"),
        ),
    ),
    container=True,
    short={"uid": "-u", "stack": "-c"},
    stack=True,
    sampled=True,
    examples=(
        ("opensnoop", "trace all opens"),
        ("opensnoop -p 1234", "trace one process"),
        ('opensnoop -n "*.txt"', "trace text files"),
        ("opensnoop -x --comm nginx", "trace opens that failed in nginx"),
        ("opensnoop -t --stack", "show seconds since the start, and stacks"),
    ),
    overhead="Each open takes 0.2 to 0.6 microseconds longer. Where the kernel refuses fexit,\n"
    "  every other system call takes about 50 ns longer. Each row costs the tool 0.1\n"
    "  microseconds of CPU time.",
    rungs={
        "open__fexit": "openat2 calls with a bad struct size are not seen",
        "handle": "no tracepoint tells which file a handle stands for, so only fexit can",
    },
)

# SPDX-License-Identifier: BSD-2-Clause
"""Trace programs that are executed: by whom, with which arguments."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.arguments import parse_comm, parse_count, parse_cpu, parse_process
from tracewheel.runtime.spec.common import PRINT_UID
from tracewheel.runtime.spec.shapes import SHOW, TRACE, Column, Option, Stream

_ARGV_MOST = 64  # ARGV_MOST of execsnoop.bpf.c
_VARIABLE_BYTES = 32  # the size of ``variable`` in execsnoop.bpf.c


def _variable(text: str) -> bytes:
    name = os.fsencode(text)
    if not 0 < len(name) < _VARIABLE_BYTES or b"=" in name or b"\0" in name:
        raise UsageError(
            f"expected the name of a variable, of 1 to {_VARIABLE_BYTES - 1} bytes, not {text!r}"
        )
    return name + b"="


def _wanted_variable(text: bytes) -> dict[str, object]:
    return {
        "variable_length": len(text),
        "variable": text.ljust(_VARIABLE_BYTES, b"\0"),
        "variable_mask": (b"\xff" * len(text)).ljust(_VARIABLE_BYTES, b"\0"),
    }


tool = Stream(
    ring="execs",
    columns=(
        Column("COMM", "comm", 16),
        Column("PID", "pid", 7),
        Column("PPID", "ppid", 7),
        Column("UID", "uid", 6, hidden=True),
        Column("CPU", "cpu", 3, hidden=True),
        Column("RET", "ret", 3),
        Column("ERR", "ret", 9, kind="errno", hidden=True),
        Column("EXIT", "exit", 7, hidden=True),
        Column("MS", "duration", 10, hidden=True, help="how long the program ran, in milliseconds"),
        Column("PARENTS", "parents", 32, hidden=True),
        Column("CWD", "cwd", 24, hidden=True),
        Column("ENV", "env", 24, hidden=True),
        Column("FILE", "file", 24, hidden=True),
        Column("ARGS", "args", 0),
    ),
    options=(
        Option(
            ("-x", "--failed"),
            "trace execs that failed as well, and show the error and the file that was tried "
            "(ERR, FILE)",
            sets=lambda _: {"with_file": True},
            shows=("ERR", "FILE"),
            enables=("failed",),
            group=TRACE,
        ),
        Option(
            ("--exit",),
            "trace the end of each process as well, and show its exit status or signal and the "
            "milliseconds since its exec (EXIT, MS)",
            sets="with_exit",
            shows=("EXIT", "MS"),
            enables=("exit",),
            group=TRACE,
        ),
        Option(
            ("-n", "--name"),
            "trace only processes whose name matches this glob",
            str,
            "GLOB",
            globs="comm",
        ),
        Option(
            ("-l", "--line"),
            "trace only execs whose arguments, joined by blanks, match this glob",
            str,
            "GLOB",
            sets=lambda _: {"line_globbed": True},
            globs="args",
        ),
        Option(
            ("-P", "--ppid"),
            "trace only children of this process",
            parse_process,
            "PPID",
            sets="wanted_ppid",
        ),
        Option(
            ("-M", "--parent"),
            "trace only children of processes with this name",
            parse_comm,
            "NAME",
            sets="wanted_parent",
        ),
        Option(
            ("-C", "--cpu"), "trace only execs on this CPU", parse_cpu, "CPU", sets="wanted_cpu"
        ),
        PRINT_UID,
        Option(
            ("-q", "--quote"),
            "quote arguments that contain blanks or quotes",
            numbers_column="ARGS",
        ),
        Option(
            ("--max-args",),
            "show at most N arguments of each exec",
            lambda text: parse_count(text, 1, _ARGV_MOST),
            "N",
            sets="max_args",
            group=SHOW,
        ),
        Option(
            ("--file",), "show the file that is executed (FILE)", sets="with_file", shows=("FILE",)
        ),
        Option(("--cwd",), "show the working directory (CWD)", sets="with_cwd", shows=("CWD",)),
        Option(
            ("--env",),
            "show this variable of the new environment (ENV)",
            _variable,
            "VAR",
            sets=_wanted_variable,
            shows=("ENV",),
        ),
        Option(
            ("--tree",),
            "show the names of up to 8 ancestors (PARENTS)",
            sets="with_parents",
            shows=("PARENTS",),
        ),
    ),
    container=True,
    short={"uid": "-u"},
    examples=(
        ("execsnoop", "trace all execs"),
        ("execsnoop -t", "show the seconds since the start as well"),
        ("execsnoop -x --exit", "trace failed execs and ends as well"),
        ('execsnoop -l "*--config*"', "trace programs with this argument"),
        ("execsnoop --tree -P 1234", "trace one process's children, show ancestors"),
        ("execsnoop -q --cwd --env PATH", "show the directory and search path"),
    ),
    overhead="Each exec takes 1.6 microseconds longer, in addition to about 600. With -x, each\n"
    "  system call takes 15 ns longer.",
)

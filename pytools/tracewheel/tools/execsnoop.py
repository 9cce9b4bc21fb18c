# SPDX-License-Identifier: BSD-2-Clause
"""Trace programs that are executed: by whom, with which arguments."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.arguments import parse_comm, parse_count, parse_cpu, parse_process
from tracewheel.runtime.spec.shapes import Column, Option, Stream

_ARGV_MOST = 64  # ARGV_MOST of execsnoop.bpf.c
_VARIABLE_BYTES = 32  # the size of its variable


def _variable(text: str) -> bytes:
    name = os.fsencode(text)
    if not 0 < len(name) < _VARIABLE_BYTES or b"=" in name or b"\0" in name:
        raise UsageError(f"expected a variable's name of up to {_VARIABLE_BYTES - 1} bytes")
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
        Column("MS", "duration", 10, hidden=True),
        Column("PARENTS", "parents", 32, hidden=True),
        Column("CWD", "cwd", 24, hidden=True),
        Column("ENV", "env", 24, hidden=True),
        Column("FILE", "file", 24, hidden=True),
        Column("ARGS", "args", 0),
    ),
    options=(
        Option(("-x", "--failed"), "also execs that failed, and the file that was tried",
               sets=lambda _: {"with_file": True}, shows=("ERR", "FILE"), enables=("failed",)),
        Option(("--exit",), "also the end of each process: exit status or signal, and ms since "
               "its exec", sets="with_exit", shows=("EXIT", "MS"), enables=("exit",)),
        Option(("-n", "--name"), "only processes whose name matches", str, "GLOB", globs="comm"),
        Option(("-l", "--line"), "only arguments that match, a blank between any two", str, "GLOB",
               sets=lambda _: {"line_globbed": True}, globs="args"),
        Option(("-P", "--ppid"), "only children of this process", parse_process, "PPID",
               sets="wanted_ppid"),
        Option(("-M", "--parent"), "only children of processes of this name", parse_comm,
               "NAME", sets="wanted_parent"),
        Option(("-C", "--cpu"), "only on this CPU", parse_cpu, "CPU", sets="wanted_cpu"),
        Option(("-U", "--print-uid"), "show the user's id", shows=("UID",)),
        Option(("-q", "--quote"), "quote arguments that have blanks or quotes",
               numbers_column="ARGS"),
        Option(("--max-args",), "show no more arguments than this",
               lambda text: parse_count(text, 1, _ARGV_MOST), "N", sets="max_args"),
        Option(("--file",), "show the file that is executed", sets="with_file", shows=("FILE",)),
        Option(("--cwd",), "show the working directory", sets="with_cwd", shows=("CWD",)),
        Option(("--env",), "show this variable of the new environment", _variable, "VAR",
               sets=_wanted_variable, shows=("ENV",)),
        Option(("--tree",), "show the names of up to 8 ancestors", sets="with_parents",
               shows=("PARENTS",)),
    ),
    container=True,
    short={"uid": "-u"},
    examples=(
        ("execsnoop", "trace all execs"),
        ("execsnoop -t", "with timestamps"),
        ("execsnoop -x --exit", "with those that fail, and with how each process ends"),
        ('execsnoop -l "*--config*"', "of programs with this argument"),
        ("execsnoop --tree -P 1234", "by one process, with its ancestors"),
        ("execsnoop -q --cwd --env PATH", "with directory and search path"),
    ),
    overhead="An exec, some 600 microseconds long, takes 1.6 more; with -x any syscall 15 ns more.",
)  # fmt: skip

# SPDX-License-Identifier: BSD-2-Clause
"""Trace lookups of host names: who, which host, how long, what result."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_file
from tracewheel.runtime.spec.common import DATE, PRINT_UID, WHO, min_ms
from tracewheel.runtime.spec.shapes import TRACE, Column, Option, Stream, Uprobes

tool = Stream(
    ring="lookups",
    pending=("calls",),
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        *WHO,
        Column("LATms", "duration", 8),
        Column("FUNCTION", "function", 16, hidden=True),
        Column("RESULT", "result", 14),
        Column("HOST", "host", 0),
    ),
    options=(
        Option(
            ("-x", "--failed"),
            "trace only lookups that failed, or that had not returned when tracing ended",
            sets="failed_only",
        ),
        min_ms("lookups"),
        Option(
            ("--host",),
            "trace only lookups of hosts that match this glob; an address that is looked up is "
            "matched as it is shown",
            str,
            "GLOB",
            globs="host",
        ),
        Option(
            ("-l", "--libc"),
            "trace only lookups by the functions of this file; without this option, all C "
            "libraries are traced that any process uses, also in containers",
            parse_file,
            "FILE",
            disables=("arrival",),
            group=TRACE,
        ),
        DATE,
        PRINT_UID,
    ),
    container=True,
    uprobes=Uprobes(
        functions=(
            ("getaddrinfo",),
            ("gethostbyname",),
            ("gethostbyname2",),
            ("gethostbyname_r",),
            ("gethostbyname2_r",),
            ("gethostbyaddr",),
            ("gethostbyaddr_r",),
        ),
        libraries=("libc.so", "libc-", "ld-musl-"),
        file_option="libc",
    ),
    examples=(
        ("gethostlatency", "trace all lookups, also those in containers"),
        ("gethostlatency -x", "trace only lookups that failed"),
        ("gethostlatency -m 100 -t", "trace slow lookups, and show dates"),
        ('gethostlatency --host "*.example.com"', "trace lookups in one domain"),
        ("gethostlatency -p 1234 -v", "trace one process, and show all columns"),
    ),
    overhead=(
        "Each lookup takes 1 to 2 microseconds longer, and each exec up to 5. To find C\n"
        "  libraries that are new, the tool itself uses 20 to 70 microseconds for an exec."
    ),
    notes=(
        "RESULT is OK or the name of an error: what getaddrinfo() has returned, h_errno or errno. "
        "NULL: the function failed and did not tell why. PENDING: it had not returned when "
        "tracing ended. EXITED: its thread ended, or ran another program, before it returned. "
        "LEFT: its thread went on without a return, as by longjmp().",
        "If functions that look up hosts call each other, only the outermost call is shown. "
        "A call that was under way when tracing began is not shown. A C library that no process "
        "had before is traced some 10 milliseconds after the exec of the first program with it; "
        "what this looks up before is missing.",
        "Only calls of a C library are seen. Programs that are linked statically, and Go programs "
        "that ask DNS servers themselves, do not make any.",
        "Do not trace a program that looks up hosts in a signal handler with a stack of its own, "
        "or that switches stacks within a lookup: the kernel may end it by SIGILL when a traced "
        "function returns, as with any tool that traces returns of functions.",
    ),
)

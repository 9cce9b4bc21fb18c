# SPDX-License-Identifier: BSD-2-Clause
"""Trace signals that processes send: who, which, to whom, how it went."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_process, parse_signals
from tracewheel.runtime.spec.common import PRINT_UID, WHO
from tracewheel.runtime.spec.shapes import Column, Option, Stream

_SIGNALS_MOST = 128  # SIGNALS_MOST of killsnoop.bpf.c


def _wanted(lists: tuple[tuple[int, ...], ...]) -> dict[str, object]:
    wanted = {number for numbers in lists for number in numbers}
    return {
        "some_signals_wanted": True,
        "wanted_signals": bytes(number in wanted for number in range(_SIGNALS_MOST)),
    }


def _only_probes(lists: tuple[tuple[int, ...], ...]) -> bool:
    return not any(number for numbers in lists for number in numbers)


tool = Stream(
    ring="signals",
    columns=(
        *WHO,
        Column("CALL", "call", 17, hidden=True),
        Column("SIGNAL", "signal", 11),
        Column("CODE", "code", 13, hidden=True, help="the si_code of the signal: how it was sent"),
        Column("VALUE", "value", 20, hidden=True),
        Column("TPID", "tpid", 8),
        Column("TTID", "ttid", 7, hidden=True),
        Column("TCOMM", "tcomm", 16),
        Column("OUTCOME", "outcome", 9, hidden=True),
        Column("ERR", "ret", 9, kind="errno"),
    ),
    options=(
        Option(("-x", "--failed"), "trace only calls that failed", sets="failed_only"),
        Option(
            ("-T", "--tpid"),
            "trace only signals to this process, also those to a group that it is in",
            parse_process,
            "PID",
            sets="wanted_tpid",
        ),
        Option(
            ("-s", "--signal"),
            "trace only these signals, given by name or number, such as KILL,SIGTERM,0; may be "
            "repeated",
            parse_signals,
            "LIST",
            sets=_wanted,
            excludes=("no_probe",),
            only_if=_only_probes,
            repeat=True,
        ),
        Option(
            ("--no-probe",),
            "leave out signal 0, which only asks whether a process exists",
            sets="without_probes",
        ),
        Option(
            ("--kill-only",),
            "trace only the call kill, not those for threads, queues and pidfds",
            sets="kill_only",
            excludes=("all",),
        ),
        Option(
            ("--all",),
            "trace signals from the kernel as well, and show why each was sent (CODE) and what "
            "became of it (OUTCOME). PID is then the process that was running; if a timer sent the "
            "signal, that may be any process. Options such as -p then select by PID or by TPID",
            sets="with_kernels",
            shows=("CODE", "OUTCOME"),
        ),
        PRINT_UID,
    ),
    stack=True,
    container=True,
    examples=(
        ("killsnoop", "trace all signals that processes send"),
        ("killsnoop -T 1234", "show who sends signals to a process"),
        ("killsnoop -s KILL,TERM --time", "trace two signals, and show the time of day"),
        ("killsnoop -x --no-probe", "trace signals that could not be sent"),
        ("killsnoop --all -s SEGV,BUS,PIPE", "trace what the kernel sends as well"),
    ),
    overhead="Each signal takes about 1 microsecond longer, any other system call about 80 ns.",
)

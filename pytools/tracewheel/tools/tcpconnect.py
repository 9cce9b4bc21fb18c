# SPDX-License-Identifier: BSD-2-Clause
"""Trace TCP connections that are opened: who, where to, how it went."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count
from tracewheel.runtime.spec.common import PRINT_UID, WHO, count_only, interval_with, pid_or
from tracewheel.runtime.spec.net import peers
from tracewheel.runtime.spec.shapes import LIMITS, Column, Option, Stream, Top

_OVERHEAD = (
    "Each connection takes 1 to 4 microseconds longer, in addition to about 10 on\n"
    "  loopback. Where the kernel refuses fexit, every system call takes 30 to 40 ns longer."
)
_WITHOUT_SENDING = "connects by io_uring that fail before sending are not seen"
_RUNGS = {"unsent__tp_btf": _WITHOUT_SENDING, "unsent__raw_tp": _WITHOUT_SENDING}
_SELECT = (
    pid_or("ports"),
    Option(("-L", "-s", "--ports"), "show the local port as well (LPORT)", shows=("LPORT",)),
    Option(
        ("-x", "--failed"),
        "trace only connects that failed, were given up (ECANCELED) or had no answer when "
        "tracing ended (EINPROGRESS)",
        sets="failed_only",
    ),
    *peers("remote ports", "--to"),
    interval_with("-c"),
)
_COUNT = count_only("connects by addresses and port")
_COUNTS = Top(
    sums="peers",
    title="TCP connections",
    pending="attempts",
    columns=(
        Column("LADDR", "laddr", 15),
        Column("RADDR", "raddr", 15),
        Column("RPORT", "rport", 5),
        Column("FAILED", "failed", 10),
        Column("CONNECTS", "connects", 10),
    ),
    options=(*_SELECT, _COUNT),
    short={"uid": "-u"},
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="connects",
    pending=("attempts", "stacks"),
    columns=(
        *WHO[:-1],
        Column("COMM", "comm", 15),
        Column("IP", "ip", 2, hidden=True),
        Column("SADDR", "saddr", 15),
        Column("LPORT", "sport", 5, hidden=True),
        Column("DADDR", "daddr", 15),
        Column("DPORT", "dport", 5),
        Column("MS", "duration", 5),
        Column("ERR", "ret", 12, kind="errno"),
    ),
    options=(
        *_SELECT,
        _COUNT._replace(as_shape=_COUNTS),
        PRINT_UID,
        Option(
            ("--stack-storage-size",),
            "set how many stacks of connects without an answer can be kept",
            lambda text: parse_count(text, 1),
            "N",
            resizes="stacks",
            group=LIMITS,
        ),
    ),
    short={"uid": "-u"},
    stack=True,
    container=True,
    examples=(
        ("tcpconnect", "trace all connects"),
        ("tcpconnect -p", "show local ports as well"),
        ("tcpconnect -t -P 80,443", "trace connects to web servers, with times"),
        ("tcpconnect -x --to 10.0.0.0/8", "trace failed connects to one network"),
        ("tcpconnect -c -i 10", "count connects, report every ten seconds"),
        ("tcpconnect --stack -p 1234", "trace one process, and show stacks"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

# SPDX-License-Identifier: BSD-2-Clause
"""Trace TCP connections that are opened: who, where to, how it went."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_count, parse_processes, parse_seconds
from tracewheel.runtime.spec.net import PEERS
from tracewheel.runtime.spec.shapes import Column, Option, Stream, Top

_OVERHEAD = (
    "a connection, some 10 microseconds on loopback, costs 1 to 4 more; where fexit is\n"
    "  refused, any system call costs some 30 to 40 ns more."
)
_WITHOUT_SENDING = "connects by io_uring that fail before they send are not seen"
_RUNGS = {"unsent__tp_btf": _WITHOUT_SENDING, "unsent__raw_tp": _WITHOUT_SENDING}
_SELECT = (
    Option(("-p",), "as --ports; with a number as --pid", parse_processes, "PID",
           optional=True, switches_on="ports", passes_to="pid"),
    Option(("-L", "-s", "--ports"), "show the local port, too", shows=("LPORT",)),
    Option(("-x", "--failed"), "only connects that fail, are given up (ECANCELED) or have no "
           "answer when tracing ends (EINPROGRESS)", sets="failed_only"),
    *PEERS,
    Option(("-i", "--interval"), "with -c, report each time so many seconds have passed",
           parse_seconds, "SEC"),
)  # fmt: skip
_COUNT = Option(("-c", "--totals", "--count"), "count by addresses and port", sets="count_only")
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
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16),
        Column("IP", "ip", 2),
        Column("SADDR", "saddr", 15),
        Column("LPORT", "sport", 5, hidden=True),
        Column("DADDR", "daddr", 15),
        Column("DPORT", "dport", 5),
        Column("MS", "duration", 8),
        Column("ERR", "ret", 12, kind="errno"),
    ),
    options=(
        *_SELECT,
        _COUNT._replace(as_shape=_COUNTS),
        Option(("-U", "--print-uid"), "show the user's id", shows=("UID",)),
        Option(("--stack-storage-size",), "stacks of connects without an answer that are kept",
               lambda text: parse_count(text, 1), "N", resizes="stacks"),
    ),
    short={"uid": "-u"},
    stack=True,
    container=True,
    examples=(
        ("tcpconnect", "trace all connects"),
        ("tcpconnect -p", "with local ports"),
        ("tcpconnect -t -P 80,443", "to web servers, with timestamps"),
        ("tcpconnect -x --to 10.0.0.0/8", "to one network, if they fail"),
        ("tcpconnect -c -i 10", "who connects where, how often, every ten seconds"),
        ("tcpconnect --stack -p 1234", "of one process, with stacks"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)  # fmt: skip

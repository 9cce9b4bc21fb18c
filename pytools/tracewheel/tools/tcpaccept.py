# SPDX-License-Identifier: BSD-2-Clause
"""Trace TCP connections that are accepted: by whom, from where, how late."""

from __future__ import annotations

from tracewheel.runtime.spec.arguments import parse_milliseconds
from tracewheel.runtime.spec.common import PRINT_UID, WHO, count_only, interval_with
from tracewheel.runtime.spec.net import peers
from tracewheel.runtime.spec.shapes import TRACE, Column, Option, Stream, Top

_OVERHEAD = (
    "Each accept takes 1 to 3 microseconds longer. Where the kernel refuses fexit, every\n"
    "  system call takes 40 to 80 ns longer."
)
_ONLY_SYSTEM_CALLS = (
    "accepts by io_uring, or by the kernel itself, are not seen, and those whose descriptor "
    "another thread has closed before accept() returns are only counted"
)
_RUNGS = {
    "accept__fexit": "a connection that accept() drops, because it cannot write the address "
    "(EFAULT), shows as well",
    "accept__tp_btf": _ONLY_SYSTEM_CALLS,
    "accept__raw_tp": _ONLY_SYSTEM_CALLS,
    "failed": "accepts by io_uring that fail are not seen",
}
_SELECT = (
    *peers("local ports (tcpconnect's -P takes remote ones)", "--peer"),
    Option(
        ("-m", "--min-ms"),
        "trace only connections that waited at least this many milliseconds for accept()",
        parse_milliseconds,
        "MSEC",
        sets="least_ns",
    ),
    Option(
        ("-x", "--failed"),
        "trace only accepts that failed, for example because no file descriptor was left (EMFILE), "
        "and show the error (ERR); a call that finds no connection (EAGAIN) does not count",
        shows=("ERR",),
        enables=("failed",),
        disables=("accept",),
        excludes=("min_ms", "peer"),  # there is no connection
        group=TRACE,
    ),
    interval_with("-c"),
)
_COUNT = count_only("accepts by addresses and local port")
_COUNTS = Top(
    sums="clients",
    title="TCP accepts",
    columns=(
        Column("RADDR", "raddr", 15),
        Column("LADDR", "laddr", 15),
        Column("LPORT", "lport", 5),
        Column("WAIT(ms)", "waited", 12),
        Column("ACCEPTS", "accepts", 10),
    ),
    options=(*(option._replace(shows=()) for option in _SELECT), _COUNT),
    short={"uid": "-u"},
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="accepts",
    columns=(
        *WHO,
        Column("IP", "ip", 2),
        Column("RADDR", "raddr", 15),
        Column("RPORT", "rport", 5),
        Column("LADDR", "laddr", 15),
        Column("LPORT", "lport", 5),
        Column("WAIT(ms)", "wait", 8),
        Column("BL", "backlog", 4, hidden=True),
        Column("BLMAX", "backlog_max", 5, hidden=True),
        Column("ERR", "ret", 12, kind="errno", hidden=True),
    ),
    options=(
        *_SELECT,
        _COUNT._replace(as_shape=_COUNTS),
        PRINT_UID,
        Option(
            ("--backlog",),
            "show how many connections still wait for accept(), and how many may (BL, BLMAX)",
            shows=("BL", "BLMAX"),
        ),
    ),
    short={"uid": "-u"},
    stack=True,
    container=True,
    examples=(
        ("tcpaccept", "trace all accepts, of MPTCP as well"),
        ("tcpaccept -t -P 80,443", "trace accepts of web servers, with times"),
        ("tcpaccept --backlog -m 10", "show what waited 10 ms, and the queues"),
        ("tcpaccept -x", "show accepts that fail, and why"),
        ("tcpaccept --peer 10.0.0.0/8 -p 1234", "trace one process and one network"),
        ("tcpaccept -c -i 10", "count accepts, report every ten seconds"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

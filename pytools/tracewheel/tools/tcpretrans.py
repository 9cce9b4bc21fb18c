# SPDX-License-Identifier: BSD-2-Clause
"""Trace TCP retransmits: of which connection and process, and why."""

from __future__ import annotations

from tracewheel.runtime.spec.common import PRINT_UID, count_only, interval_with
from tracewheel.runtime.spec.net import ENDS
from tracewheel.runtime.spec.shapes import Column, Option, Stream, Top

_OVERHEAD = (
    "Each retransmit takes 1 to 3 microseconds longer, and each read from a TCP socket 0.1. A\n"
    "  connection to the same machine takes about 1 microsecond longer for both of its ends.\n"
    "  Where the kernel refuses fentry, every system call takes 40 to 60 ns longer. The start\n"
    "  takes 0.3 microseconds longer for each file that is open on the machine."
)
_WITHOUT_FUNCTIONS = (
    "whose a socket is that io_uring has accepted is not known until it is read or closed"
)
_RUNGS = {"accepted__tp_btf": _WITHOUT_FUNCTIONS, "accepted__raw_tp": _WITHOUT_FUNCTIONS}
_SELECT = (
    *ENDS,
    Option(
        ("-l", "--tlp"),
        "trace tail loss probes that send new data as well: T is P for these, and else R for a "
        "retransmit, L for a tail loss probe that sends old data again, or S for a SYN-ACK",
        enables=("loss_probe",),
    ),
    interval_with("-c", "--interval"),
)
_COUNT = count_only("retransmits by connection")
_COUNTS = Top(
    sums="flows",
    title="TCP retransmits",
    columns=(
        Column("LADDR", "laddr", 15),
        Column("LPORT", "lport", 5),
        Column("RADDR", "raddr", 15),
        Column("RPORT", "rport", 5),
        Column("PROBES", "probes", 10),
        Column("FAILED", "failed", 10),
        Column("RETRANSMITS", "retransmits", 11),
    ),
    options=(*_SELECT, _COUNT),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="retransmits",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PID", "pid", 7),
        Column("UID", "uid", 6, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("IP", "ip", 2, hidden=True),
        Column("LADDR", "laddr", 15),
        Column("LPORT", "lport", 5),
        Column(
            "T",
            "type",
            1,
            help="R: a retransmit, L: a tail loss probe of old data, P: of new data, S: a SYN-ACK",
        ),
        Column("RADDR", "raddr", 15),
        Column("RPORT", "rport", 5),
        Column("STATE", "state", 11),
        Column("ERR", "ret", 3, kind="errno"),
        Column("SEQ", "seq", 10, hidden=True),
        Column("BYTES", "bytes", 6, hidden=True),
        Column("SEGMENTS", "segments", 8, hidden=True),
        Column("CA", "ca_state", 8, hidden=True),
        Column("RTO(ms)", "rto", 10, hidden=True),
        Column("RTT(ms)", "rtt", 8, hidden=True),
        Column("CWND", "cwnd", 6, hidden=True),
        Column("SSTHRESH", "ssthresh", 8, hidden=True),
        Column("UNACKED", "unacked", 7, hidden=True),
    ),
    options=(
        *_SELECT,
        _COUNT._replace(as_shape=_COUNTS),
        Option(
            ("-s", "--state"),
            "show the state of congestion control as well: its name (CA), the timeout (RTO) and "
            "the round trip time (RTT) in ms, and in segments the congestion window (CWND), the "
            "slow start threshold (SSTHRESH) and what is not acknowledged (UNACKED)",
            shows=("CA", "RTO(ms)", "RTT(ms)", "CWND", "SSTHRESH", "UNACKED"),
        ),
        Option(
            ("-S", "--sequence"),
            "show what is sent: the sequence number, and how many bytes in how many segments",
            shows=("SEQ", "BYTES", "SEGMENTS"),
        ),
        Option(
            ("-C", "--print-comm"),
            "show the command name of the process that owns the socket (COMM)",
            shows=("COMM",),
        ),
        Option(
            ("--stack",),
            "show the kernel's stack of each retransmit: a timer, or an acknowledgement that came",
            sets="with_stack",
            shows=("STACK",),
        ),
        PRINT_UID._replace(help="show the user's id that the socket has (UID)"),
    ),
    stack=True,
    container=True,
    examples=(
        ("tcpretrans", "trace all retransmits"),
        ("tcpretrans -s", "show the state of congestion control as well"),
        ("tcpretrans -i 192.168.1.1", "trace connections with one host"),
        ("tcpretrans -P 443 -6", "trace connections with one port, by IPv6"),
        ("tcpretrans -c --interval 10", "count by connection, report every ten seconds"),
        ("tcpretrans --stack -p 1234", "trace one process, and show the kernel's stacks"),
    ),
    overhead=_OVERHEAD,
    skips_in_rows=("owner", "accepted"),
    rungs=_RUNGS,
)

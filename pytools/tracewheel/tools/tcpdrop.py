# SPDX-License-Identifier: BSD-2-Clause
"""Trace TCP packets that the kernel drops: which, why, by which stack."""

from __future__ import annotations

import os
import struct

from tracewheel.runtime.host import drop_reasons
from tracewheel.runtime.host.errors import TargetGone, UsageError
from tracewheel.runtime.spec.arguments import parse_count, parse_process
from tracewheel.runtime.spec.common import count_only, interval_with
from tracewheel.runtime.spec.net import ENDS
from tracewheel.runtime.spec.shapes import DIAGNOSIS, SHOW, Column, Option, Stream, Top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_REASONS_MOST = 64  # REASONS_MOST of tcpdrop.bpf.c
_NETNS_MOST = 2**32 - 1


def _netns_of(text: str) -> int:
    """Return the number of the network namespace of a process."""
    pid = parse_process(text)
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError as error:
        raise TargetGone(f"cannot find the namespace of process {pid}: {error.strerror}") from None


def _listed(name: str) -> Callable[[tuple[tuple[int, ...], ...]], dict[str, object]]:
    """Return a function that fills an array of reasons from all lists that were given."""

    def variables(lists: tuple[tuple[int, ...], ...]) -> dict[str, object]:
        reasons = sorted({reason for each in lists for reason in each})
        if len(reasons) > _REASONS_MOST:
            raise UsageError(f"expected up to {_REASONS_MOST} reasons, not {len(reasons)}")
        padding = [0] * (_REASONS_MOST - len(reasons))
        return {
            f"{name}_count": len(reasons),
            f"{name}_reasons": struct.pack(f"={_REASONS_MOST}I", *reasons, *padding),
        }

    return variables


_OVERHEAD = (
    "Each dropped packet takes 3 microseconds longer, or 0.5 to 1 without stacks, and a\n"
    "  dropped packet of another protocol 0.1. To know whose a socket is, each read from a\n"
    "  TCP socket takes 0.2 microseconds longer, and where the kernel refuses fentry every\n"
    "  system call about 50 ns."
)
_BEFORE_5_18 = (
    "before v5.18, what TCP itself drops is seen only where tcp_drop() can be probed; its reason "
    "is not known"
)
_RUNGS = {
    "drop__tp_btf": "before v6.11, the sockets of received packets are not known",
    "drop__fentry": _BEFORE_5_18,
    "drop__raw_tp": _BEFORE_5_18,
    "accepted__tp_btf": "accepts by io_uring are not seen before the process reads or closes",
    "accepted__raw_tp": "accepts by io_uring are not seen before the process reads or closes",
}
_SELECT = (
    Option(
        ("--reason",),
        "trace only drops for these reasons, such as NO_SOCKET,TCP_RESET; may be repeated",
        drop_reasons.parse,
        "LIST",
        sets=_listed("wanted"),
        repeat=True,
    ),
    Option(
        ("--no-reason",),
        "leave out drops for these reasons; may be repeated",
        drop_reasons.parse,
        "LIST",
        sets=_listed("unwanted"),
        repeat=True,
    ),
    *ENDS,
    interval_with("-c or -f", "--interval"),
    Option(
        ("--netns-id",),
        "trace only this network namespace, given by its number as in /proc/PID/ns/net",
        lambda text: parse_count(text, 1, _NETNS_MOST),
        "N",
        sets="wanted_netns",
    ),
    Option(
        ("--pid-netns",),
        "trace only the network namespace of this process",
        _netns_of,
        "PID",
        passes_to="netns_id",
        excludes=("netns_id",),
    ),
    Option(
        ("-l", "--list"),
        "print the reasons that this kernel knows, and exit",
        lists=drop_reasons.listed,
        group=DIAGNOSIS,
    ),
)
_COUNT = count_only("drops by reason")
_COUNT_FLOWS = Option(
    ("-f", "--by-flow"),
    "count drops by reason, addresses and ports instead of showing each",
    sets="count_flows",
    group=SHOW,
)
_SUMS = (Column("REASON", "reason", 25), Column("DROPS", "drops", 10))
_BY_REASON = Top(
    sums="kinds",
    title="TCP drops",
    columns=_SUMS,
    options=(*_SELECT, _COUNT),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)
_BY_FLOW = Top(
    sums="flows",
    title="TCP drops",
    columns=(
        Column("SADDR", "saddr", 15),
        Column("SPORT", "sport", 5),
        Column("DADDR", "daddr", 15),
        Column("DPORT", "dport", 5),
        *_SUMS,
    ),
    options=(*_SELECT, _COUNT_FLOWS),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="drops",
    columns=(
        Column("TIME", "time", 8, kind="clock"),
        Column("PID", "pid", 7, hidden=True),
        Column("COMM", "comm", 16, hidden=True),
        Column("IP", "ip", 2, hidden=True),
        Column("SADDR", "saddr", 15),
        Column("SPORT", "sport", 5),
        Column("DADDR", "daddr", 15),
        Column("DPORT", "dport", 5),
        Column("STATE", "state", 11, hidden=True),
        Column("FLAGS", "flags", 7),
        Column("NETNS", "netns", 10, hidden=True),
        Column("CODE", "code", 6, hidden=True),
        Column("REASON", "reason", 0),
    ),
    options=(
        *_SELECT,
        _COUNT._replace(as_shape=_BY_REASON),
        _COUNT_FLOWS._replace(as_shape=_BY_FLOW),
        Option(
            ("-C", "--print-comm"),
            "show the process that owns the socket (PID, COMM)",
            shows=("PID", "COMM"),
        ),
        Option(
            ("-s", "--state"),
            "show the state of the socket that the packet belongs to (STATE)",
            shows=("STATE",),
        ),
    ),
    kernel_stack=True,
    root="reason",
    container=True,
    skips_in_rows=("owner", "accepted"),
    examples=(
        ("tcpdrop", "trace all drops, with stacks"),
        ("tcpdrop --no-stack", "show a line for each drop"),
        ("tcpdrop -sC", "show the state and the process of each socket as well"),
        ("tcpdrop --reason NO_SOCKET", "trace packets that nobody listens for"),
        ("tcpdrop --no-reason TCP_RESET", "leave out resets of connections"),
        ("tcpdrop -P 443 -i 10.0.0.0/8", "trace packets of one port and network"),
        ("tcpdrop -c --interval 10", "count drops by reason, report every ten seconds"),
        ("tcpdrop --by-flow", "count drops by reason, addresses and ports"),
        ("tcpdrop --flame drops.svg", "draw a flame graph of the drops, by reason"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
    notes=(
        "A connection that a listening socket turns away because its queue is full is no drop for "
        "the kernel, which takes the packet and does not answer: nstat shows such connections as "
        "TcpExtListenOverflows.",
    ),
)

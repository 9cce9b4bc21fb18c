# SPDX-License-Identifier: BSD-2-Clause
"""The options that tools have in common."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.arguments import (
    parse_cgroup,
    parse_comm,
    parse_count,
    parse_processes,
    parse_seconds,
    parse_target,
    parse_thread,
    parse_user,
)
from tracewheel.runtime.spec.shapes import (
    DIAGNOSIS,
    LIMITS,
    PICTURES,
    SHOW,
    STOP,
    Column,
    Counts,
    Histogram,
    Option,
    Stacks,
    Stream,
    Top,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.spec.shapes import Shape

TIME_COLUMNS = (
    Column("TIME(s)", "time", 14, kind="seconds", hidden=True),
    Column("TIME", "time", 8, kind="clock", hidden=True),
)
STACK_COLUMNS = (
    Column("STACK", "stack", 0, hidden=True),
    Column("USER_STACK", "user_stack", 0, hidden=True),
)
_KERNEL_STACK = Column("STACK", "stack", 0)
CONTAINER_COLUMN = Column("CONTAINER", "cgroup", 16, kind="container", hidden=True)
# The value of hist_scale of hist.bpf.h for each unit: 2**30 divided by the ns or bytes in the unit.
UNITS = {"usecs": 1_073_742, "msecs": 1_074, "kbytes": 1 << 20, "bytes": 1 << 30}
_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RING_BYTES_MOST = 1 << 31


def columns_of(tool: Shape) -> tuple[Column, ...]:
    """Return every column of a tool, with those that the runtime adds."""
    if isinstance(tool, (Histogram, Stacks)):
        return ()
    columns = list(tool.columns)
    own = {column.header for column in columns}
    times = [column for column in TIME_COLUMNS if column.header not in own]
    if getattr(tool, "container", True):
        # In a Stream it is before the column of unlimited width; in tables of keys it is the first.
        with_width = [column for column in columns if column.width]
        place = len(with_width) if isinstance(tool, Stream) else 0
        columns.insert(place, CONTAINER_COLUMN)
    stacks: tuple[Column, ...] = ()
    if isinstance(tool, Stream) and tool.stack:
        stacks = STACK_COLUMNS
    elif isinstance(tool, Stream) and tool.kernel_stack:
        stacks = (_KERNEL_STACK,)
    return (*times, *columns, *stacks)


def parse_bytes(text: str) -> int:
    """Return the size of a ring in bytes, given as 65536, 512K or 8M.

    The kernel wants a power of two and whole pages. Raises UsageError.
    """
    digits = text
    factor = 1
    if text and text[-1].upper() in _FACTORS:
        digits = text[:-1]
        factor = _FACTORS[text[-1].upper()]
    size = parse_count(digits, 1, _RING_BYTES_MOST) * factor
    page = os.sysconf("SC_PAGESIZE")
    is_power_of_two = size & (size - 1) == 0
    if not is_power_of_two or not page <= size <= _RING_BYTES_MOST:
        raise UsageError(f"expected a power of two from {page} to 2G, not {text!r}")
    return size


def _parse_entries(text: str) -> int:
    return parse_count(text, 1)


def _parse_stacks(text: str) -> int:
    return parse_count(text, 1, 2**20)


def _parse_sample_rate(text: str) -> int:
    return parse_count(text, 1, 2**32 - 1)


# These two import slow modules, and only when their options are given.
def _parse_baseline(path: str) -> Any:
    from tracewheel.runtime.spec.alerts import parse_baseline

    return parse_baseline(path)


def _parse_condition(text: str) -> Any:
    from tracewheel.runtime.spec.alerts import parse_condition

    return parse_condition(text)


def _parse_container(text: str) -> tuple[int, int]:
    from tracewheel.runtime.host.containers import find_container

    return find_container(text)


def _filter_processes(pids: tuple[int, ...]) -> dict[str, Any]:
    # Several processes are listed in the map ``followed``.
    return {"filter_pid": pids[0]} if len(pids) == 1 else {"filter_listed": True}


def _filter_cgroup(value: tuple[int, int]) -> dict[str, int]:
    return {"filter_cgroup": value[0], "filter_cgroup_level": value[1]}


WHO = (
    Option(
        ("-p", "--pid"),
        "trace only this process, or several such as 1234,1240; stop when the last one has ended",
        parse_processes,
        "PID",
        sets=_filter_processes,
    ),
    Option(
        ("--follow",),
        "with -p, trace the descendants of these processes as well",
        sets="filter_follow",
        enables=("follow",),
    ),
    Option(("--tid",), "trace only this thread", parse_thread, "TID", sets="filter_tid"),
    Option(
        ("--uid",),
        "trace only processes of this user, given by number or name",
        parse_user,
        "USER",
        sets="filter_uid",
    ),
    Option(
        ("--comm",),
        "trace only processes with this command name (its first 15 bytes count)",
        parse_comm,
        "NAME",
        sets="filter_comm",
    ),
    Option(
        ("--cgroup",),
        "trace only processes in this cgroup or below it, given by path or id",
        parse_cgroup,
        "PATH|ID",
        sets=_filter_cgroup,
    ),
    Option(
        ("--container",),
        "trace only processes in this container or systemd unit, given by name or id",
        _parse_container,
        "NAME|ID",
        sets=_filter_cgroup,
        excludes=("cgroup",),
    ),
)
_DURATION = Option(
    ("--duration",), "stop after this many seconds", parse_seconds, "SEC", group=STOP
)
_DEBUG = Option(
    ("--debug",),
    "show the messages of libbpf and of the kernel's verifier, and tracebacks",
    group=DIAGNOSIS,
)
_COMMON = (
    *WHO,
    Option(("--include-self", "--self"), "include the events of this tool itself"),
    Option(("-t", "--timestamps"), "show seconds since the start", shows=("TIME(s)",)),
    Option(("-T", "--time"), "show the time of day", shows=("TIME",)),
    Option(
        ("-j", "--json"),
        "print a JSON object per line with raw values, and a summary at the end",
        group=SHOW,
    ),
    Option(("-o", "--output"), "write to FILE instead of standard output", str, "FILE", group=SHOW),
    _DURATION,
    Option(
        ("--max-entries",),
        "set how many entries each hash map in the kernel can hold",
        _parse_entries,
        "N",
        group=LIMITS,
    ),
    Option(
        ("--explain",),
        "print the ways of tracing that this kernel allows, and exit",
        group=DIAGNOSIS,
    ),
    _DEBUG,
    Option(("--rung",), "", str, "LADDER=RUNG", repeat=True, group=DIAGNOSIS),
    Option(
        ("-d",),
        "without a number, the same as --debug; with one, the same as --duration",
        parse_seconds,
        "SEC",
        optional=True,
        switches_on="debug",
        passes_to="duration",
        group=STOP,
    ),
)
_NOT_SEEN = "say what the ways of tracing in use do not see"
# What -v shows depends on the shape.
_VERBOSE = {
    Stream: f"show all columns but those for stacks and times, and {_NOT_SEEN}",
    Histogram: f"print a row for each slot of the histogram, and {_NOT_SEEN}",
    Counts: _NOT_SEEN,
    Top: _NOT_SEEN,
    Stacks: f"show the offset of each frame in its function, and {_NOT_SEEN}",
}
_COLUMNS = (
    Option(("--no-header",), "do not print the header line", group=SHOW),
    Option(
        ("--columns",),
        "show these columns in this order, separated by commas",
        str,
        "LIST",
        group=SHOW,
    ),
)
_INTERVAL = Option(
    ("-i", "--interval"), "print a report every SEC seconds", parse_seconds, "SEC", group=STOP
)
_BUFFER = Option(
    ("--buffer-size",),
    "set the size of the ring buffer in bytes, such as 8M",
    parse_bytes,
    "SIZE",
    group=LIMITS,
)
_STACK = Option(
    ("--stack",),
    "show the kernel and user stack of each event",
    sets="with_stack",
    shows=("STACK", "USER_STACK"),
)
_STACK_UNASKED = (
    _STACK._replace(help="show the kernel stack of each event (the default)", shows=(), group=SHOW),
    Option(("--no-stack",), "do not show stacks", hides=("STACK",)),
)
_PICTURES = {
    "flame": "a flame graph of the stacks (SVG)",
    "folded": "the stacks in folded form, one per line,",
    "speedscope": "the stacks as a profile for speedscope",
}
PICTURE_FILES = tuple(_PICTURES)
_BY_STACK = tuple(
    Option(
        (f"--{name}",),
        f"at exit, write {what} to FILE; with -, print it instead of rows",
        parse_target,
        "FILE",
        group=PICTURES,
    )
    for name, what in _PICTURES.items()
)
_REPORTS = (
    Option(
        ("--heatmap",),
        "at exit, write a heat map of the intervals (SVG) to FILE",
        parse_target,
        "FILE",
        group=PICTURES,
    ),
    Option(
        ("--baseline",),
        "compare each report with FILE, which --json wrote earlier",
        _parse_baseline,
        "FILE",
        group=PICTURES,
    ),
    Option(
        ("--alert",),
        "exit with status 10 if a report meets this condition, such as 'p99>10ms' (pNN, max, "
        "avg or count); may be repeated",
        _parse_condition,
        "CONDITION",
        repeat=True,
        group=PICTURES,
    ),
)
_OF_STACKS = (
    Option(
        ("-u", "--user-stacks"), "take user stacks as well as kernel stacks", sets="user_stacks"
    ),
    Option(
        ("-U", "--user-stacks-only"),
        "take only user stacks",
        sets=lambda _: {"user_stacks": True, "kernel_stacks": False},
    ),
    Option(
        ("-K", "--kernel-stacks-only"),
        "take only kernel stacks (the default)",
        sets=lambda _: {"user_stacks": False, "kernel_stacks": True},
    ),
    Option(
        ("-f", "--fold"),
        "print the stacks in folded form: a line for each, outermost frame first, with its "
        "microseconds",
        group=SHOW,
    ),
    Option(("--delimited",), "separate kernel frames from user frames", group=SHOW),
    Option(("-s", "--offsets"), "show the offset of each frame in its function", group=SHOW),
    Option(
        ("--stack-storage-size",),
        "set how many different stacks can be kept (default: 16384)",
        _parse_stacks,
        "N",
        group=LIMITS,
    ),
)
_SAMPLE = Option(
    ("--sample-rate",), "trace only one event in N", _parse_sample_rate, "N", sets="sample_rate"
)
_SUM = Option(
    ("-e", "--extension"), "show the average and the total as well", sets="hist_summed", group=SHOW
)
_TIME_UNITS = (
    Option(("-u", "--microseconds"), "show microseconds (the default)", group=SHOW),
    Option(("-m", "--milliseconds"), "show milliseconds", group=SHOW),
)
PER_CONTAINER = Option(
    ("--per-container",),
    'add a CONTAINER column: "-" outside containers, "?" if the container is gone',
    sets="with_cgroup",
    shows=("CONTAINER", "cgroup"),
)
_HISTOGRAMS_PER_CONTAINER = PER_CONTAINER._replace(
    help='print a histogram for each container: "-" outside containers, "?" if it is gone'
)
_STACKS_PER_CONTAINER = PER_CONTAINER._replace(
    help='sum up each container separately: "-" outside containers, "?" if it is gone'
)
_OF_SHAPE = {
    Stream: (*_COLUMNS, _BUFFER),
    Histogram: (_SUM, *_REPORTS, _INTERVAL, _HISTOGRAMS_PER_CONTAINER, *_TIME_UNITS),
    Counts: (*_COLUMNS, _INTERVAL),
    Top: (*_COLUMNS, _INTERVAL, PER_CONTAINER),
    Stacks: (_INTERVAL, _STACKS_PER_CONTAINER, *_OF_STACKS, *_BY_STACK),
}
# Options of tools that have this member, and for which it is true.
_IF_TRUE = {
    "stack": (_STACK, *_BY_STACK),
    "kernel_stack": (*_STACK_UNASKED, *_BY_STACK),
    "sampled": (_SAMPLE,),
    "container": (PER_CONTAINER,),
}


def _by_container(tool: Counts) -> Top:
    """Return the table of the same sums with a row for each container."""
    return Top(
        sums=f"{tool.sums}_by",
        title=tool.title,
        columns=tool.columns[1:],
        overhead=tool.overhead,
        by=slice(None),
        options=tool.options,
        short=tool.short,
        rungs=tool.rungs,
    )


def _shared_options(tool: Shape) -> list[Option]:
    """Return the options that a tool has because of its shape."""
    verbose = Option(("-v", "--verbose"), _VERBOSE[type(tool)], group=SHOW)
    shared = [*_COMMON, verbose, *_OF_SHAPE[type(tool)]]
    for member, some in _IF_TRUE.items():
        if getattr(tool, member, False):
            shared += some
    if isinstance(tool, Top):
        most = f"show at most N rows (default: {tool.top or 'all'}); JSON always has all"
        shared.append(Option(("--top",), most, parse_count, "N", default=tool.top, group=SHOW))
    if isinstance(tool, Counts):
        shared.append(PER_CONTAINER._replace(as_shape=_by_container(tool)))
    if isinstance(tool, Histogram) and "msecs" not in tool.units:
        shared = [option for option in shared if option not in _TIME_UNITS]
    return shared


def options_of(tool: Shape) -> tuple[Option, ...]:
    """Return every option of a tool, its own first.

    A shared option lacks the flags that the tool uses for its own options or gives to others.
    """
    claimed = {flag for option in tool.options for flag in option.flags}
    claimed.update(tool.short.values())
    options = list(tool.options)
    for option in _shared_options(tool):
        short = tool.short.get(option.dest)
        flags = tuple(flag for flag in option.flags if flag not in claimed)
        if flags:
            options.append(option._replace(flags=(short, *flags) if short else flags))
    return tuple(options)

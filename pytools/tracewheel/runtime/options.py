# SPDX-License-Identifier: BSD-2-Clause
"""The options that tools have in common, and what a set of options asks for."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tracewheel.runtime import glob, kernel
from tracewheel.runtime.errors import UsageError
from tracewheel.runtime.meaning import later
from tracewheel.runtime.shapes import (
    WITH_COLUMNS,
    Column,
    Counts,
    Histogram,
    Option,
    Shape,
    Stacks,
    Stream,
    Top,
)

_TIMES = (
    Column("TIME(s)", "time", 14, kind="seconds", hidden=True),
    Column("TIME", "time", 8, kind="clock", hidden=True),
)
_STACKS = (
    Column("STACK", "stack", 0, hidden=True),
    Column("USER_STACK", "user_stack", 0, hidden=True),
)
_CONTAINER = Column("CONTAINER", "cgroup", 16, kind="container", hidden=True)
# hist_scale of hist.bpf.h for each unit of a histogram: of values in ns, and in bytes.
UNITS = {"usecs": 1_073_742, "msecs": 1_074, "kbytes": 1 << 20}


def columns_of(tool: Shape) -> tuple[Column, ...]:
    """Return every column of a tool, those that the runtime adds included."""
    if isinstance(tool, (Histogram, Stacks)):
        return ()
    columns = list(tool.columns)
    own = {column.header for column in columns}
    times = [column for column in _TIMES if column.header not in own]
    # Before what has no end; before all where it tells rows apart.
    before = columns if isinstance(tool, Stream) else []
    if getattr(tool, "container", True):
        columns.insert(len([column for column in before if column.width]), _CONTAINER)
    stacks = _STACKS if isinstance(tool, Stream) and tool.stack else ()
    return (*times, *columns, *stacks)


def parse_bytes(text: str) -> int:
    """Return a size such as 65536, 512K or 8M; a ring's is a power of two of whole pages."""
    digits, factor = text, 1
    if text[-1:].upper() in ("K", "M", "G"):
        digits, factor = text[:-1], 1024 ** ("KMG".index(text[-1].upper()) + 1)
    size = kernel.parse_count(digits, 1, 2**31) * factor
    page = os.sysconf("SC_PAGESIZE")
    if size < page or size & (size - 1) or size > 2**31:
        raise UsageError(f"expected a power of two from {page} to 2G, not {text!r}")
    return size


def _cgroup(value: tuple[int, int]) -> dict[str, int]:
    return {"filter_cgroup": value[0], "filter_cgroup_level": value[1]}


_WHO = (
    Option(("-p", "--pid"), "only this process", kernel.parse_process, "PID", sets="filter_pid"),
    Option(("--follow",), "with -p: also all processes that descend from it",
           sets="filter_follow", enables=("follow",)),
    Option(("--tid",), "only this thread", kernel.parse_thread, "TID", sets="filter_tid"),
    Option(("--uid",), "only this user, by number or name", kernel.parse_user, "USER",
           sets="filter_uid"),
    Option(("--comm",), "only processes of this name (15 bytes count)", kernel.parse_comm, "NAME",
           sets="filter_comm"),
    Option(("--cgroup",), "only processes in this cgroup or below it", kernel.parse_cgroup,
           "PATH|ID", sets=_cgroup),
    Option(("--container",), "only processes in this container, or systemd unit",
           later("containers", "parse_container"), "NAME|ID", sets=_cgroup),
)  # fmt: skip
_COMMON = (
    *_WHO,
    Option(("--self",), "include this tool's own events"),
    Option(("-v", "--verbose"), "show more: all columns, or all slots of a histogram"),
    Option(("-t", "--timestamps"), "show seconds since the start", shows=("TIME(s)",)),
    Option(("-T", "--time"), "show the time of day", shows=("TIME",)),
    Option(("-j", "--json"), "print JSON lines: raw values, then a summary object"),
    Option(("-o", "--output"), "write to FILE instead of standard output", str, "FILE"),
    Option(("--duration",), "stop after this many seconds", kernel.parse_seconds, "SEC"),
    Option(("--max-entries",), "entries that each hash map can hold",
           lambda text: kernel.parse_count(text, 1), "N"),
    Option(("--explain",), "tell which ways of tracing this kernel allows, and exit"),
    Option(("--debug",), "show what libbpf and the verifier say, and tracebacks"),
    Option(("--rung",), "", str, "LADDER=RUNG", repeat=True),
    Option(("-d",), "as --debug; with a number as --duration", kernel.parse_seconds, "SEC",
           optional=True, means=("debug", "duration")),
)  # fmt: skip
_COLUMNS = (
    Option(("--no-header",), "leave the header line out"),
    Option(("--columns",), "show these columns, in this order", str, "LIST"),
)
_INTERVAL = Option(("-i", "--interval"), "report each time so many seconds have passed",
                   kernel.parse_seconds, "SEC")  # fmt: skip
_BUFFER = Option(("--buffer-size",), "bytes of the ring buffer, such as 8M", parse_bytes, "SIZE")
_STACK = Option(("--stack",), "show the kernel and user frames of each event",
                sets="with_stack", shows=("STACK", "USER_STACK"))  # fmt: skip
_FILES = ("flame", "folded", "speedscope")
_FOLDED = tuple(
    Option((f"--{name}",), f"count by stack and write {what} in the end; - instead of rows",
           later("output", "parse_target"), "FILE")
    for name, what in zip(_FILES, ("a flame graph (SVG)", "folded stacks", "a speedscope profile"))
)  # fmt: skip
_REPORTS = (
    Option(("--heatmap",), "draw the intervals as a heat map (SVG) in the end",
           later("output", "parse_target"), "FILE"),
    Option(("--baseline",), "compare with what --json wrote at another time",
           later("compare", "parse_baseline"), "FILE"),
    Option(("--alert",), "exit with 10 if a report has, say, 'p99>10ms'; also with pNN, max, avg, "
           "count; may be repeated", later("compare", "parse_condition"), "CLAIM", repeat=True),
)  # fmt: skip
_BY_STACK = (
    Option(("-u", "--user-stacks"), "take the stacks of programs, too", sets="user_stacks"),
    Option(("-U", "--user-stacks-only"), "take the stacks of programs, not the kernel's",
           sets=lambda _: {"user_stacks": True, "kernel_stacks": False}),
    Option(("-K", "--kernel-stacks-only"), "take the kernel's stacks only, as is done anyway",
           sets=lambda _: {"user_stacks": False, "kernel_stacks": True}),
    Option(("-f", "--fold"), "print a line a stack, outermost frame first, and its microseconds"),
    Option(("--delimited",), "put a line or frame between the kernel's and the program's frames"),
    Option(("-s", "--offsets"), "show how far into its function each frame is"),
    Option(("--stack-storage-size",), "different stacks that can be kept (default: 16384)",
           lambda text: kernel.parse_count(text, 1, 2**20), "N"),
)  # fmt: skip
_SAMPLE = Option(("--sample-rate",), "trace one event in N",
                 lambda text: kernel.parse_count(text, 1, 2**32 - 1), "N",
                 sets="sample_rate")  # fmt: skip
_SUM = Option(("-e", "--extension"), "show the average and the total, too", sets="hist_summed")
_TIME_UNITS = (
    Option(("-u", "--microseconds"), "show microseconds (the default)"),
    Option(("-m", "--milliseconds"), "show milliseconds"),
)
_PER_CONTAINER = Option(("--per-container",), "tell containers apart; -: none, ?: it is gone",
                        sets="with_cgroup", shows=("CONTAINER", "cgroup"))  # fmt: skip
_OF_SHAPE = {
    Stream: (*_COLUMNS, _BUFFER),
    Histogram: (_SUM, *_REPORTS, _INTERVAL, _PER_CONTAINER, *_TIME_UNITS),
    Counts: (*_COLUMNS, _INTERVAL),
    Top: (*_COLUMNS, _INTERVAL, _PER_CONTAINER),
    Stacks: (_INTERVAL, _PER_CONTAINER, *_BY_STACK, *_FOLDED),
}
# What those tools have that say so.
_IF_TRUE = {"stack": (_STACK, *_FOLDED), "sampled": (_SAMPLE,), "container": (_PER_CONTAINER,)}


def _by_container(tool: Counts) -> Top:
    """Return the table that tells apart, by containers, what a row of sums does not."""
    return Top(f"{tool.sums}_by", tool.title, tool.columns[1:], tool.overhead, by=slice(None),
               options=tool.options, short=tool.short, rungs=tool.rungs)  # fmt: skip


def options_of(tool: Shape) -> tuple[Option, ...]:
    """Return every option of a tool, its own first; a flag that it claims is its own."""
    shared = [*_COMMON, *_OF_SHAPE[type(tool)]]
    shared += [o for name, some in _IF_TRUE.items() if getattr(tool, name, False) for o in some]
    if isinstance(tool, Top):
        most = f"rows of a table (default: {tool.top or 'all'}); JSON always has all"
        shared.append(Option(("--top",), most, kernel.parse_count, "N", default=tool.top))
    if isinstance(tool, Counts):
        shared.append(_PER_CONTAINER._replace(becomes=_by_container(tool)))
    if isinstance(tool, Histogram) and "msecs" not in tool.units:
        shared = [option for option in shared if option not in _TIME_UNITS]
    claimed = {flag for option in tool.options for flag in option.flags}
    claimed.update(tool.short.values())
    options = list(tool.options)
    for option in shared:
        short = tool.short.get(option.dest)
        flags = tuple(flag for flag in option.flags if flag not in claimed)
        if flags:
            options.append(option._replace(flags=(short, *flags) if short else flags))
    return tuple(options)


def _shape_asked_for(tool: Shape, values: dict[str, Any]) -> Shape:
    """Return the shape that an option makes of a tool, if the other options go with it."""
    given = [o for o in options_of(tool) if values.get(o.dest, o.default) not in (None, o.default)]
    for option in given:
        if option.becomes:
            kept = {other.dest for other in options_of(option.becomes)}
            for other in given:
                if other.dest not in kept:
                    raise UsageError(f"{option.flags[-1]} goes not with {other.flags[-1]}")
            return option.becomes
    return tool


class Request:
    """What the options ask for: values by their names in Python, defaults where none is given."""

    def __init__(self, tool: Shape, values: dict[str, Any]) -> None:
        tool = _shape_asked_for(tool, values)
        self.tool = tool
        self.values = {option.dest: option.default for option in options_of(tool)}
        self.values.update(every=None, count=None)
        self.values.update(values)
        if self.every:
            if self.interval:
                raise UsageError("give the interval once")
            self.values["interval"] = self.every
        for option, value in self.given():
            if option.means:
                self.values[option.means[value is not option.optional]] = value
        if self.seconds is not None:
            self.values["duration"] = self.seconds
        if self.follow and not self.pid:
            raise UsageError("--follow needs -p, or a command")
        if self.cgroup and self.container:
            raise UsageError("give a cgroup or a container, not both")
        self.globs = self._compile_globs()
        self._check_files()
        if self.interval and self.duration and self.interval > self.duration:
            raise UsageError("the interval is longer than the duration")
        if isinstance(tool, WITH_COLUMNS):
            self.columns()  # raises what is wrong with them before anything is traced

    def _check_files(self) -> None:
        """Raise what is wrong with the options that name files."""
        files = [self.values[name] for name in _FILES if self.values.get(name)]
        self.by_stack, self.rowless = bool(files), "-" in files
        if files and "stack" in self.values:
            self.values["stack"] = True
        if files.count("-") + bool(self.rowless and self.json) > 1:
            raise UsageError("only one can be written to standard output: give the others a file")
        if self.heatmap and (self.heatmap == "-" or not self.interval):
            raise UsageError("--heatmap takes a file, and an interval: --heatmap FILE 1")
        if self.alert or self.baseline:
            import_module("tracewheel.runtime.compare").check(self)

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["values"].get(name)

    def given(self) -> list[tuple[Option, Any]]:
        """Return the options that differ from their defaults, with their values."""
        every = [(option, self.values[option.dest]) for option in options_of(self.tool)]
        return [(option, value) for option, value in every if value != option.default]

    def _compile_globs(self) -> list[tuple[str, glob.Glob]]:
        globs = [
            (option.globs, glob.compile_glob(value, whole=option.dest != "name"))
            for option, value in self.given()
            if option.globs
        ]
        if len(globs) > 1:
            raise UsageError("give one glob, not several")
        return globs

    def entries(self) -> dict[str, int]:
        """Return the maps that the options resize."""
        return {option.resizes: value for option, value in self.given() if option.resizes}

    def variables(self) -> dict[str, Any]:
        """Return the global variables of the BPF object that the options set."""
        own = kernel.TaskId(os.getpid())
        ret: dict[str, Any] = {} if self.self or self.pid == own else {"filter_self": own}
        for option, value in self.given():
            if callable(option.sets):
                ret.update(option.sets(value))
            elif option.sets:
                ret[option.sets] = value
        for _, compiled in self.globs:
            ret.update(compiled.variables)
        if isinstance(self.tool, Stream) and _CONTAINER in self.columns():
            ret["with_cgroup"] = True
        if isinstance(self.tool, Histogram):
            shown = {name for option, _ in self.given() for name in option.shows}
            ret["hist_keyed"] = not shown <= {column.header for column in _TIMES}
            ret["hist_scale"] = UNITS[self.unit]
        elif isinstance(self.tool, Stream) and self.tool.uprobes:
            name = "" if self.chosen_file else self.tool.uprobes.program
            ret["probed_program"] = os.fsencode(name).ljust(16, b"\0")
        return ret

    @property
    def chosen_file(self) -> str | None:
        """The only file to probe, if one was chosen."""
        uprobes = self.tool.uprobes if isinstance(self.tool, Stream) else None
        return self.values.get(uprobes.chosen) if uprobes else None

    @property
    def unit(self) -> str:
        """The unit that a histogram is shown in."""
        assert isinstance(self.tool, Histogram)
        return "msecs" if self.milliseconds else self.tool.units[0]

    def ladders_left_out(self, ladders: list[str]) -> set[str]:
        """Return the ladders that no given option enables though some option would."""
        enabled = {name for option, _ in self.given() for name in option.enables}
        optional = {name for option in options_of(self.tool) for name in option.enables}
        optional -= {name for option in self.tool.options for name in option.spares}
        if isinstance(self.tool, Histogram) and self.tool.judges:
            optional.add(self.tool.judges)
            if any(self.values[option.dest] is not None for option in (*_WHO, _PER_CONTAINER)):
                enabled.add(self.tool.judges)
        optional.update(name for option, _ in self.given() for name in option.spares)
        return {name for name in ladders if name in optional - enabled}

    def columns(self) -> tuple[Column, ...]:
        """Return the columns to show."""
        numbers = {option.renumbers: int(v) for option, v in self.given() if option.renumbers}
        every = tuple(
            column._replace(
                number=numbers.get(column.header, column.number),
                # With date and milliseconds.
                width=23 if column.kind == "clock" and column.header in numbers else column.width,
            )
            for column in columns_of(self.tool)
        )
        shown = {header for option, _ in self.given() for header in option.shows}
        hidden = {header for option, _ in self.given() for header in option.hides}
        if not isinstance(self.tool, Stream):  # others have no column that nobody fills
            every = tuple(c for c in every if c.header in shown or not c.hidden)
            every = tuple(c for c in every if c.header not in hidden)
        if self.values.get("columns") is not None:
            names = {"seconds" if c.header == "TIME(s)" else c.name: c for c in every}
            wanted = [name.strip().lower() for name in self.values["columns"].split(",")]
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise UsageError(f"no column {unknown[0]!r}: there are {', '.join(names)}")
            return tuple(names[name] for name in wanted)
        if self.verbose:
            unasked = {column.header for column in (*_STACKS, *_TIMES)}
            shown |= {column.header for column in every} - unasked
        return tuple(c for c in every if c.header in shown or not c.hidden)

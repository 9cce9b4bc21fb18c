# SPDX-License-Identifier: BSD-2-Clause
"""What a tool is: a declared value of one of these shapes."""

from __future__ import annotations

from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Union


# The groups of options in the help, in its order.
TRACE = "what to trace"
SHOW = "what to show"
STOP = "when to report and to stop"
PICTURES = "pictures and comparisons"
LIMITS = "limits"
DIAGNOSIS = "diagnosis"
GROUPS = (TRACE, SHOW, STOP, PICTURES, LIMITS, DIAGNOSIS)


class Option(Record):
    """An option of a command, and what it changes.

    ``parse`` turns the argument's text into a value, or raises BpfError; an option without it is
    a switch. ``sets`` names the global variable of the BPF object that takes the value, or maps
    the value to several of them.
    """

    flags: tuple[str, ...]
    help: str  # an option without help is not shown in the help
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    default: Any = None
    sets: str | Callable[[Any], Mapping[str, Any]] | None = None
    shows: tuple[str, ...] = ()  # columns, or members of a histogram's key, that appear with it
    hides: tuple[str, ...] = ()  # columns, or members of a histogram's key, that disappear with it
    enables: tuple[str, ...] = ()  # ladders that are climbed only with it
    disables: tuple[str, ...] = ()  # ladders that are not climbed with it, unless another enables
    as_shape: Shape | None = None  # what the tool is with it
    only_with: str = ""  # option, by its name in Python, without which it is refused
    excludes: tuple[str, ...] = ()  # options, by their names in Python, with which it is refused
    only_if: Callable[[Any], bool] | None = None  # for which values it enables, disables, excludes
    lists: Callable[[], Iterable[str]] | None = None  # lines to print instead of tracing
    numbers_column: str = ""  # header of the column whose ``number`` it sets
    globs: str = ""  # member whose text the argument, a glob, must match
    repeat: bool = False  # may be given again; the values form a tuple
    optional: Any = None  # value when the option is given without argument
    switches_on: str = ""  # option that it stands for when it is given without argument
    passes_to: str = ""  # option that takes its argument
    resizes: str = ""  # map whose number of entries it sets
    group: str = ""  # of the help; if it is empty, ``heading`` derives it

    @property
    def dest(self) -> str:
        """The name in Python: of the first long flag."""
        long = [flag for flag in self.flags if flag.startswith("--")]
        return (long or list(self.flags))[0].lstrip("-").replace("-", "_")

    @property
    def heading(self) -> str:
        """The group of the help that it belongs to."""
        shows = self.shows or self.hides or self.as_shape or self.numbers_column
        return self.group or (SHOW if shows else TRACE)


class Column(Record):
    """A column of a table: header, member of the record, and how it is shown.

    ``kind`` overrides how the member's type is shown: it names a table of runtime.show.meaning, or
    a member of enum shim_kind. What ``number`` means depends on the kind: for a span, it is the
    number of ns in the unit, and for a rate, what is counted as one.
    """

    header: str
    member: str
    width: int
    kind: str = ""
    number: int = 0
    hidden: bool = False  # only shown by an option or by --columns
    help: str = ""  # what it means, if spec/headers.py does not say it of all with this header

    @property
    def name(self) -> str:
        """The name of the column in --columns."""
        return self.header.lower().split("(")[0].split("/")[0]


class Uprobes(Record):
    """Functions of programs and libraries, probed in every process that has them.

    Programs of the sections uprobe and uretprobe, or of the same with ".multi", are attached to
    them, once in each file. A program LADDER__RUNG__FUNCTION is attached to the function that may
    have that name, one without this part to all functions.
    """

    functions: tuple[tuple[str, ...], ...]  # names of each; the first one that a file has is used
    caveats: Mapping[str, str] = {}  # by the name of a function: what is lost if it is used
    # Name of the program's file; others are not probed, nor their libraries. Without it, only
    # libraries are probed, those of any program.
    program: str = ""
    libraries: tuple[str, ...] = ()  # beginnings of file names, if the program has no function
    usual: tuple[str, ...] = ()  # files that are probed before any process runs them
    file_option: str = ""  # option that names the only file to probe, for any program


class Stream(Record):
    """A line for each record of a ring."""

    ring: str
    columns: tuple[Column, ...]
    overhead: str
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()  # command lines, and what they do
    short: Mapping[str, str] = {}  # short flags for common options: {"uid": "-u"}
    pending: tuple[str, ...] = ()  # maps of what has begun: its records, then their tails
    skips_in_rows: tuple[str, ...] = ()  # ladders whose skipped programs are visible in the rows
    repeats: str = ""  # map of repeat.bpf.h: it counts events that are not shown, like others
    stack: bool = False
    kernel_stack: bool = False  # the record has no user stack; the other is shown unasked
    root: str = "comm"  # member of the record that is the outermost frame in pictures
    container: bool = False  # the record has a member cgroup, filled where with_cgroup is set
    sampled: bool = False
    uprobes: Uprobes | None = None
    notes: tuple[str, ...] = ()  # what its rows mean, and what they do not tell; for the manual
    # By ladder or ladder__rung: what it does not see, or why a ladder has no other rung.
    rungs: Mapping[str, str] = {}


class Histogram(Record):
    """Distributions: one of all events, or one for each key.

    An option that makes a histogram for each value of some members of the key ``shows`` them. The
    keys of this and of each shape below have a member cgroup, which is filled if with_cgroup is
    set.
    """

    histograms: str  # name of the map; that by key is called NAME_by
    title: str  # "block device I/O": what the banner says is traced
    overhead: str
    units: tuple[str, ...] = ("usecs", "msecs")
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    by: tuple[str, ...] = ()  # members of the key by which histograms differ without any option
    sampled: bool = False
    owner_ladder: str = ""  # ladder that knows who acts, climbed for options that need to know
    rungs: Mapping[str, str] = {}


class Counts(Record):
    """A row of sums for each interval, or for each container in it.

    The map is made by ROW of count.bpf.h. The first column is the time.
    """

    sums: str  # name of the map
    title: str
    columns: tuple[Column, ...]
    overhead: str
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    rungs: Mapping[str, str] = {}


class Digest(Record):
    """What a tool makes of all rows of its tables, to be printed behind the last one."""

    text: str  # whole lines
    json: Mapping[str, Any]  # the same as an object of its own, with --json


class Top(Record):
    """A table for each interval: a row of sums for each key, the greatest first."""

    sums: str
    title: str
    columns: tuple[Column, ...]
    overhead: str
    indexed: tuple[str, str] | None = None  # array beside the map; member of the key, its index
    pending: str = ""  # map of what has begun; it is counted when it ends
    by: slice = slice(-1, None)  # the sums, of those shown, that sort the rows: the last one
    top: int = 0  # rows of a table without --top; 0 stands for all rows
    digest: Callable[[list[Any]], Digest] | None = None  # of the rows, as the library has them
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    rungs: Mapping[str, str] = {}


class Stacks(Record):
    """Time, summed up by the thread that spent it and by its stack: kernel frames, user's or both.

    The maps are those of stacks.bpf.h. The key of a sum has the members pid, tid, comm,
    kernel_stack and user_stack.
    """

    sums: str  # name of the map
    begins: str  # map of what has begun: the time when, or 0 if it has ended, then a key of a sum
    title: str
    overhead: str
    stacks: str = "stacks"
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    rungs: Mapping[str, str] = {}


if TYPE_CHECKING:
    Shape = Union[Stream, Histogram, Counts, Top, Stacks]
WITH_COLUMNS = (Stream, Counts, Top)
WITH_INTERVALS = (Histogram, Counts, Top)

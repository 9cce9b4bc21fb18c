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

    ``parse`` turns the argument's text into a value and raises BpfError; without it the option is
    a switch. ``sets`` names the global variable of the BPF object that takes the value, or maps
    the value to several of them.
    """

    flags: tuple[str, ...]
    help: str  # without any, the option is not shown
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    default: Any = None
    sets: str | Callable[[Any], Mapping[str, Any]] | None = None
    shows: tuple[str, ...] = ()  # columns, or members of a histogram's key, that appear with it
    hides: tuple[str, ...] = ()  # columns that disappear with it
    enables: tuple[str, ...] = ()  # ladders that are climbed only with it
    disables: tuple[str, ...] = ()  # ladders that are not climbed with it, unless another enables
    as_shape: Shape | None = None  # what the tool is with it
    lists: Callable[[], Iterable[str]] | None = None  # lines that it prints instead of tracing
    numbers_column: str = ""  # header of the column whose ``number`` it sets
    globs: str = ""  # member whose text the argument, a glob, must match
    repeat: bool = False  # may be given again; the values form a tuple
    optional: Any = None  # value when the option is given without argument
    switches_on: str = ""  # option that it stands for when it is given without argument
    passes_to: str = ""  # option that takes its argument
    resizes: str = ""  # map whose number of entries it sets
    group: str = ""  # of the help; see ``heading``

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

    ``kind`` overrides what the member's type says: a table of runtime.meaning or an enum shim_kind.
    ``number`` is the kind's own: ns in the unit of a span, say.
    """

    header: str
    member: str
    width: int
    kind: str = ""
    number: int = 0
    hidden: bool = False  # shown by an option or by --columns

    @property
    def name(self) -> str:
        """What --columns calls it."""
        return self.header.lower().split("(")[0].split("/")[0]


class Uprobes(Record):
    """Functions of user space, probed wherever a process has them, in each file once.

    All programs of the sections uprobe and uretprobe, or these with ".multi", are attached to each
    of the functions.
    """

    functions: tuple[tuple[str, ...], ...]  # of each, the first name that a file defines
    caveats: Mapping[str, str] = {}  # of a name: what is lost where it has to do
    program: str = ""  # only of programs whose file has this name
    libraries: tuple[str, ...] = ()  # where the program defines none: a mapped file named so...
    usual: tuple[str, ...] = ()  # files that are probed before any process has them
    file_option: str = ""  # option whose argument is the only file to probe, for any program


class Stream(Record):
    """A line for each record of a ring."""

    ring: str
    columns: tuple[Column, ...]
    overhead: str
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()  # command line, what it does
    short: Mapping[str, str] = {}  # short flags for common options: {"uid": "-u"}
    pending: tuple[str, ...] = ()  # maps of what has begun: by one key a record, and its tail
    skips_in_rows: tuple[str, ...] = ()  # ladders whose skipped programs show in the rows
    stack: bool = False
    container: bool = False  # the record has a member cgroup, filled where with_cgroup is set
    sampled: bool = False
    uprobes: Uprobes | None = None
    rungs: Mapping[str, str] = {}  # ladder or ladder__rung: what accuracy it lacks, or why so few


class Histogram(Record):
    """Distributions: one of all events, or one for each key.

    An option ``shows`` the members of the key by which it tells histograms apart. A key of this
    and of each shape below has a member cgroup, filled where with_cgroup is set.
    """

    histograms: str  # name of the maps
    title: str  # "block device I/O": what the banner says is traced
    overhead: str
    units: tuple[str, ...] = ("usecs", "msecs")
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    sampled: bool = False
    owner_ladder: str = ""  # ladder that knows who acts: climbed where an option asks for that
    rungs: Mapping[str, str] = {}


class Counts(Record):
    """A row of sums for each interval, or for each container: a map of ROW in count.bpf.h.

    The first column is the time.
    """

    sums: str  # name of the map
    title: str
    columns: tuple[Column, ...]
    overhead: str
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    rungs: Mapping[str, str] = {}


class Top(Record):
    """A table for each interval: a row of sums for each key, the greatest first."""

    sums: str
    title: str
    columns: tuple[Column, ...]
    overhead: str
    indexed: tuple[str, str] | None = None  # map beside it; member of the key that is its index
    pending: str = ""  # map of what has begun and is not counted before it ends
    by: slice = slice(-1, None)  # which of the sums that are shown sort the rows: the last one
    top: int = 0  # rows of a table, unless --top says otherwise; 0: all
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    rungs: Mapping[str, str] = {}


class Stacks(Record):
    """Time, summed up by who spent it and by stack: the kernel's frames, the program's, or both.

    The maps are those of stacks.bpf.h. The key of a sum has the members pid, tid, comm,
    kernel_stack and user_stack. An element of ``begins`` is a time, 0 when it is over, and such
    a key.
    """

    sums: str  # name of the map
    begins: str
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

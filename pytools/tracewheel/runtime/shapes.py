# SPDX-License-Identifier: BSD-2-Clause
"""What a tool is: a declared value of one of these shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Union

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Option(NamedTuple):
    """An option of a command, and what it changes.

    ``parse`` turns the argument's text into a value and raises BpfError; without it the option is
    a switch. ``sets`` names the global variable of the BPF object that takes the value, or maps
    the value to several of them.
    """

    flags: tuple[str, ...]
    help: str
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    default: Any = None
    sets: str | Callable[[Any], Mapping[str, Any]] | None = None
    shows: tuple[str, ...] = ()  # columns, or members of a histogram's key, that appear with it
    enables: tuple[str, ...] = ()  # ladders that are climbed only with it
    renumbers: str = ""  # column whose number it sets
    globs: str = ""  # member whose text the argument, a glob, must match
    repeat: bool = False  # may be given again; the values form a tuple
    optional: Any = None  # value when the option is given without argument

    @property
    def dest(self) -> str:
        """The name in Python: of the first long flag."""
        long = [flag for flag in self.flags if flag.startswith("--")]
        return (long or list(self.flags))[0].lstrip("-").replace("-", "_")


class Column(NamedTuple):
    """A column of a table: header, member of the record, and how it is shown.

    ``kind`` overrides what the member's type says: one of runtime.meaning.KINDS. ``number`` is the
    kind's own: ns in the unit of a span, say.
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
        return self.header.lower().split("(")[0]


class Stream(NamedTuple):
    """A line for each record of a ring."""

    ring: str
    columns: tuple[Column, ...]
    overhead: str
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()  # command line, what it does
    short: Mapping[str, str] = {}  # short flags for common options: {"uid": "-u"}
    stack: bool = False
    sampled: bool = False
    rungs: Mapping[str, str] = {}  # ladder or ladder__rung: what accuracy it lacks, or why so few


class Histogram(NamedTuple):
    """Distributions: one of all events, or one for each key.

    An option ``shows`` the members of the key by which it tells histograms apart.
    """

    histograms: str  # name of the maps
    title: str  # "block device I/O": what the banner says is traced
    overhead: str
    units: tuple[str, ...] = ("usecs", "msecs")
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    short: Mapping[str, str] = {}
    sampled: bool = False
    judges: str = ""  # ladder that knows who acts: climbed with -p --tid --uid --comm --cgroup
    rungs: Mapping[str, str] = {}


Shape = Union[Stream, Histogram]

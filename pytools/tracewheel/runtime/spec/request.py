# SPDX-License-Identifier: BSD-2-Clause
"""The request that a set of options makes, and what follows from it for the BPF object."""

from __future__ import annotations

import os

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.host.processes import TaskId
from tracewheel.runtime.spec.options import (
    CONTAINER_COLUMN,
    PER_CONTAINER,
    PICTURE_FILES,
    STACK_COLUMNS,
    TIME_COLUMNS,
    UNITS,
    WHO,
    columns_of,
    options_of,
)
from tracewheel.runtime.spec.shapes import (
    WITH_COLUMNS,
    Column,
    Histogram,
    Option,
    Stream,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.spec.glob import Glob
    from tracewheel.runtime.spec.shapes import Shape

_DATE_WIDTH = 23  # of a date and a time with milliseconds


class Request:
    """The values of all options of a tool, and what follows from them.

    Each value is an attribute, named as the option is in Python: the default where none is given,
    and None for an option that the tool does not have. Raises UsageError for options that cannot
    be combined.
    """

    def __init__(self, tool: Shape, values: dict[str, Any]) -> None:
        self.tool = tool = _shape_asked_for(tool, values)
        self.values = {option.dest: option.default for option in options_of(tool)}
        self.values.update(every=None, count=None)
        self.values.update(values)
        self._check_pairs()
        self._apply_aliases()
        if self.follow and not self.pids:
            raise UsageError("--follow needs a process: add -p PID, or put a command behind --")
        if self.interval and self.duration and self.interval > self.duration:
            raise UsageError("the interval is longer than the duration: give a shorter --interval")
        self._check_needs()
        self.globs = self._compile_globs()
        files = [self.values[name] for name in PICTURE_FILES if self.values.get(name)]
        self.by_stack = bool(files)
        self.without_rows = "-" in files  # standard output is used for a picture
        self._check_files(files)
        self._check_reports()
        if isinstance(tool, WITH_COLUMNS):
            self.columns()  # raises UsageError for a wrong --columns before anything is traced

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["values"].get(name)

    def _apply_aliases(self) -> None:
        """Give the values of options that stand for others to those others."""
        if self.every:
            if self.interval:
                raise UsageError("the interval is given twice: give it only once")
            self.values["interval"] = self.every
        if self.seconds is not None:
            self.values["duration"] = self.seconds
        if getattr(self.tool, "kernel_stack", False) and not self.no_stack:
            self.values["stack"] = True
        for option, value in self.given():
            if option.switches_on and value is option.optional:
                self.values[option.switches_on] = value
            elif option.passes_to:
                self.values[option.passes_to] = value

    def _check_files(self, files: list[str]) -> None:
        if files and "stack" in self.values:
            self.values["stack"] = True  # what pictures of a stream are made of
        has_json_as_well = self.without_rows and self.json
        if files.count("-") > 1 or has_json_as_well:
            raise UsageError(
                "only one thing can be written to standard output: give a file for the others"
            )
        if self.heatmap and (self.heatmap == "-" or not self.interval):
            raise UsageError("--heatmap takes a file and an interval: --heatmap FILE 1")

    def _check_pairs(self) -> None:
        """Refuse options that contradict each other."""
        given = {option.dest: option for option, _ in self.given()}
        for option in self._given_if():
            what = f"{option.flags[-1]}{' with this value' if option.only_if else ''}"
            for other in option.excludes:
                if other in given:
                    flag = given[other].flags[-1]
                    raise UsageError(
                        f"{what} cannot be combined with {flag}: give only one of them"
                    )

    def _check_needs(self) -> None:
        """Refuse options that would change nothing, because another one is not given."""
        if self.interval and isinstance(self.tool, Stream):
            flags = " or ".join(o.flags[0] for o in self.tool.options if o.as_shape)
            raise UsageError(f"--interval is for reports: add {flags}")
        every = {option.dest: option for option in options_of(self.tool)}
        for option, _ in self.given():
            if option.only_with and not self.values[option.only_with]:
                needed = every[option.only_with].flags[0]
                raise UsageError(f"{option.flags[-1]} works only with {needed}: add {needed}")

    def _check_reports(self) -> None:
        if not self.alert and not self.baseline:
            return
        from tracewheel.runtime.spec.alerts import check_units

        check_units(self.alert or (), self.baseline or {}, self.unit)
        if any(condition.what == "avg" for condition in self.alert or ()):
            self.values["extension"] = True

    def given(self) -> list[tuple[Option, Any]]:
        """Return the options that differ from their defaults, with their values."""
        every = [(option, self.values[option.dest]) for option in options_of(self.tool)]
        return [(option, value) for option, value in every if value != option.default]

    def _given_if(self) -> list[Option]:
        """Return the options that are given, without those whose ``only_if`` denies their value."""
        return [o for o, value in self.given() if not o.only_if or o.only_if(value)]

    def _compile_globs(self) -> list[tuple[str, Glob]]:
        """Return globs, each with the member whose text it must match."""
        given = [(option, value) for option, value in self.given() if option.globs]
        if not given:
            return []
        if len(given) > 1:
            raise UsageError("only one glob can be given at a time")
        from tracewheel.runtime.spec import glob

        option, pattern = given[0]
        return [(option.globs, glob.compile_glob(pattern, whole=option.dest != "name"))]

    def entries(self) -> dict[str, int]:
        """Return the maps that the options resize, with their numbers of entries."""
        return {option.resizes: value for option, value in self.given() if option.resizes}

    def variables(self) -> dict[str, Any]:
        """Return the global variables of the BPF object that the options set."""
        own = TaskId(os.getpid())
        ret: dict[str, Any] = {}
        if not self.include_self and own not in self.pids:
            ret["filter_self"] = own
        for option, value in self.given():
            if callable(option.sets):
                ret.update(option.sets(value))
            elif option.sets:
                ret[option.sets] = value
        for _, compiled in self.globs:
            ret.update(compiled.variables)
        ret.update(self._variables_of_shape())
        return ret

    def _variables_of_shape(self) -> dict[str, Any]:
        if isinstance(self.tool, Histogram):
            return {"hist_by_key": bool(self.key_members), "hist_scale": UNITS[self.unit]}
        ret: dict[str, Any] = {}
        if isinstance(self.tool, Stream) and self.tool.repeats and self.by_stack:
            ret["with_repeats"] = True
        if isinstance(self.tool, Stream) and CONTAINER_COLUMN in self.columns():
            ret["with_cgroup"] = True
        if isinstance(self.tool, Stream) and self.tool.uprobes:
            program = "" if self.chosen_file else self.tool.uprobes.program
            ret["probed_program"] = os.fsencode(program).ljust(16, b"\0")
        return ret

    @property
    def pids(self) -> tuple[TaskId, ...]:
        """The processes that -p names."""
        return self.pid or ()

    @property
    def chosen_file(self) -> str | None:
        """The only file to probe, if one was chosen."""
        uprobes = self.tool.uprobes if isinstance(self.tool, Stream) else None
        return self.values.get(uprobes.file_option) if uprobes else None

    @property
    def key_members(self) -> set[str]:
        """The members of the key by which histograms differ."""
        assert isinstance(self.tool, Histogram)
        given = [option for option, _ in self.given()]
        shown = {name for option in given for name in option.shows}
        hidden = {name for option in given for name in option.hides}
        times = {column.header for column in TIME_COLUMNS}
        return ({*self.tool.by} - hidden | shown) - times

    @property
    def unit(self) -> str:
        """The unit that a histogram is shown in."""
        assert isinstance(self.tool, Histogram)
        return "msecs" if self.milliseconds else self.tool.units[0]

    def ladders_left_out(self, ladders: list[str]) -> set[str]:
        """Return those of the ladders that are not climbed for this request.

        A ladder is left out if it needs an option that is not given, or if an option that is given
        disables it and none enables it.
        """
        given = self._given_if()
        enabled = {name for option in given for name in option.enables}
        optional = {name for option in options_of(self.tool) for name in option.enables}
        # A ladder that some option disables is climbed without any option.
        optional -= {name for option in self.tool.options for name in option.disables}
        optional |= {name for option in given for name in option.disables}
        owner = self.tool.owner_ladder if isinstance(self.tool, Histogram) else ""
        if owner:
            optional.add(owner)
            if any(self.values[option.dest] is not None for option in (*WHO, PER_CONTAINER)):
                enabled.add(owner)
        return {name for name in ladders if name in optional - enabled}

    def flags_that_enable(self, ladder: str) -> str:
        """Return the flags, of the options that are given, for which a ladder is climbed."""
        return " or ".join(o.flags[0] for o, _ in self.given() if ladder in o.enables)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns to show."""
        every = self._numbered_columns()
        shown = {header for option, _ in self.given() for header in option.shows}
        # A Stream may show any of its columns. The programs of other tools fill a hidden column
        # only with the option that shows it, so nothing else may show it.
        if not isinstance(self.tool, Stream):
            every = [c for c in every if c.header in shown or not c.hidden]
        hidden = {header for option, _ in self.given() for header in option.hides}
        every = [c for c in every if c.header not in hidden]
        if self.values.get("columns") is not None:
            return _chosen_columns(every, self.values["columns"])
        if self.verbose:
            unasked = {column.header for column in (*STACK_COLUMNS, *TIME_COLUMNS)}
            shown |= {column.header for column in every} - unasked
        return tuple(c for c in every if c.header in shown or not c.hidden)

    @property
    def stacks(self) -> set[str]:
        """The members with stacks that are asked for, or shown unasked."""
        given = [option for option, _ in self.given()]
        shown = {header for option in given for header in option.shows}
        hidden = {header for option in given for header in option.hides}
        headers = {column.header for column in STACK_COLUMNS}
        return {
            column.member
            for column in columns_of(self.tool)
            if column.header in headers - hidden and (column.header in shown or not column.hidden)
        }

    def _numbered_columns(self) -> list[Column]:
        """Return all columns, with the numbers that options set for some of them."""
        numbers = {
            option.numbers_column: int(value)
            for option, value in self.given()
            if option.numbers_column
        }
        columns = []
        for column in columns_of(self.tool):
            if column.header in numbers:
                column = column._replace(number=numbers[column.header])
                if column.kind == "clock":
                    column = column._replace(width=_DATE_WIDTH)
            columns.append(column)
        return columns


def _shape_asked_for(tool: Shape, values: dict[str, Any]) -> Shape:
    """Return the shape that a tool has with the options that are given.

    Raises UsageError if an option gives it another shape, which lacks another option.
    """
    given = [o for o in options_of(tool) if values.get(o.dest, o.default) not in (None, o.default)]
    for option in given:
        if not option.as_shape:
            continue
        kept = {other.dest for other in options_of(option.as_shape)}
        for other in given:
            if other.dest not in kept:
                raise UsageError(f"{option.flags[-1]} cannot be combined with {other.flags[-1]}")
        return option.as_shape
    return tool


def _chosen_columns(every: list[Column], text: str) -> tuple[Column, ...]:
    """Return the columns that --columns names, by their names or by their headers."""
    by_name = {"seconds" if c.header == "TIME(s)" else c.name: c for c in every}
    by_header = {column.header.lower(): column for column in every}
    known = {**by_header, **by_name}
    wanted = [name.strip().lower() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            names = ", ".join(_name_and_header(each, c.header) for each, c in by_name.items())
            raise UsageError(f"no column {name!r}: the columns are {names}")
    return tuple(known[name] for name in wanted)


def _name_and_header(name: str, header: str) -> str:
    """Return the name of a column, and its header if that is more than the name in capitals."""
    return name if name == header.lower() else f"{name} or {header}"

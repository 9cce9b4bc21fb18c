# SPDX-License-Identifier: BSD-2-Clause
"""What a set of options asks for."""

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
    """What the options ask for: values by their names in Python, defaults where none is given.

    Raises UsageError where options make no sense together.
    """

    def __init__(self, tool: Shape, values: dict[str, Any]) -> None:
        self.tool = tool = _shape_asked_for(tool, values)
        self.values = {option.dest: option.default for option in options_of(tool)}
        self.values.update(every=None, count=None)
        self.values.update(values)
        self._apply_aliases()
        if self.follow and not self.pids:
            raise UsageError("--follow needs -p, or a command")
        if self.cgroup and self.container:
            raise UsageError("give a cgroup or a container, not both")
        if self.interval and self.duration and self.interval > self.duration:
            raise UsageError("the interval is longer than the duration")
        self.globs = self._compile_globs()
        files = [self.values[name] for name in PICTURE_FILES if self.values.get(name)]
        self.by_stack = bool(files)
        self.without_rows = "-" in files  # standard output is taken
        self._check_files(files)
        self._check_reports()
        if isinstance(tool, WITH_COLUMNS):
            self.columns()  # raises what is wrong with them before anything is traced

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["values"].get(name)

    def _apply_aliases(self) -> None:
        """Give the values of options that stand for others to those others."""
        if self.every:
            if self.interval:
                raise UsageError("give the interval once")
            self.values["interval"] = self.every
        if self.seconds is not None:
            self.values["duration"] = self.seconds
        for option, value in self.given():
            if option.switches_on and value is option.optional:
                self.values[option.switches_on] = value
            elif option.passes_to:
                self.values[option.passes_to] = value

    def _check_files(self, files: list[str]) -> None:
        if files and "stack" in self.values:
            self.values["stack"] = True
        on_standard_output = files.count("-") + bool(self.without_rows and self.json)
        if on_standard_output > 1:
            raise UsageError("only one can be written to standard output: give the others a file")
        if self.heatmap and (self.heatmap == "-" or not self.interval):
            raise UsageError("--heatmap takes a file, and an interval: --heatmap FILE 1")

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

    def _compile_globs(self) -> list[tuple[str, Glob]]:
        """Return globs, each with the member whose text it must match."""
        given = [(option, value) for option, value in self.given() if option.globs]
        if not given:
            return []
        if len(given) > 1:
            raise UsageError("give one glob, not several")
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
            shown = {name for option, _ in self.given() for name in option.shows}
            times = {column.header for column in TIME_COLUMNS}
            return {"hist_by_key": not shown <= times, "hist_scale": UNITS[self.unit]}
        ret: dict[str, Any] = {}
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
    def unit(self) -> str:
        """The unit that a histogram is shown in."""
        assert isinstance(self.tool, Histogram)
        return "msecs" if self.milliseconds else self.tool.units[0]

    def ladders_left_out(self, ladders: list[str]) -> set[str]:
        """Return the ladders that no given option enables though some option would."""
        enabled = {name for option, _ in self.given() for name in option.enables}
        optional = {name for option in options_of(self.tool) for name in option.enables}
        # Without such an option they are climbed.
        optional -= {name for option in self.tool.options for name in option.disables}
        optional |= {name for option, _ in self.given() for name in option.disables}
        owner = self.tool.owner_ladder if isinstance(self.tool, Histogram) else ""
        if owner:
            optional.add(owner)
            if any(self.values[option.dest] is not None for option in (*WHO, PER_CONTAINER)):
                enabled.add(owner)
        return {name for name in ladders if name in optional - enabled}

    def columns(self) -> tuple[Column, ...]:
        """Return the columns to show."""
        every = self._numbered_columns()
        shown = {header for option, _ in self.given() for header in option.shows}
        if not isinstance(self.tool, Stream):  # others have no column that nobody fills
            hidden = {header for option, _ in self.given() for header in option.hides}
            every = [c for c in every if c.header in shown or not c.hidden]
            every = [c for c in every if c.header not in hidden]
        if self.values.get("columns") is not None:
            return _chosen_columns(every, self.values["columns"])
        if self.verbose:
            unasked = {column.header for column in (*STACK_COLUMNS, *TIME_COLUMNS)}
            shown |= {column.header for column in every} - unasked
        return tuple(c for c in every if c.header in shown or not c.hidden)

    def _numbered_columns(self) -> list[Column]:
        """Return all columns, those with their numbers of which an option sets it."""
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
    """Return the shape that an option makes of a tool, if it has the other options, too."""
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
    """Return the columns that --columns names."""
    by_name = {"seconds" if c.header == "TIME(s)" else c.name: c for c in every}
    wanted = [name.strip().lower() for name in text.split(",")]
    for name in wanted:
        if name not in by_name:
            raise UsageError(f"no column {name!r}: there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in wanted)

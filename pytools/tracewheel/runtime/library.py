# SPDX-License-Identifier: BSD-2-Clause
"""The tools as a library: the same options, and events and histograms as Python objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tracewheel.runtime.host.errors import BpfError, UsageError
from tracewheel.runtime.shapes import module_of
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.commandline import did_you_mean, positionals_of
from tracewheel.runtime.spec.options import options_of
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import PICTURES, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracewheel.runtime.spec.shapes import Option, Shape
    from tracewheel.runtime.trace.session import Session

# Options that only change what the command prints. The library has values, and all of them.
_FOR_PRINTING = (
    "json", "output", "columns", "no_header", "top", "time", "timestamps", "fold", "delimited",
    "explain",
)  # fmt: skip

Yielded = TypeVar("Yielded")  # an event, or the list that is a report
Row = TypeVar("Row")  # what a report is a list of


class Tracing(Generic[Yielded]):
    """A tool at work between entering and leaving the context.

    Iterating over a tool that shows events yields them, as objects of tracewheel.events. Iterating
    over any other tool needs the option ``interval``, and yields a list for each interval: of
    Histogram, of Stack, or of rows of tracewheel.events with the sums of that time.
    Raises BpfError where tracing fails, and NotPermitted without CAP_BPF and CAP_PERFMON.
    """

    def __init__(self, name: str, request: Request) -> None:
        self._name = name
        self._request = request
        self._session: Session | None = None
        self._reader: Any = None

    def __enter__(self) -> Tracing[Yielded]:
        from tracewheel.runtime.trace.session import Session

        self._session = Session(self._name, self._request).__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._session:
            self._session.close()

    def _tracing(self) -> Session:
        if not self._session:
            raise BpfError("not tracing: use trace() in a with statement")
        return self._session

    def __iter__(self) -> Iterator[Yielded]:
        if isinstance(self._request.tool, Stream):
            yield from module_of(self._request.tool).iterate(self._tracing(), self._request.tool)
            return
        from tracewheel.runtime.shapes.intervals import reports
        from tracewheel.runtime.show.output import Stop

        if not self._request.interval:
            raise UsageError("to iterate over reports, give an interval")
        for _ in reports(self._tracing(), None, Stop()):
            yield self._read(since_last=True)

    def read(self: Tracing[list[Row]], since_last: bool = False) -> list[Row]:
        """Return the histograms or stacks since the start, or since the last such reading.

        Rows of sums are always those since the last reading.
        """
        return list(self._read(since_last))

    def _read(self, since_last: bool) -> Any:
        tool = self._request.tool
        if isinstance(tool, Stream):
            raise UsageError("a stream has no reports: iterate over it")
        self._reader = self._reader or module_of(tool).Reader(self._tracing(), tool)
        return self._reader.read(since_last)

    def losses(self) -> dict[str, int]:
        """Return how many events were lost so far, by cause."""
        return self._tracing().losses()


def parameters_of(tool: Shape) -> list[Option]:
    """Return the options that trace() takes: those with a long name, and not just for printing."""
    return [
        option
        for option in options_of(tool)
        if option.help
        and any(flag.startswith("--") for flag in option.flags)
        and not _is_for_printing(option)
    ]


def names_of(option: Option) -> list[str]:
    """Return the names in Python of all long flags of an option."""
    long = [flag for flag in option.flags if flag.startswith("--")]
    return [flag.lstrip("-").replace("-", "_") for flag in long]


def _is_for_printing(option: Option) -> bool:
    is_picture = option.heading == PICTURES
    return option.dest in _FOR_PRINTING or is_picture or bool(option.lists)


class Tool:
    """A tool by its name: ``tracewheel.opensnoop``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape, self.__doc__ = load_tool(name)

    def __repr__(self) -> str:
        return f"<tool {self.name}: {self.__doc__}>"

    def trace(self, **values: Any) -> Tracing[Any]:
        """Return a context that traces with the options of the command, by their long names.

        ``trace(pid=1234, include_self=True)`` is ``--pid 1234 --include-self``. A value is what the
        command line takes, as text or as a number; a switch takes True, and so does an option whose
        argument may be left out. None and False are as if the option was not given. An option that
        takes a list or may be repeated takes a value, or several in a list or the like. Options
        that only change what the command prints are refused.

        Raises UsageError for what makes no sense, and TargetGone for a process or the like that
        does not exist.
        """
        # Events are made of what --json prints.
        parsed: dict[str, Any] = {"json": True}
        for name, value in values.items():
            if value is not None and value is not False:
                parsed[self._option_name(name)] = self._parse(name, value)
        return Tracing(self.name, Request(self.shape, parsed))

    def _options(self) -> dict[str, Option]:
        """Return the options by all names that they have: an option may have several long flags."""
        options = options_of(self.shape)
        by_name = {name: option for option in options for name in names_of(option)}
        return {**by_name, **{option.dest: option for option in options}}

    def _option_name(self, name: str) -> str:
        """Return the name by which a request knows an option; other names are as they were."""
        if name in {each.dest for each in positionals_of(self.shape)}:
            return name
        option = self._options().get(name)
        return option.dest if option else name

    def _parse(self, name: str, value: Any) -> Any:
        options = self._options()
        parsers = {each.dest: each.parse for each in positionals_of(self.shape)}
        if name in parsers:
            return parsers[name](str(value))
        if name not in options:
            raise UsageError(f"{self.name} has no option {name!r}{did_you_mean(name, options)}")
        if _is_for_printing(options[name]):
            raise UsageError(f"the option {name!r} only changes what {self.name} prints")
        parse = options[name].parse
        if not parse:
            return value
        if value is True and options[name].optional is not None:
            return options[name].optional
        is_several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        several = value if is_several else [value]
        if not options[name].repeat:
            return parse(",".join(map(str, several)))
        return tuple(parse(str(each)) for each in several)

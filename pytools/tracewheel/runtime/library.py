# SPDX-License-Identifier: BSD-2-Clause
"""The tools as a library: the same options, records and histograms as Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracewheel.runtime.host.errors import BpfError, UsageError
from tracewheel.runtime.shapes import module_of
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.commandline import did_you_mean, positionals_of
from tracewheel.runtime.spec.options import options_of
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracewheel.runtime.trace.session import Session


class Tracing:
    """A tool at work between entering and leaving the context.

    Iterating yields records of a Stream, or for each ``interval`` seconds a list: of Histogram, of
    Stack, or of rows with the sums of that time.
    Raises BpfError where tracing fails, and NotPermitted without CAP_BPF and CAP_PERFMON.
    """

    def __init__(self, name: str, request: Request) -> None:
        self._name = name
        self._request = request
        self._session: Session | None = None
        self._reader: Any = None

    def __enter__(self) -> Tracing:
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

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._request.tool, Stream):
            yield from module_of(self._request.tool).iterate(self._tracing(), self._request.tool)
            return
        from tracewheel.runtime.shapes.intervals import reports
        from tracewheel.runtime.show.output import Stop

        if not self._request.interval:
            raise UsageError("to iterate over reports, give an interval")
        for _ in reports(self._tracing(), None, Stop()):
            yield self.read(since_last=True)

    def read(self, since_last: bool = False) -> list[Any]:
        """Return the histograms or stacks since the start, or since the last such reading.

        Rows of sums are always those since the last reading.
        """
        tool = self._request.tool
        if isinstance(tool, Stream):
            raise UsageError("a stream has no reports: iterate over it")
        self._reader = self._reader or module_of(tool).Reader(self._tracing(), tool)
        found: list[Any] = self._reader.read(since_last)
        return found

    def losses(self) -> dict[str, int]:
        """Return how many events were lost so far, by cause."""
        return self._tracing().losses()


class Tool:
    """A tool by its name: ``tracewheel.opensnoop``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape, self.__doc__ = load_tool(name)

    def trace(self, **values: Any) -> Tracing:
        """Return a context that traces with the options of the command, by their long names.

        A value is what the command line takes, as text or as a number; switches take True. An
        option that may be repeated takes a value or several. Raises UsageError for what makes no
        sense, and TargetGone for a process or the like that does not exist.
        """
        # Objects are made of what --json prints.
        parsed: dict[str, Any] = {"json": True}
        for name, value in values.items():
            if value is not None and value is not False:
                parsed[name] = self._parse(name, value)
        return Tracing(self.name, Request(self.shape, parsed))

    def _parse(self, name: str, value: Any) -> Any:
        options = {option.dest: option for option in options_of(self.shape)}
        parsers = {each.dest: each.parse for each in positionals_of(self.shape)}
        if name in parsers:
            return parsers[name](str(value))
        if name not in options:
            raise UsageError(f"{self.name} has no option {name!r}{did_you_mean(name, options)}")
        parse = options[name].parse
        if not parse:
            return value
        several = value if isinstance(value, (list, tuple, set)) else [value]
        if not options[name].repeat:
            return parse(",".join(map(str, several)))
        return tuple(parse(str(each)) for each in several)

# SPDX-License-Identifier: BSD-2-Clause
"""Parse the command line of a tool by the options that it declares.

The parser of the standard library takes longer to import than a tool takes to start. It is only
used for the help and the man pages, which it makes of the same options.
"""

from __future__ import annotations

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.host.records import Record
from tracewheel.runtime.spec.arguments import parse_count, parse_seconds
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.options import options_of
from tracewheel.runtime.spec.shapes import WITH_INTERVALS, Stacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from tracewheel.runtime.spec.shapes import Option, Shape

# Options of bcc's and libbpf-tools' programs, and what to use instead.
_HABITS = {
    "--cgroupmap": "--cgroup PATH or --container NAME traces the processes of one cgroup",
    "--mntnsmap": "--container NAME traces the processes of one container",
    "--perf-max-stack-depth": "stacks are as deep as the kernel can make them (127 frames)",
    "--ebpf": "the BPF program is in bpf_src, and no compiler runs here",
    "--max-args": "all arguments are shown",
    "--exec": "put the command behind --",
}
# Words are similar if difflib finds this share of their letters alike: "duratoin", not "durable".
_SIMILAR = 0.75


class Positional(Record):
    """An argument without a flag, which may be left out."""

    dest: str
    metavar: str
    help: str
    parse: Callable[[str], Any]


def _parse_reports(text: str) -> int:
    return parse_count(text, 1)


def positionals_of(tool: Shape) -> tuple[Positional, ...]:
    """Return the positional arguments that a tool takes."""
    if isinstance(tool, WITH_INTERVALS):
        return (
            Positional("every", "interval", "seconds between reports", parse_seconds),
            Positional("count", "count", "how many reports to print", _parse_reports),
        )
    if isinstance(tool, Stacks):
        # It is not called duration, because it must not replace --duration if it is missing.
        return (Positional("seconds", "seconds", "the same as --duration", parse_seconds),)
    return ()


def parse_arguments(tool: Shape, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the options and positional arguments by their names in Python.

    Those that are not given are missing. Raises UsageError, or the error of a value's parser.
    """
    return _Parsing(tool, arguments).values


def asks_for(tool: Shape, arguments: Sequence[str], *flags: str) -> bool:
    """Tell whether one of the flags is among the arguments and is no option of the tool's own."""
    own = {flag for option in options_of(tool) for flag in option.flags}
    return any(each in flags and each not in own for each in arguments)


class _Parsing:
    def __init__(self, tool: Shape, arguments: Sequence[str]) -> None:
        self.values: dict[str, Any] = {}
        self._options = {flag: option for option in options_of(tool) for flag in option.flags}
        self._positionals = list(positionals_of(tool))
        self._rest = list(arguments)
        while self._rest:
            argument = self._rest.pop(0)
            if argument.startswith("--"):
                self._parse_long(argument)
            elif argument.startswith("-") and argument != "-":
                self._parse_short(argument)
            else:
                self._parse_positional(argument)

    def _parse_long(self, argument: str) -> None:
        flag, equals, text = argument.partition("=")
        option = self._options.get(flag)
        if not option:
            raise UsageError(self._explain_unknown(flag))
        if not equals:
            self._set_from_next(option, flag)
        elif option.parse:
            self._set(option, flag, text)
        else:
            raise UsageError(f"{flag} takes no argument: give it without =")

    def _parse_short(self, argument: str) -> None:
        """Parse -x, -xVALUE, or several short flags behind one dash."""
        flag, text = argument[:2], argument[2:]
        option = self._options.get(flag)
        if not option:
            raise UsageError(self._explain_unknown(flag if text else argument))
        if not text:
            self._set_from_next(option, flag)
        elif not option.parse:
            self._set_switch(option)
            self._parse_short(f"-{text}")
        elif option.optional is not None and self._are_flags(text):
            self._set_value(option, option.optional)
            self._parse_short(f"-{text}")
        else:
            self._set(option, flag, text.removeprefix("="))

    def _are_flags(self, text: str) -> bool:
        return all(f"-{letter}" in self._options for letter in text)

    def _parse_positional(self, argument: str) -> None:
        if not self._positionals:
            raise UsageError(self._explain_superfluous(argument))
        positional = self._positionals.pop(0)
        self.values[positional.dest] = positional.parse(argument)

    def _set_from_next(self, option: Option, flag: str) -> None:
        """Set an option whose argument, if it takes one, is the next word."""
        if not option.parse:
            self._set_switch(option)
            return
        word = self._rest[0] if self._rest else None
        is_flag = word is not None and word.startswith("-") and word != "-"
        if word is not None and not is_flag:
            self._set(option, flag, self._rest.pop(0))
        elif option.optional is not None:
            self._set_value(option, option.optional)
        else:
            raise UsageError(f"{flag} needs an argument: {flag} {option.metavar}")

    def _set(self, option: Option, flag: str, text: str) -> None:
        assert option.parse
        try:
            value = option.parse(text)
        except UsageError as error:
            raise UsageError(f"{flag}: {error}") from None
        self._set_value(option, value)

    def _set_switch(self, option: Option) -> None:
        self._set_value(option, True)

    def _set_value(self, option: Option, value: Any) -> None:
        if option.repeat:
            value = (*self.values.get(option.dest, ()), value)
        self.values[option.dest] = value

    def _explain_unknown(self, flag: str) -> str:
        if flag in _HABITS:
            return f"no option {flag}: {_HABITS[flag]}"
        if flag.startswith("--") and _is_of_another_tool(flag):
            return f"no option {flag}: other tools have it, but this one does not (try --help)"
        return f"no option {flag}{did_you_mean(flag, self._options)} (try --help)"

    def _explain_superfluous(self, argument: str) -> str:
        if argument.isdigit() and self.values.get("timestamps"):
            return (
                f"unexpected argument {argument!r}: -t shows timestamps; "
                f"use --tid {argument} for one thread"
            )
        return f"unexpected argument {argument!r} (try --help)"


def _is_of_another_tool(flag: str) -> bool:
    """Tell whether any tool has an option with this flag."""
    options = (option for name in tool_names() for option in options_of(load_tool(name)[0]))
    return any(flag in option.flags for option in options)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean WORD?" with the most similar known word, "" if none is similar.

    The dashes of flags are left out of the comparison, because they make all flags similar.
    """
    import difflib

    by_letters = {each.lstrip("-"): each for each in known}
    near = difflib.get_close_matches(word.lstrip("-"), by_letters, n=1, cutoff=_SIMILAR)
    return f": did you mean {by_letters[near[0]]}?" if near else ""

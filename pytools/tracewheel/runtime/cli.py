# SPDX-License-Identifier: BSD-2-Clause
"""The commands: parse, trace, report, and answer with the right exit code."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from tracewheel._version import __version__
from tracewheel.runtime.errors import BpfError, UsageError, say
from tracewheel.runtime.meaning import later
from tracewheel.runtime.shapes import WITH_INTERVALS, Shape, Stacks, Stream, module_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracewheel.runtime.command import Command
    from tracewheel.runtime.shapes import Option

_COMMAND = """command:
  {name} [OPTIONS] -- COMMAND [ARGUMENT ...]
  traces that command and all that descends from it, from its exec to its end, and
  exits as it does. Its output goes where the rows go: -o FILE keeps them apart."""
_ALERTED = 10
_EXIT = """exit status:
  0 done, or stopped by Ctrl-C     1 cannot trace, or cannot write
  2 wrong usage                    3 not permitted
  4 the kernel lacks something     5 what was asked for is not there
  10 an --alert was true of some report
"""
_TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")


def tool_names() -> list[str]:
    """Return the names of all tools."""
    return sorted(n[:-3] for n in os.listdir(_TOOLS) if n.endswith(".py") and n[0] != "_")


def load_tool(name: str) -> tuple[Shape, str]:
    """Return a tool and its one-line description."""
    module = importlib.import_module(f"tracewheel.tools.{name}")
    return module.tool, (module.__doc__ or "").strip()


# At a fixed width: to ask the terminal would import shutil for every run.
_formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=80)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (try --help)")


def _argument(option: Option) -> Callable[[str], Any]:
    """Wrap an option's parser: argparse would take its errors for its own."""
    parse = option.parse
    assert parse

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except UsageError as error:
            raise UsageError(f"{option.flags[-1]}: {error}") from None

    return parse_argument


def _columns(tool: Shape) -> str:
    """Return the columns of a table for the help."""
    from tracewheel.runtime.options import columns_of

    every = columns_of(tool)
    if not every:
        return ""
    shown = "  ".join(column.header for column in every if not column.hidden)
    hidden = "  ".join(column.header for column in every if column.hidden)
    return f"columns:\n  {shown}\n\ncolumns on request:\n  {hidden}\n\n"


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command, from which its help and its manual are made too."""
    if name == "tracewheel":
        return _tracewheel_parser()
    from tracewheel.runtime import kernel
    from tracewheel.runtime.options import options_of

    tool, description = load_tool(name)
    options = options_of(tool)
    short_help = not any("-h" in option.flags for option in options)
    examples = "\n".join(f"  {line:<36} {what}" for line, what in tool.examples)
    ret = _Parser(
        prog=name,
        description=description,
        epilog=f"{_columns(tool)}examples:\n{examples}\n\noverhead:\n  {tool.overhead}\n\n"
        + f"{_COMMAND.format(name=name)}\n\n{_EXIT}",
        formatter_class=_formatter,
        add_help=False,
        allow_abbrev=False,
    )
    ret.add_argument(*(["-h"] if short_help else []), "--help", action="help", help="show this")
    ret.add_argument("--version", action="version", version=f"{name} (tracewheel) {__version__}")
    for option in options:
        settings: dict[str, Any] = {"dest": option.dest, "help": option.help or argparse.SUPPRESS}
        if option.parse:
            settings.update(type=_argument(option), metavar=option.metavar, default=option.default)
            if option.repeat:
                settings["action"] = "append"
            if option.optional is not None:
                settings.update(nargs="?", const=option.optional)
        else:
            settings.update(action="store_const", const=True)
        ret.add_argument(*option.flags, **settings)
    if isinstance(tool, WITH_INTERVALS):
        ret.add_argument("every", metavar="interval", nargs="?", type=kernel.parse_seconds,
                         help="seconds a report")  # fmt: skip
        ret.add_argument("count", nargs="?", type=lambda text: kernel.parse_count(text, 1),
                         help="reports")  # fmt: skip
    if isinstance(tool, Stacks):
        # Of a name of its own: where it is not given it would undo --duration.
        ret.add_argument("seconds", nargs="?", type=kernel.parse_seconds, help="as --duration")
    return ret


def _parse(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    values = vars(parser(name).parse_args(arguments))
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def run_tool(name: str, arguments: Sequence[str]) -> int:
    """Run a tool as a command."""
    if "--" in arguments:
        at = list(arguments).index("--")
        return _run_with_command(name, arguments[:at], arguments[at + 1 :])
    values = _parse(name, arguments)
    if list(arguments) == ["-h"]:  # which is not its help, else that would have been all
        say(f"{name}: use --help for help")
    return _trace(name, values)


def _run_with_command(name: str, arguments: Sequence[str], words: Sequence[str]) -> int:
    values = _parse(name, arguments)
    if not words:
        raise UsageError("expected a command behind --")
    if values["pid"] is not None:
        raise UsageError("give -p or a command, not both")
    from tracewheel.runtime.command import Command

    with Command(name, list(words)) as command:
        values.update(pid=command.pid, follow=True)
        code = _trace(name, values, command)
    return code or command.code


def _trace(name: str, values: dict[str, Any], command: Command | None = None) -> int:
    from tracewheel.runtime.options import Request

    tool, _ = load_tool(name)
    request = Request(tool, values)
    tool = request.tool
    for option, _ in request.given():
        if option.lists:
            print(*option.lists(), sep="\n")
            return 0
    if request.explain:
        return int(later("doctor", "explain")(name, tool, request))
    from tracewheel.runtime import kernel, output, session

    with output.Stop(command.pid if command else 0) as stop:
        out = output.Output(request.output, stop)
        with session.Session(name, request) as tracing:
            for ladder, rung in tracing.taken.items():
                note = tool.rungs.get(f"{ladder}__{rung}")
                if note:
                    say(f"{name}: {ladder} by {rung}: {note}")
                if told := tracing.tell_missing(ladder):
                    say(f"{name}: {ladder} by {rung}: {told}")
            if kernel.in_pid_namespace():
                say(f"{name}: in a PID namespace: -p takes its ids, rows show those of the host")
            what = name if isinstance(tool, Stream) else tool.title
            say(f"Tracing {what}... Hit Ctrl-C to end.")
            if command:
                command.go()
            try:
                counts = module_of(tool).run(tracing, tool, out, stop)
                alerts = counts.pop("alerts", 0)
                _conclude(name, request, tracing, out, counts)
            except output.ReaderGone:
                return 0
    return _ALERTED if alerts else 0


def _conclude(name: str, request: Any, tracing: Any, out: Any, counts: dict[str, int]) -> None:
    """Say how many there were and how many were lost."""
    losses = tracing.losses()
    (what, seen), *others = counts.items()
    losses.update((cause, count) for cause, count in others if count)
    lost = sum(losses.values())
    if request.json:
        import json

        out.text(json.dumps({"summary": {what: seen, "lost": lost, "losses": losses}}) + "\n")
    why = ", ".join(f"{cause} {count}" for cause, count in losses.items())
    say(f"{name}: {seen} {what}, {lost} lost" + (f" ({why})" if why else ""))


def _tracewheel_parser() -> argparse.ArgumentParser:
    tools = "\n".join(f"  {name:<16} {load_tool(name)[1]}" for name in tool_names())
    ret = _Parser(
        prog="tracewheel",
        description="Run one of the tools, or see what this kernel offers them.",
        epilog=f"tools:\n{tools}\n\ndoctor tells how each tool would trace on this kernel.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ret.add_argument("--version", action="version", version=f"tracewheel {__version__}")
    ret.add_argument("command", metavar="TOOL|doctor", help="what to run; options may follow")
    return ret


def _run_tracewheel(arguments: Sequence[str]) -> int:
    """Run the command that holds all others."""
    if arguments and arguments[0] in tool_names():
        return run_tool(arguments[0], arguments[1:])
    if not arguments:
        _tracewheel_parser().print_help()
        return 0
    command = _tracewheel_parser().parse_args(arguments).command
    if command != "doctor":
        raise UsageError(f"no tool {command!r} (try tracewheel --help)")
    return int(later("doctor", "examine")())


def _open_standard_descriptors() -> None:
    """Give closed standard descriptors a harmless end, lest another file take their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR if fd != 1 else os.O_RDONLY)


def _print_out() -> None:
    """Print what is still held back, while its failure can be told."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries again when it ends
        if not isinstance(error, BrokenPipeError):
            raise BpfError(f"output: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by argv[0]; return its exit code."""
    _open_standard_descriptors()
    arguments = sys.argv[1:] if arguments is None else arguments
    name = os.path.basename(sys.argv[0])
    try:
        try:
            return run_tool(name, arguments) if name in tool_names() else _run_tracewheel(arguments)
        finally:
            _print_out()
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    except BpfError as error:
        if "--debug" in arguments:
            raise
        say(f"{name}: {error}")
        return error.code

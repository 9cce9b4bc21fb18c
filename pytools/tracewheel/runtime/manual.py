# SPDX-License-Identifier: BSD-2-Clause
"""The help of each command. The man pages are made from the same parsers."""

from __future__ import annotations

import argparse
import functools
import textwrap
from typing import TYPE_CHECKING, Any

from tracewheel._version import __version__
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import positionals_of
from tracewheel.runtime.spec.options import columns_of, options_of
from tracewheel.runtime.spec.shapes import GROUPS

if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Option, Shape

_COMMAND = """\
with a command behind --:
  Runs COMMAND, traces it and its descendants until it ends, and exits with its
  status. COMMAND writes to the same terminal as the rows: use -o FILE to
  separate them."""
_EXIT = """\
exit status:
  0   done, or stopped by Ctrl-C
  1   tracing failed, or the output could not be written
  2   the command line is wrong
  3   permission is missing
  4   the kernel lacks something that the tool needs
  5   the process, file, disk or cgroup asked for does not exist
  10  a report met the condition of an --alert"""
_TRACEWHEEL = """\
commands:
  tracewheel TOOL [OPTIONS]   run a tool; each is also a command of its own name
  tracewheel list             list the tools
  tracewheel help TOOL        show the help of a tool
  tracewheel doctor           tell which tools work on this machine, and why others do not
                              (--json for programs, -v for each way of tracing)

tools:
"""

# 80 columns on every terminal, because a man page has to be the same everywhere.
_WIDTH = 80
_formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=_WIDTH)


def version_of(name: str) -> str:
    """Return the line that --version prints."""
    return f"{name} (tracewheel) {__version__}" if name != "tracewheel" else f"{name} {__version__}"


def help_of(name: str) -> str:
    """Return the help of a command."""
    return parser(name).format_help()


def tool_list() -> str:
    """Return a line for each tool: its name, and what it does."""
    return "".join(f"  {name:<16} {load_tool(name)[1]}\n" for name in tool_names())


def parser(name: str) -> argparse.ArgumentParser:
    """Return a parser that knows the options of a command, as the man page needs it."""
    if name == "tracewheel":
        return _parser_of_tracewheel()
    tool, description = load_tool(name)
    ret = argparse.ArgumentParser(
        prog=name,
        usage=_usage(name, tool),
        description=description,
        epilog=_epilog(tool),
        formatter_class=_formatter,
        add_help=False,
        allow_abbrev=False,
    )
    for positional in positionals_of(tool):
        ret.add_argument(
            positional.dest, metavar=positional.metavar, nargs="?", help=positional.help
        )
    options = options_of(tool)
    for heading in GROUPS:
        group = ret.add_argument_group(heading)
        for option in options:
            if option.heading == heading:
                group.add_argument(*option.flags, **_settings(option))
    own = {flag for option in options for flag in option.flags}
    about = ret.add_argument_group("about this command")
    help_flags = [flag for flag in ("-h", "--help") if flag not in own]
    about.add_argument(*help_flags, action="help", help="show this help")
    about.add_argument("--version", action="version", help="show the version")
    return ret


def _usage(name: str, tool: Shape) -> str:
    places = "".join(f" [{each.metavar}" for each in positionals_of(tool))
    ends = "]" * len(positionals_of(tool))
    return f"{name} [OPTIONS]{places}{ends}\n       {name} [OPTIONS] -- COMMAND [ARGUMENT ...]"


def _settings(option: Option) -> dict[str, Any]:
    """Return the arguments by which argparse adds an option."""
    settings: dict[str, Any] = {"dest": option.dest, "help": option.help or argparse.SUPPRESS}
    if not option.parse:
        settings["action"] = "store_true"
        return settings
    settings["metavar"] = option.metavar
    if option.optional is not None:
        settings["nargs"] = "?"
    return settings


def _epilog(tool: Shape) -> str:
    examples = "\n".join(f"  {line:<36} {what}" for line, what in tool.examples)
    parts = [
        *_columns(tool),
        f"examples:\n{examples}",
        f"overhead:\n  {tool.overhead}",
        *_notes(tool),
        *_caveats(tool),
        _COMMAND,
        _EXIT,
    ]
    return "\n\n".join(parts) + "\n"


def _columns(tool: Shape) -> list[str]:
    every = columns_of(tool)
    if not every:
        return []
    shown = _indented("  ".join(column.header for column in every if not column.hidden))
    hidden = _indented("  ".join(column.header for column in every if column.hidden))
    return [f"columns:\n{shown}", f"columns on request:\n{hidden}"]


def _indented(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _notes(tool: Shape) -> list[str]:
    notes = getattr(tool, "notes", ())
    if not notes:
        return []
    paragraphs = [textwrap.fill(note, _WIDTH - 2) for note in notes]
    return ["notes:\n" + textwrap.indent("\n\n".join(paragraphs), "  ")]


def _caveats(tool: Shape) -> list[str]:
    """Return what a tool cannot see, or sees only roughly, by some of its ways of tracing."""
    if not tool.rungs:
        return []
    lines = ["caveats of some ways of tracing (see --explain):"]
    for way, caveat in tool.rungs.items():
        ladder, _, rung = way.partition("__")
        where = f"{ladder} by {rung}" if rung else ladder
        lines += textwrap.wrap(
            f"{where}: {caveat}", _WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    return ["\n".join(lines)]


def _parser_of_tracewheel() -> argparse.ArgumentParser:
    ret = argparse.ArgumentParser(
        prog="tracewheel",
        description="Run one of the tools, or see which of them work on this machine.",
        usage="tracewheel COMMAND [ARGUMENT ...]",
        epilog=_TRACEWHEEL + tool_list(),
        formatter_class=_formatter,
    )
    ret.add_argument("--version", action="version", help="show the version")
    ret.add_argument("command", metavar="COMMAND", help="a tool, list, help or doctor")
    return ret

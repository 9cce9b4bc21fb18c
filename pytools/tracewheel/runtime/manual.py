# SPDX-License-Identifier: BSD-2-Clause
"""The help of each command. The man pages are made of the same parsers and sections."""

from __future__ import annotations

import argparse
import functools
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._version import __version__
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import positionals_of
from tracewheel.runtime.spec.headers import meaning_of
from tracewheel.runtime.spec.options import columns_of, options_of
from tracewheel.runtime.spec.shapes import GROUPS

if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Option, Shape

_COMMAND = """\
Runs COMMAND, traces it and its descendants until it ends, and exits with its
status. COMMAND writes to the same terminal as the rows: use -o FILE to
separate them."""
_EXIT = {
    "0": "done, or stopped by Ctrl-C",
    "1": "tracing failed, or the output could not be written",
    "2": "the command line is wrong",
    "3": "permission is missing",
    "4": "the kernel lacks something that the tool needs",
    "5": "the process, file, disk or cgroup asked for does not exist",
}
_EXIT_OF_ALERTS = {"10": "a report met the condition of an --alert"}
_COMMANDS = (
    ("tracewheel TOOL [OPTIONS]", "run a tool; each is also a command of its own name"),
    ("tracewheel list", "list the tools"),
    ("tracewheel help TOOL", "show the help of a tool"),
    (
        "tracewheel doctor",
        "tell which tools work on this machine, and why others do not (--json for programs, -v for "
        "each way of tracing)",
    ),
)

# 80 columns on every terminal, because a man page has to be the same everywhere.
_WIDTH = 80
# The widths of the left columns of sections.
_WIDTHS = {"about this command": 21, "commands": 27, "tools": 16, "examples": 36}
_formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=_WIDTH)


class Section(NamedTuple):
    """A part of the help and of the man page: paragraphs, or things with what they mean."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    entries: tuple[tuple[str, str], ...] = ()


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
        usage="\n       ".join(usages_of(name)),
        description=description,
        epilog=_epilog(name),
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
    return ret


def usages_of(name: str) -> list[str]:
    """Return the forms that a command line may have."""
    if name == "tracewheel":
        return ["tracewheel COMMAND [ARGUMENT ...]"]
    positionals = positionals_of(load_tool(name)[0])
    places = "".join(f" [{each.metavar}" for each in positionals)
    ends = "]" * len(positionals)
    return [f"{name} [OPTIONS]{places}{ends}", f"{name} [OPTIONS] -- COMMAND [ARGUMENT ...]"]


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


def sections_of(name: str) -> list[Section]:
    """Return what the help and the man page of a command say behind the options."""
    if name == "tracewheel":
        tools = tuple((each, load_tool(each)[1]) for each in tool_names())
        about = _about(set())
        return [about, Section("commands", entries=_COMMANDS), Section("tools", entries=tools)]
    tool, _ = load_tool(name)
    own = {flag for option in options_of(tool) for flag in option.flags}
    sections = [
        _about(own),
        Section("columns", entries=_columns(tool, hidden=False)),
        Section("columns on request", entries=_columns(tool, hidden=True)),
        Section("examples", entries=tool.examples),
        Section("overhead", (tool.overhead,)),
        Section("notes", tuple(getattr(tool, "notes", ()))),
        Section("caveats of some ways of tracing (see --explain)", entries=_caveats(tool)),
        Section("with a command behind --", (_COMMAND,)),
        Section("exit status", entries=_exit_statuses(tool)),
    ]
    return [section for section in sections if section.paragraphs or section.entries]


def _about(own: set[str]) -> Section:
    """Return what a command tells of itself, by the flags that are not its OWN for other things."""
    flags = [flag for flag in ("-h", "--help") if flag not in own]
    entries = ((", ".join(flags), "show this help"), ("--version", "show the version"))
    return Section("about this command", entries=entries)


def _columns(tool: Shape, hidden: bool) -> tuple[tuple[str, str], ...]:
    return tuple((c.header, meaning_of(c)) for c in columns_of(tool) if c.hidden == hidden)


def _caveats(tool: Shape) -> tuple[tuple[str, str], ...]:
    """Return what a tool cannot see, or sees only roughly, by some of its ways of tracing."""
    entries = []
    for way, caveat in tool.rungs.items():
        ladder, _, rung = way.partition("__")
        entries.append((f"{ladder} by {rung}" if rung else ladder, caveat))
    return tuple(entries)


def _exit_statuses(tool: Shape) -> tuple[tuple[str, str], ...]:
    has_alerts = any(option.dest == "alert" for option in options_of(tool))
    statuses = {**_EXIT, **_EXIT_OF_ALERTS} if has_alerts else _EXIT
    return tuple(statuses.items())


def _epilog(name: str) -> str:
    return "\n\n".join(_in_help(name, section) for section in sections_of(name)) + "\n"


def _in_help(name: str, section: Section) -> str:
    """Return a section as the help shows it."""
    lines = [f"{section.heading}:"]
    if section.heading.startswith("columns"):
        lines = [f"{section.heading} (explained by man {name}):"]
        lines.append(_indented("  ".join(header for header, _ in section.entries)))
    elif section.heading.startswith("caveats"):
        lines += [_indented(f"{where}: {caveat}", "    ") for where, caveat in section.entries]
    else:
        width = _WIDTHS.get(section.heading, 3)
        lines += [_entry_in_help(*entry, width) for entry in section.entries]
    paragraphs = [_indented(" ".join(paragraph.split())) for paragraph in section.paragraphs]
    return "\n".join([*lines, "\n\n".join(paragraphs)]).rstrip()


def _entry_in_help(what: str, meaning: str, width: int) -> str:
    """Return a line, and more lines below its right column if it were too long."""
    return _indented(f"{what:<{width}} {meaning}", " " * (width + 3))


def _indented(text: str, subsequent: str = "  ") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent=subsequent)


def _parser_of_tracewheel() -> argparse.ArgumentParser:
    ret = argparse.ArgumentParser(
        prog="tracewheel",
        description="Run one of the tools, or see which of them work on this machine.",
        usage=usages_of("tracewheel")[0],
        epilog=_epilog("tracewheel"),
        formatter_class=_formatter,
        add_help=False,
    )
    ret.add_argument("command", metavar="COMMAND", help="a tool, list, help or doctor")
    return ret

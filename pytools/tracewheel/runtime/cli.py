# SPDX-License-Identifier: BSD-2-Clause
"""The commands: parse the command line, trace, report, and end with the right exit status."""

from __future__ import annotations

import os
import sys

from tracewheel.runtime.host.errors import BpfError, UsageError, say
from tracewheel.runtime.host.processes import in_pid_namespace
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import asks_for, did_you_mean, parse_arguments
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tracewheel.runtime.command import Command
    from tracewheel.runtime.show.output import Output
    from tracewheel.runtime.trace.session import Session

_ALERTED = 10  # the exit status after an alert


def run_tool(name: str, arguments: Sequence[str]) -> int:
    """Run a tool as a command; return its exit status."""
    tool, _ = load_tool(name)
    command: Sequence[str] | None = None
    if "--" in arguments:
        at = list(arguments).index("--")
        command = arguments[at + 1 :]
        arguments = arguments[:at]
    if asks_for(tool, arguments, "-h", "--help"):
        from tracewheel.runtime import manual

        print(manual.help_of(name), end="")
        return 0
    if asks_for(tool, arguments, "--version"):
        from tracewheel.runtime import manual

        print(manual.version_of(name))
        return 0
    values = parse_arguments(tool, arguments)
    if command is not None:
        return _run_with_command(name, values, command)
    if list(arguments) == ["-h"]:  # here -h is an option of the tool, but help may be meant
        say(f"{name}: use --help for help")
    return _run(name, Request(tool, values))


def _run_with_command(name: str, values: dict[str, Any], words: Sequence[str]) -> int:
    if not words:
        raise UsageError("no command behind --: put one there, or leave out --")
    if values.get("pid") is not None:
        raise UsageError("-p cannot be combined with a command behind --: give only one of them")
    from tracewheel.runtime.command import Command

    with Command(name, list(words)) as command:
        values.update(pid=(command.pid,), follow=True)
        tool, _ = load_tool(name)
        code = _run(name, Request(tool, values), command)
    return code or command.code


def _run(name: str, request: Request, command: Command | None = None) -> int:
    for option, _ in request.given():
        if option.lists:
            print(*option.lists(), sep="\n")
            return 0
    if request.explain:
        from tracewheel.runtime import doctor

        return doctor.explain(name, request.tool, request)
    return _trace(name, request, command)


def _trace(name: str, request: Request, command: Command | None) -> int:
    # Here, because help and man pages need no shim, which these import.
    from tracewheel.runtime.shapes import module_of
    from tracewheel.runtime.show.output import Output, ReaderGone, Stop
    from tracewheel.runtime.trace.session import Session

    tool = request.tool
    with Stop(command.pid if command else 0) as stop:
        output = Output(request.output, stop)
        with Session(name, request) as session:
            _say_caveats(session)
            what = name if isinstance(tool, Stream) else tool.title
            say(f"Tracing {what}... Hit Ctrl-C to end.")
            if command:
                command.go()
            try:
                counts = module_of(tool).run(session, tool, output, stop)
                alerts = counts.pop("alerts", 0)
                repeats = counts.pop("repeats", None)
                _conclude(session, output, counts, repeats)
            except ReaderGone:
                return 0
    return _ALERTED if alerts else 0


def _say_caveats(session: Session) -> None:
    """Say what a user must know to read the rows; with -v, also what may be missing from them."""
    request = session.request
    for ladder, rung in session.taken.items():
        caveat = request.tool.rungs.get(f"{ladder}__{rung}", "")
        if caveat and (request.verbose or caveat.startswith("approximate")):
            say(f"{session.name}: {ladder} by {rung}: {caveat}")
        missing = session.describe_missing(ladder)
        if missing:
            say(f"{session.name}: {ladder} by {rung}: {missing}")
    if in_pid_namespace():
        say(
            f"{session.name}: processes have other ids in this PID namespace than on the host: "
            "give the ids of the namespace; rows show those of the host"
        )


def _conclude(
    session: Session, output: Output, counts: dict[str, int], repeats: int | None
) -> None:
    """Say how many events were seen and how many were lost.

    The first of the counts is that of the events seen; the others are losses by their causes.
    REPEATS are those that are not shown because they are like others; None if all are shown.
    """
    losses = session.losses()
    (what, seen), *others = counts.items()
    for cause, count in others:
        if count:
            losses[cause] = count
    lost = sum(losses.values())
    if session.request.json:
        import json

        summary: dict[str, Any] = {what: seen, "lost": lost, "losses": losses}
        if repeats is not None:
            summary["repeats"] = repeats
        output.text(json.dumps({"summary": summary}) + "\n")
    causes = ", ".join(f"{cause} {count}" for cause, count in losses.items())
    why = f" ({causes})" if causes else ""
    more = f", {repeats} repeats not shown" if repeats else ""
    say(f"{session.name}: {seen} {what}, {lost} lost{why}{more}")


def _run_tracewheel(arguments: Sequence[str]) -> int:
    """Run the command tracewheel, of which each tool is a subcommand."""
    command, *rest = arguments or ["--help"]
    if command in tool_names():
        return run_tool(command, rest)
    if command == "doctor":
        return _run_doctor(rest)
    from tracewheel.runtime import manual

    if command in ("-h", "--help") or (command == "help" and not rest):
        print(manual.help_of("tracewheel"), end="")
    elif command == "--version":
        print(manual.version_of("tracewheel"))
    elif command == "list" and not rest:
        print(manual.tool_list(), end="")
    elif command == "help" and rest[0] in tool_names():
        print(manual.help_of(rest[0]), end="")
    else:
        unknown = rest[0] if command == "help" else command
        known = [*tool_names(), "doctor", "help", "list"]
        if unknown in known:
            raise UsageError(f"{command} takes no argument {rest[0]!r} (try tracewheel --help)")
        near = did_you_mean(unknown, known)
        raise UsageError(f"no tool {unknown!r}{near} (try tracewheel list)")
    return 0


def _run_doctor(arguments: Sequence[str]) -> int:
    unknown = [each for each in arguments if each not in ("--json", "-j", "-v", "--verbose")]
    if unknown:
        raise UsageError(f"doctor takes --json and -v, not {unknown[0]!r}")
    from tracewheel.runtime import doctor

    as_json = "--json" in arguments or "-j" in arguments
    return doctor.examine(as_json, verbose="-v" in arguments or "--verbose" in arguments)


def _open_standard_descriptors() -> None:
    """Open /dev/null for standard descriptors that are closed, so that no other file gets them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR if fd != 1 else os.O_RDONLY)


def _print_out() -> None:
    """Flush standard output while a failure can still be reported."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it ends
        if not isinstance(error, BrokenPipeError):
            raise BpfError(f"cannot write the output: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command named by argv[0]; return its exit status."""
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

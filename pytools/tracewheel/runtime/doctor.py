# SPDX-License-Identifier: BSD-2-Clause
"""Find out which tools work on this machine, in which way, and what the others lack."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.privileges import (
    CAPABILITIES,
    explain_failure,
    has_capability,
    lockdown,
)
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.options import options_of
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.trace.session import Session

if TYPE_CHECKING:
    from tracewheel.runtime.spec.shapes import Shape


class Attempt(NamedTuple):
    """A rung of a ladder that was tried. ``error`` is empty if it works."""

    ladder: str
    rung: str
    error: str
    caveat: str


class Diagnosis(NamedTuple):
    """Whether a tool works on this machine.

    ``missing`` says what it lacks, and is empty if it works. ``code`` is the exit status that it
    would have. ``caveats`` say what it does not see, or not exactly.
    """

    tool: str
    missing: str
    code: int
    taken: dict[str, str]  # the rung of each ladder
    caveats: list[str]
    attempts: list[Attempt]

    @property
    def state(self) -> str:
        """Whether the tool works, in a few words."""
        if self.missing:
            return "does not work"
        return "works, with a caveat" if self.caveats else "works"


def attempts_of(
    name: str, tool: Shape, request: Request, all_ladders: bool = False
) -> list[Attempt]:
    """Try each rung of the ladders that a request needs, or of all that a tool has.

    Raises BpfError if none can be tried.
    """
    with contextlib.closing(Session(name, request, all_ladders)) as session:
        return [
            Attempt(ladder, rung, error or "", _caveat(tool, ladder, rung))
            for ladder, rung, error in session.attempts()
        ]


def _caveat(tool: Shape, ladder: str, rung: str) -> str:
    return tool.rungs.get(f"{ladder}__{rung}", "")


def explain(name: str, tool: Shape, request: Request) -> int:
    """Print which rungs of a tool's ladders work, and why others do not; return an exit status."""
    attempts = attempts_of(name, tool, request)
    _print_attempts(name, attempts)
    holding = {attempt.ladder for attempt in attempts if not attempt.error}
    if all(attempt.ladder in holding for attempt in attempts):
        return 0
    return explain_failure(name, -errno.EPERM, "").code


def _print_attempts(name: str, attempts: list[Attempt]) -> None:
    taken: set[str] = set()
    for attempt in attempts:
        state = attempt.error or ("holds" if attempt.ladder in taken else "taken")
        if not attempt.error:
            taken.add(attempt.ladder)
        caveat = f" ({attempt.caveat})" if attempt.caveat else ""
        print(f"{name}: {attempt.ladder} by {attempt.rung}: {state}{caveat}")


def diagnose(name: str) -> Diagnosis:
    """Find out whether a tool and its options work on this machine."""
    tool, _ = load_tool(name)
    request = Request(tool, {})
    try:
        with contextlib.closing(Session(name, request)) as session:
            needed = session.ladders()
        attempts = attempts_of(name, tool, request, all_ladders=True)
    except BpfError as error:
        return Diagnosis(name, str(error), error.code, {}, [], [])
    taken: dict[str, str] = {}
    caveats = []
    for attempt in attempts:
        if not attempt.error and attempt.ladder not in taken:
            taken[attempt.ladder] = attempt.rung
            if attempt.caveat:
                caveats.append(f"{attempt.ladder} by {attempt.rung}: {attempt.caveat}")
    for option in options_of(tool):
        lacking = [ladder for ladder in option.enables if ladder not in taken]
        if lacking:
            caveats.append(
                f"{option.flags[-1]} does not work: there is no way to trace {lacking[0]}"
            )
    for ladder in needed:
        if ladder not in taken:
            failure = explain_failure(f"cannot trace {ladder}", -errno.EPERM, "")
            return Diagnosis(name, str(failure), failure.code, taken, caveats, attempts)
    return Diagnosis(name, "", 0, taken, caveats, attempts)


def facts_of_machine() -> dict[str, Any]:
    """Return the facts of this machine that decide which tools work."""
    return {
        "kernel": f"{os.uname().release} {os.uname().machine}",
        "lockdown": lockdown(),
        "types (/sys/kernel/btf/vmlinux)": os.path.exists("/sys/kernel/btf/vmlinux"),
        "tracefs": os.path.exists("/sys/kernel/tracing/events"),
        **{name: has_capability(name) for name in CAPABILITIES},
    }


def examine(as_json: bool = False, verbose: bool = False) -> int:
    """Print facts of the machine and a table of the tools; return the worst exit status."""
    diagnoses = _diagnose_all()
    if as_json:
        _print_json(diagnoses)
    else:
        _print_table(diagnoses)
        if verbose:
            for diagnosis in diagnoses:
                print()
                _print_attempts(diagnosis.tool, diagnosis.attempts)
    return max(diagnosis.code for diagnosis in diagnoses)


def _diagnose_all() -> list[Diagnosis]:
    """Diagnose each tool, and show on a terminal which one is being examined.

    That takes some seconds, because each way of tracing is tried.
    """
    on_terminal = os.isatty(2)
    names = tool_names()
    diagnoses = []
    for number, name in enumerate(names, 1):
        if on_terminal:
            _show_progress(f"examining {name} ({number} of {len(names)})")
        diagnoses.append(diagnose(name))
    if on_terminal:
        _show_progress("")
    return diagnoses


def _show_progress(text: str) -> None:
    """Replace the line of the terminal at standard error by another text."""
    with contextlib.suppress(OSError):
        os.write(2, f"\r\x1b[K{text}".encode())


def _print_json(diagnoses: list[Diagnosis]) -> None:
    import json

    tools = [
        {
            "tool": each.tool,
            "works": not each.missing,
            "missing": each.missing,
            "caveats": each.caveats,
            "taken": each.taken,
            "attempts": [attempt._asdict() for attempt in each.attempts],
        }
        for each in diagnoses
    ]
    print(json.dumps({"machine": facts_of_machine(), "tools": tools}, indent=1))


def _describe_ways(taken: dict[str, str]) -> str:
    """Return the rungs that were taken, each with its ladders if there are several."""
    ladders: dict[str, list[str]] = {}
    for ladder, rung in taken.items():
        ladders.setdefault(rung, []).append(ladder)
    if len(ladders) == 1:
        return next(iter(ladders))
    return ", ".join(f"{rung} ({', '.join(names)})" for rung, names in ladders.items())


def _print_table(diagnoses: list[Diagnosis]) -> None:
    for fact, value in facts_of_machine().items():
        shown = {True: "yes", False: "no"}.get(value, value)
        print(f"{fact}: {shown}")
    print(f"\n{'TOOL':<14} {'STATE':<21} BY")
    for diagnosis in diagnoses:
        ways = _describe_ways(diagnosis.taken)
        print(f"{diagnosis.tool:<14} {diagnosis.state:<21} {ways}".rstrip())
        for line in [diagnosis.missing, *diagnosis.caveats]:
            if line:
                print(f"{'':<14} {line}")

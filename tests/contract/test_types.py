# SPDX-License-Identifier: BSD-2-Clause
"""What type checkers know of the library is what it does."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import tracewheel
from tracewheel.runtime.host.errors import BpfError, UsageError
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.options import options_of

if TYPE_CHECKING:
    from collections.abc import Callable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
PACKAGE = Path(tracewheel.__file__).parent
# Lines that end with "wrong" are wrong, and no others are.
PROGRAM = """\
from __future__ import annotations

from typing_extensions import assert_type

import tracewheel
from tracewheel.events import OpensnoopOpen, PidpersecBirths, PidpersecParent, SyscountCall
from tracewheel.runtime.shapes.stacks import Stack
from tracewheel.runtime.spec.distribution import Histogram


def describe(event: OpensnoopOpen) -> str:
    if event.ret is None or event.path is None:
        return event.comm
    return event.path if event.ret >= 0 else event.path.upper()


with tracewheel.opensnoop.trace(pid=1234, flag=["O_CREAT", "O_EXCL"], failed=True) as events:
    for event in events:
        describe(event)
        assert_type(event, OpensnoopOpen)
        assert_type(event.path, "str | None")
        assert_type(event.pid, int)
        assert_type(event.stack, "list[str] | None")
        event.pth  # wrong
        event.pid.upper()  # wrong
        event.path.upper()  # wrong
    assert_type(events.losses(), "dict[str, int]")
    events.read()  # wrong
tracewheel.opensnoop.trace(pid=[1234, 1240])
tracewheel.opensnoop.trace(tid=[1234, 1240])  # wrong
with tracewheel.opensnoop.trace(pid="1234", duration=0.5, uid="root", flag="O_CREAT"):
    pass
tracewheel.opensnoop.trace(pdi=1)  # wrong
tracewheel.opensnoop.trace(1234)  # wrong
tracewheel.opensnoop.trace(failed="yes")  # wrong
tracewheel.opensnoop.trace(path=7)  # wrong
tracewheel.opensnoop.trace(columns="path")  # wrong
tracewheel.opensnoop.trace(interval=1)  # wrong
tracewheel.opensnop  # wrong
with tracewheel.execsnoop.trace() as execs:
    for execution in execs:
        assert_type(execution.args, "list[str] | None")
        assert_type(execution.args_truncated, bool)
with tracewheel.runqlat.trace(interval=1, count=3, milliseconds=True) as latencies:
    for histograms in latencies:
        assert_type(histograms, "list[Histogram]")
    for histogram in latencies.read():
        assert_type(histogram.percentile(99), float)
        histogram.path  # wrong
with tracewheel.offcputime.trace(min=1000) as sleeps:
    assert_type(sleeps.read(since_last=True), "list[Stack]")
with tracewheel.pidpersec.trace() as births:
    assert_type(births.read(), "list[PidpersecBirths]")
    births.read()[0].comm  # wrong
with tracewheel.pidpersec.trace(by_parent=True) as parents:
    assert_type(parents.read(), "list[PidpersecParent]")
    assert_type(parents.read()[0].comm, str)
with tracewheel.syscount.trace(syscall="read") as counts:
    for rows in counts:
        assert_type(rows, "list[SyscountCall]")
        assert_type(rows[0].count, int)
with tracewheel.syscount.trace(hist=True) as times:
    assert_type(times.read(), "list[Histogram]")
"""


def lines_by_mypy(program: Path) -> set[int]:
    """Return the lines that mypy finds wrong."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null"]
    done = subprocess.run(
        [*command, program.name], capture_output=True, text=True, cwd=program.parent
    )
    found = re.findall(rf"^{program.name}:(\d+): error: ", done.stdout, re.MULTILINE)
    assert len(found) == done.stdout.count(" error: "), done.stdout + done.stderr
    return set(map(int, found))


def lines_by_pyright(program: Path) -> set[int]:
    """Return the lines that pyright finds wrong."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, program.name], capture_output=True, text=True, cwd=program.parent
    )
    told = json.loads(done.stdout)
    assert 1 == told["summary"]["filesAnalyzed"], done.stdout + done.stderr
    found = [each for each in told["generalDiagnostics"] if each["severity"] == "error"]
    return {each["range"]["start"]["line"] + 1 for each in found}


@pytest.mark.parametrize("lines_by", [lines_by_mypy, lines_by_pyright])
def test_checkers(tmp_path: Path, lines_by: Callable[[Path], set[int]]) -> None:
    """A checker reports each wrong use of the library, and no right one."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    lines = PROGRAM.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}

    assert wrong == lines_by(program)


def test_stubs_are_sound(tmp_path: Path) -> None:
    """The stub and the classes of events have no errors of their own."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null"]
    done = subprocess.run(
        [*command, "-m", "tracewheel", "-m", "tracewheel.events"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert (0, "") == (done.returncode, done.stderr), done.stdout


class Field(NamedTuple):
    """A field as tracewheel/events.py declares it."""

    types: set[str]
    is_on_request: bool
    options: list[str]  # that fill it


class Variant(NamedTuple):
    """A form of trace(), as the stub declares it."""

    option: str  # that chooses it; of one without any it is empty
    parameters: set[str]
    yields: str


def declared_fields() -> dict[str, dict[str, Field]]:
    """Return the fields of each class of events."""
    source = (PACKAGE / "events.py").read_text()
    lines = source.splitlines()
    found: dict[str, dict[str, Field]] = {}
    for each in ast.parse(source).body:
        if not isinstance(each, ast.ClassDef):
            continue
        fields = found.setdefault(each.name, {})
        for line in each.body:
            if isinstance(line, ast.AnnAssign):
                assert isinstance(line.target, ast.Name)
                types = set(ast.unparse(line.annotation).split(" | "))
                is_on_request = line.value is not None and ast.unparse(line.value) == "None"
                beside = lines[line.lineno - 1].partition("  # ")[2]
                options = [word for word in beside.split(", ") if word and " " not in word]
                fields[line.target.id] = Field(types, is_on_request, options)
    return found


def declared_variants(name: str) -> list[Variant]:
    """Return the forms of a tool's trace()."""
    found = []
    for each in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if not isinstance(each, ast.ClassDef) or each.name != f"_{name.capitalize()}":
            continue
        for method in each.body:
            if isinstance(method, ast.FunctionDef):
                types = {
                    parameter.arg: ast.unparse(parameter.annotation)
                    for parameter in method.args.kwonlyargs
                    if parameter.annotation
                }
                chosen = [name for name, type_ in types.items() if type_ == "Literal[True]"]
                assert isinstance(method.returns, ast.Subscript)
                yields = ast.unparse(method.returns.slice)
                found.append(Variant("".join(chosen), set(types), yields))
    return found


FIELDS = declared_fields()


def type_in_python(value: Any) -> str:
    """Return the type of a value as declarations have it."""
    if isinstance(value, list):
        assert {str} >= {type(each) for each in value}
        return "list[str]"
    return "None" if value is None else type(value).__name__


@needs_root
def test_values_are_as_declared(
    stir: Callable[[], None], silent_tools: set[str], tool_name: str
) -> None:
    """What each tool yields has exactly the fields and types that are declared.

    Fields on request are None without the options beside them, and not with them.
    """
    variants = declared_variants(tool_name)
    assert variants
    for variant in variants:
        item = variant.yields.removeprefix("list[").removesuffix("]")
        chosen = {variant.option: True} if variant.option else {}
        on_request = {
            name: field for name, field in FIELDS.get(item, {}).items() if field.is_on_request
        }
        asked = {field.options[0]: True for field in on_request.values() if field.options}
        for options in [{}, asked] if asked else [{}]:
            found = trace(tool_name, stir, variant, {**chosen, **options})
            assert (tool_name in silent_tools) == (not found)
            if not found:
                continue
            assert {item} == {type(each).__name__ for each in found}
            if item not in FIELDS:
                continue
            assert all(tuple(FIELDS[item]) == each._fields for each in found)
            for name, field in FIELDS[item].items():
                types = {type_in_python(getattr(each, name)) for each in found}
                assert types <= field.types, f"{tool_name} {options}: {name}"
                if field.options:
                    is_asked = bool(options.keys() & set(field.options))
                    assert is_asked == (types != {"None"}), f"{tool_name} {options}: {name}"


def trace(
    name: str, stir: Callable[[], None], variant: Variant, options: dict[str, Any]
) -> list[Any]:
    """Return what a tool yields while there is some of everything."""
    is_report = variant.yields.startswith("list[")
    if not is_report:
        options = {**options, "duration": 0.1}
    # The connections are those of this process.
    with getattr(tracewheel, name).trace(include_self=True, **options) as tracing:
        stir()
        return list(tracing.read() if is_report else tracing)


def test_parameters_are_as_declared(tool_name: str) -> None:
    """The parameters that are declared are the long options that trace() does not refuse."""
    shape, _ = load_tool(tool_name)
    tool = getattr(tracewheel, tool_name)
    taken = set()
    for option in options_of(shape):
        if not option.help or not any(flag.startswith("--") for flag in option.flags):
            continue
        try:
            tool.trace(**{option.dest: True})
        except UsageError as error:
            if "only changes what" in str(error):
                continue
        except BpfError:
            pass  # the value is none that the option takes
        taken.add(option.dest)

    declared = declared_variants(tool_name)[-1].parameters
    assert taken == declared - {"every", "count", "seconds"}
    for name in declared & {"every", "count", "seconds"}:
        tool.trace(**{name: 1})

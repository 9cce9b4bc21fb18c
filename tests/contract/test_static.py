# SPDX-License-Identifier: BSD-2-Clause
"""What every tool promises before it traces. Needs no privilege."""

from __future__ import annotations

import collections
import json
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel._shim import lib
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.shapes.counts import WHEN
from tracewheel.runtime.show.lines import header
from tracewheel.runtime.show.meaning import MEANINGS, TABLES, Meaning
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import parse_arguments
from tracewheel.runtime.spec.headers import meaning_of
from tracewheel.runtime.spec.losses import counters_in, losses_of
from tracewheel.runtime.spec.options import columns_of, options_of
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import Counts, Histogram, Option, Stacks, Stream, Top
from tracewheel.runtime.trace.ladders import ladders_of
from tracewheel.runtime.trace.object import BpfObject, read_object

from tests.conftest import REPRESENTATIVES
from tests.contract.guide import LINES, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracewheel.runtime.trace.btf import Member

PACKAGE = Path(tracewheel.__file__).parent
CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534
CALL, TAIL_CALL = 0x85, 12  # the code of an instruction, and the number of a helper
# Set by the runtime itself, by way of the options that all tools have in common.
OF_THE_RUNTIME = re.compile(
    "filter_|glob_|hist_|argc_|page_size$|probed_|tick_ns$|sample_rate$|"
    "with_((|kernel_|user_)stack|cgroup|repeats)$|"
    "(kernel|user)_stacks$"
)
TABLES_IN_C = {"compat_kinds", "errors_by_status", "native_kinds"}  # constants that nobody sets
# Letters whose meaning differs between tools, by the guide or by custom, and one long flag: the
# states of threads for offcputime, those of connections for tcpretrans.
MEANS_MANY = {*(f"-{letter}" for letter in "CFKLMPQTUcdefghilmnpqsuvx"), "--state"}
GLOBBED = {"ev_args", "ev_comm", "ev_path", "ev_text"}
# Members of a map's definition that libbpf knows, and record, which the runtime reads.
MAP_MEMBERS = {
    "type", "max_entries", "map_flags", "numa_node", "key_size", "key", "value_size", "value",
    "values", "pinning", "map_extra", "record",
}  # fmt: skip


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[BpfObject]:
    """Give the tool's BPF object."""
    names = request.node.callspec.params
    ret = BpfObject(read_object(names.get("tool_name") or names["table_name"]))
    yield ret
    ret.close()


def parse(line: str) -> dict[str, Any]:
    """Parse a command line of the guide."""
    words = words_of(line)
    tool, _ = load_tool(words[0])
    return parse_arguments(tool, words[1:])


def values_of(option: Option) -> list[Any]:
    """Return values that an option may have: those of the arguments that it takes."""
    if not option.parse:
        return [True]
    arguments = ["0", "1", "2", "7", str(os.getpid()), "/", "root", "x", "10.0.0.0/8", *dir(os)]
    arguments += ["off", "md0"]
    arguments += [path.name for path in Path("/sys/class/block").iterdir()]
    found = []
    for argument in arguments:
        try:
            found.append(option.parse(argument))
        except (BpfError, ValueError):
            continue
    assert found, f"no argument that {option.flags} takes"
    return [(value,) for value in found] if option.repeat else found


def variables_of(option: Option) -> list[dict[str, Any]]:
    """Return what an option sets in the BPF object, for each value that it may have."""
    if option.sets is None:
        return []
    if callable(option.sets):
        return [dict(option.sets(value)) for value in values_of(option)]
    return [{option.sets: value} for value in values_of(option)]


def constants(opened: BpfObject) -> dict[str, Member]:
    """Return the variables that the object reads and user space sets."""
    return {v.name: v for v in opened.variables() if v.section == ".rodata"}


def test_module_object_and_command_have_one_name() -> None:
    """Each tool is a module, an object with a checksum and a command, and nothing else is."""
    names = tool_names()
    manifest = (PACKAGE / "bpf/manifest").read_text().splitlines()

    assert [f"{name}.bpf.o" for name in names] == sorted(p.name for p in PACKAGE.glob("bpf/*.o"))
    assert [f"{name}.bpf.o" for name in names] == [line.split()[1] for line in manifest]
    assert all(os.access(Path(sys.executable).parent / name, os.X_OK) for name in names)


def test_objects_exist_for_both_machines(tool_name: str) -> None:
    """A checkout that has built has objects for x86_64 and aarch64."""
    built = CHECKOUT / "build/bpf"
    if not built.exists():
        pytest.skip("needs a checkout that has built")
    for machine in ("x86_64", "aarch64"):
        assert b"\x7fELF" == (built / machine / f"{tool_name}.bpf.o").read_bytes()[:4]


def test_representatives_have_all_shapes() -> None:
    """Of each shape there is a tool that CI tests in guests for all of its shape."""
    shapes = {type(load_tool(name)[0]) for name in tool_names()}

    assert shapes == {type(load_tool(name)[0]) for name in REPRESENTATIVES}


def test_description_is_a_line(tool_name: str) -> None:
    """The module's docstring is one sentence that fits the NAME line of a manual."""
    _, description = load_tool(tool_name)
    assert re.fullmatch(r"[A-Z][^\n]{9,70}\.", description)


def test_constants_are_set_by_one_option(tool_name: str, opened: BpfObject) -> None:
    """Each constant of the object has an option, and just one by its name alone."""
    tool, _ = load_tool(tool_name)
    own = {name for name in constants(opened) if not OF_THE_RUNTIME.match(name)}
    setters = collections.Counter(
        option.sets for option in tool.options if isinstance(option.sets, str)
    )
    set_somehow = {name for o in tool.options for sets in variables_of(o) for name in sets}

    assert set() == own - set_somehow - TABLES_IN_C
    assert {} == {name: count for name, count in setters.items() if count > 1}


def test_values_fit_their_variables(tool_name: str, opened: BpfObject) -> None:
    """What an option sets exists in the object, a switch as bool, anything else by its size."""
    tool, _ = load_tool(tool_name)
    known = constants(opened)
    for option in tool.options:
        for sets in variables_of(option):
            for name, value in sets.items():
                assert name in known, f"{option.flags} sets {name}"
                assert known[name].size == len(known[name].pack(value))
        if isinstance(option.sets, str):
            assert known[option.sets].is_bool == (option.parse is None)


def members_of(tool: Stream | Counts | Top, opened: BpfObject) -> dict[str, Member]:
    """Return the members of a tool's rows."""
    maps = {m.name: m for m in opened.maps()}
    if isinstance(tool, Stream):
        return {m.name: m for m in opened.members(maps[tool.ring].record)}
    found = [*WHEN, *opened.members(maps[tool.sums].value)]
    key, _ = opened.members(maps[tool.sums if isinstance(tool, Top) else f"{tool.sums}_by"].key)
    return {m.name: m for m in [*found, *opened.members(key.meaning)]}


def test_keys_have_no_holes(tool_name: str, opened: BpfObject) -> None:
    """Every byte of a key belongs to a member: any value of another would split one row in two."""
    keys = set()
    for m in opened.maps():
        members = {member.name: member for member in opened.members(m.key)} if m.key else {}
        # The macros of count.bpf.h and hist.bpf.h wrap the key, and set their own hole to 0.
        keys.add(members["key"].meaning if "key" in members else m.key)
    for key in keys - {""}:
        covered = sum(member.size for member in opened.members(key))
        assert opened.size(key) == covered, f"add a member _padding to struct {key}"


def test_containers_can_be_told_apart(tool_name: str, opened: BpfObject) -> None:
    """Each key of sums and each record that has a container has its cgroup, and an option."""
    shapes = [load_tool(tool_name)[0]]
    maps = {m.name: m for m in opened.maps()}
    for tool in shapes:  # the loop adds the shapes that it finds
        options = options_of(tool)
        shapes += [o.as_shape for o in options if o.as_shape and o.as_shape not in shapes]
        if isinstance(tool, Stacks):
            members = opened.members(maps[tool.sums].key)
        elif isinstance(tool, Histogram):
            key, _ = opened.members(maps[f"{tool.histograms}_by"].key)
            members = opened.members(key.meaning)
        else:
            members = [*members_of(tool, opened).values()]
        assert not isinstance(tool, Counts) or tool.columns[0].member == "time"
        has_cgroup = ("cgroup", "ev_cgroup") in [(m.name, m.meaning) for m in members]

        assert has_cgroup == ("per_container" in {option.dest for option in options})
        assert has_cgroup or isinstance(tool, Stream)


def test_columns_show_members(table_name: str, opened: BpfObject) -> None:
    """Each column shows a member of the record, in a way that there is."""
    tool, _ = load_tool(table_name)
    assert not isinstance(tool, (Histogram, Stacks))
    members = members_of(tool, opened)
    for column in columns_of(tool):
        member = members[column.member]
        kind = column.kind or "unsigned"
        assert kind in TABLES or hasattr(lib, f"SHIM_{kind.upper()}")
        # A span is divided by its unit.
        unit = column.number or MEANINGS.get(member.meaning, Meaning("", "")).number
        assert column.kind != "span" or unit > 0
    names = [column.name for column in columns_of(tool) if column.header != "TIME(s)"]
    assert len(set(names)) == len(names)


def test_sums_are_sums(table_name: str, opened: BpfObject) -> None:
    """What is summed are 64-bit numbers, and at least one counts events."""
    tool, _ = load_tool(table_name)
    if isinstance(tool, (Stream, Histogram)):
        return
    maps = {m.name: m for m in opened.maps()}
    sums = opened.members(maps[tool.sums].value)
    assert {8} == {m.size for m in sums}
    assert "ev_count" in {m.meaning for m in sums}
    # What an array has grown by does not tell the greatest of the values since the last report.
    only_grows = isinstance(tool, Counts) or (isinstance(tool, Top) and tool.indexed)
    assert not only_grows or "ev_longest" not in {m.meaning for m in sums}
    if isinstance(tool, Top) and tool.indexed:
        assert maps[tool.indexed[0]].value == maps[tool.sums].value
        assert members_of(tool, opened)[tool.indexed[1]].size == 4


def test_options_refer_to_what_exists(tool_name: str, opened: BpfObject) -> None:
    """The columns that an option shows, the ladders it enables and the member it globs exist."""
    tool, _ = load_tool(tool_name)
    maps = {m.name: m for m in opened.maps()}
    shown: set[str] = set()
    members: dict[str, str] = {}
    if isinstance(tool, Histogram):
        key = opened.members(maps[f"{tool.histograms}_by"].key)[0].meaning
        shown = {m.name for m in opened.members(key)}
    elif not isinstance(tool, Stacks):
        shown = {column.header for column in columns_of(tool)}
        members = {m.name: m.meaning for m in members_of(tool, opened).values()}
    ladders = ladders_of(opened.programs())
    for option in tool.options:
        assert {*option.shows, *option.hides} <= shown
        assert {*option.enables, *option.disables} <= set(ladders)
        assert not option.globs or members[option.globs] in GLOBBED
        assert not option.resizes or option.resizes in maps
        others = {option.switches_on, option.passes_to} - {""}
        assert others <= {each.dest for each in options_of(tool)}
    if isinstance(tool, Stream):
        assert set(tool.pending) <= set(maps)
    if isinstance(tool, Top) and tool.pending:
        assert tool.pending in maps


def test_table_fits_a_terminal(table_name: str) -> None:
    """The header is no wider than 80 columns unless options ask for more."""
    tool, _ = load_tool(table_name)
    assert len(header(Request(tool, {}).columns()).rstrip("\n")) <= 80


def test_flags_mean_the_same_everywhere() -> None:
    """A flag is the same option, with or without argument, in every tool that has it."""
    meanings = collections.defaultdict(set)
    for name in tool_names():
        for option in options_of(load_tool(name)[0]):
            for flag in option.flags:
                meanings[flag].add((option.dest, bool(option.parse)))
    several = {flag for flag, meant in meanings.items() if len(meant) > 1}

    assert set() == several - MEANS_MANY


@pytest.mark.parametrize("line", LINES)
def test_command_lines_of_the_guide_parse(line: str) -> None:
    """What the guide tells users to type is understood."""
    values = parse(line)
    tool, _ = load_tool(line.split()[0])
    Request(tool, values)


def general_options() -> Iterator[tuple[str, str, str]]:
    """List the general options of the guide for the tools that do not override them."""
    for name in tool_names():
        tool, _ = load_tool(name)
        claimed = {flag for option in tool.options for flag in option.flags}
        general = {"-v": "verbose", "-d": "d", "-p": "pid", "-t": "timestamps"}
        if isinstance(tool, Stream) and tool.stack:
            general["--stack"] = "stack"
        yield from ((name, flag, dest) for flag, dest in general.items() if flag not in claimed)


@pytest.mark.parametrize(("name", "flag", "dest"), list(general_options()))
def test_general_options_of_the_guide(name: str, flag: str, dest: str) -> None:
    """The options that most tools have in common mean what the guide says."""
    argument = " PID" if flag == "-p" else ""
    assert parse(f"{name} {flag}{argument}")[dest]


def test_examples_parse(tool_name: str) -> None:
    """The examples of the help are command lines of the tool."""
    tool, _ = load_tool(tool_name)
    assert len(tool.examples) >= 2
    for line, _ in tool.examples:
        words = shlex.split(line)
        assert tool_name == words[0]
        try:
            parse_arguments(tool, words[1 : words.index("--")] if "--" in words else words[1:])
        except BpfError as error:
            assert error.code == 5, line  # an example may name a process that does not exist


def test_manual_lists_everything(tool_name: str) -> None:
    """The man page has the description as name line, each option, column and cause of loss."""
    page = Path(sys.prefix, f"share/man/man1/{tool_name}.1").read_text()
    text = re.sub(r"\\f.|\\,|\\/|\\(?=-)", "", page)
    tool, description = load_tool(tool_name)
    flags = {flag for option in options_of(tool) if option.help for flag in option.flags}
    columns = {c.header for c in columns_of(tool)}
    shown = text.partition("\n.SH COLUMNS\n")[2].partition("\n.SH EXAMPLES\n")[0]
    examples = text.partition("\n.SH EXAMPLES\n")[2].partition("\n.SH OVERHEAD\n")[0]

    assert f"\n.SH NAME\n{tool_name} - {description}\n" in text
    assert set() == {flag for flag in flags if not re.search(rf"(?<![-\w]){flag}(?![-\w])", text)}
    assert columns == set(re.findall(r"(?<=\.TP\n)\S+", shown))
    assert [] == [column.header for column in columns_of(tool) if not meaning_of(column)]
    for column in columns_of(tool):
        assert f"\n{column.header}\n{meaning_of(column)}\n" in f"{shown}\n"
    assert [line for line, _ in tool.examples] == re.findall(r"(?<=\.TP\n).*", examples)
    assert f"\n.SH SYNOPSIS\n{tool_name} [OPTIONS]" in text
    assert f"\n.br\n{tool_name} [OPTIONS] -- COMMAND [ARGUMENT ...]\n" in text
    assert re.search(r"(?<![-\w])--help\nshow this help", text)
    assert ("--alert" in flags) == ("\n10\na report met the condition of an --alert\n" in text)
    for loss in losses_of(tool, counters_in(read_object(tool_name))):
        assert f"\n{loss.word}\n{loss.sentence}\n" in text.partition("\n.SH LOSSES\n")[2]


def test_verbose_promises_what_the_shape_has(tool_name: str) -> None:
    """The help of -v speaks of columns or of slots only where there are some to show."""
    tool, _ = load_tool(tool_name)
    verbose = next(option for option in options_of(tool) if option.dest == "verbose")

    assert ("columns" in verbose.help) == isinstance(tool, Stream)
    assert ("slot" in verbose.help) == isinstance(tool, Histogram)


def test_ladders_have_two_rungs(tool_name: str, opened: BpfObject) -> None:
    """A ladder has another way when the first fails, or the tool says why not."""
    tool, _ = load_tool(tool_name)
    ladders = ladders_of(opened.programs())
    names = {f"{ladder}__{rung}" for ladder, rungs in ladders.items() for rung in rungs}

    assert set(tool.rungs) <= names | set(ladders)
    for ladder, rungs in ladders.items():
        explained = ladder in tool.rungs or f"{ladder}__{rungs[0]}" in tool.rungs
        assert len(rungs) >= 2 or explained, ladder


def section_of(data: bytes, wanted: str) -> bytes:
    """Return the bytes of a section of an object, none if it has no such section."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_at = struct.unpack_from("<3H", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + size * n) for n in range(count)]
    names = data[headers[names_at][4] :]
    for name, _, _, _, begin, length in headers:
        if names[name:].split(b"\0")[0] == wanted.encode():
            return data[begin : begin + length]
    return b""


def test_uprobes_are_for_functions(tool_name: str, opened: BpfObject) -> None:
    """A program for one function of user space is for one that the tool names."""
    tool, _ = load_tool(tool_name)
    uprobes = getattr(tool, "uprobes", None)
    programs = [program for program in opened.programs() if program.is_uprobe]
    known = {name for group in uprobes.functions for name in group} if uprobes else set()

    assert bool(programs) == bool(uprobes)
    assert {program.part for program in programs} <= {"", *known}


def test_uprobes_use_the_kernel_stack(tool_name: str, opened: BpfObject) -> None:
    """Each program for functions of user space has a tail call: see USE_KERNEL_STACK."""
    data = read_object(tool_name)
    programs = collections.Counter(p.section for p in opened.programs() if p.is_uprobe)
    tail_call = struct.pack("<BBhi", CALL, 0, 0, TAIL_CALL)
    for section, count in programs.items():
        assert count == section_of(data, section).count(tail_call)


def test_programs_call_no_functions(tool_name: str) -> None:
    """All of a program is inline, because calls crash v5.10.

    There a tp_btf program that has functions makes the kernel panic when it reads through NULL.
    """
    data = read_object(tool_name)

    assert section_of(data, "license")
    assert not section_of(data, ".text")


def test_map_definitions_have_no_typos(tool_name: str) -> None:
    """Each member of a map's definition is known: libbpf is told to pass over others."""
    dumped = subprocess.run(
        ["bpftool", "--json", "btf", "dump", "file", PACKAGE / f"bpf/{tool_name}.bpf.o"],
        capture_output=True,
        check=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    ).stdout
    types = {each["id"]: each for each in json.loads(dumped)["types"]}
    (section,) = (t for t in types.values() if t["kind"] == "DATASEC" and t["name"] == ".maps")
    definitions = [types[types[var["type_id"]]["type_id"]] for var in section["vars"]]

    assert definitions
    for definition in definitions:
        assert {member["name"] for member in definition["members"]} <= MAP_MEMBERS


HELP = """
import sys
sys.modules["tracewheel._shim"] = None
sys.argv = [{!r}, {!r}]
from tracewheel.runtime.cli import main
main()
"""


def test_help_needs_nothing(tool_name: str) -> None:
    """The help is complete with its examples for a user without privilege and without the shim."""
    tool, description = load_tool(tool_name)
    helped = python(HELP.format(tool_name, "--help"))
    if not any("-h" in option.flags for option in tool.options):
        assert helped == python(HELP.format(tool_name, "-h"))

    words = " ".join(helped.split())  # because long lines are wrapped
    assert description in words
    for line, what in tool.examples:
        assert f" {' '.join(line.split())} {what} " in words
        assert f"\n  {line} " in helped
    assert " ".join(tool.overhead.split()) in words


def test_importing_a_tool_starts_nothing(tool_name: str) -> None:
    """A tool's module is only declarations: no shim, no process, no socket, no thread."""
    code = (
        "import sys, threading\n"
        "def told(event, arguments):\n"
        "    if event.split('.')[0] in ('subprocess', 'socket', 'ctypes') or 'fork' in event:\n"
        "        print(event)\n"
        "sys.addaudithook(told)\n"
        f"import tracewheel.tools.{tool_name}\n"
        "print(*(name for name in sys.modules if name in ('tracewheel._shim', '_cffi_backend')))\n"
        "print(threading.active_count())\n"
    )
    assert "\n1\n" == python(code)


def python(code: str) -> str:
    """Run code as a user without privilege; return what it printed."""
    who: dict[str, Any] = {}
    if not os.geteuid():
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    readable = subprocess.run([sys.executable, "-c", ""], stderr=subprocess.DEVNULL, **who)
    if readable.returncode:
        pytest.skip("needs an installation that other users may read")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, **who)
    assert (0, b"") == (done.returncode, done.stderr)
    return bytes(done.stdout).decode()

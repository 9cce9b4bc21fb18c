# SPDX-License-Identifier: BSD-2-Clause
"""Names that other processes choose do no harm to a terminal, and are shown without loss."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.spec.catalogue import tool_names

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {
    "colour and newline": b"ev\x1b[31mil\n",
    "cursor up over the line above": b"bashrc\x1b[1A\x1b[1B\x1b[13C",
    "title, hyperlink, clipboard, bell": b"\x1b]0;t\x07\x1b]8;;u\x1b\\x\x1b]52;c;eA==\x07",
    "C1 as a byte": b"\x9b31m\x9d0;t\x9c",
    "C1 in UTF-8": "\u009b31m\u0090\u009c".encode(),
    "bidirectional override": "a\u202egnp.exe\u2066\u200f".encode(),
    "zero width": "a\u200bb\ufeffc\u2060".encode(),
    "line separators": "a\u2028b\u2029c\u0085d".encode(),
    "not UTF-8": b"\xff\xfe",
    "surrogate, overlong, beyond Unicode": b"\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80",
    "sequence without its end": b"x\xe2\x82",
    "whitespace": b"a\tb\rc\x0bd e  f\x7f",
    "backslashes": rb"a\x41\\n\n\x\\\x5c",
    "quotes and brackets": b"\"'{}[]<>&;|$(x)`,:",
    "formats": b"%s%n%5000d{0}",
    "plain UTF-8": "grün-日本-😀".encode(),
}  # fmt: skip


def open_missing(path: bytes) -> None:
    """Open a file that is not there."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY))


@pytest.fixture
def paths(tmp_path: Path) -> list[bytes]:
    """Give paths of files with hostile names."""
    return [os.fsencode(tmp_path) + b"/" + name for name in NAMES.values()]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_paths_in_a_table(
    trace: Any, paths: list[bytes], unescape: Callable[[str], bytes], ascii_only: bool
) -> None:
    """A hostile path is one line of harmless characters that tell its bytes."""
    env = {**os.environ, "LC_ALL": "C" if ascii_only else "C.UTF-8"}
    tool = trace(
        "opensnoop", "-p", str(os.getpid()), "--columns", "path", "--path", "*/test_paths*", env=env
    )
    for path in paths:
        open_missing(path)
    tool.end()
    lines = tool.out.split("\n")[1:-1]

    assert paths == [unescape(line) for line in lines]
    assert all(line.isprintable() for line in lines)
    assert tool.out.isascii() == ascii_only


def test_paths_in_json(
    trace: Any, paths: list[bytes], bytes_in: Callable[[dict[str, Any], str], bytes]
) -> None:
    """A hostile path is one JSON line without any control character that tells its bytes."""
    tool = trace("opensnoop", "-p", str(os.getpid()), "--json", "--path", "*/test_paths*")
    for path in paths:
        open_missing(path)
    tool.end()

    assert paths == [bytes_in(event, "path") for event in tool.json]
    assert not [c for c in tool.out if c != "\n" and (c < " " or "\x7f" <= c < "\xa0")]


def test_names_of_processes(
    trace: Any,
    tmp_path: Path,
    called: Any,
    unescape: Callable[[str], bytes],
    bytes_in: Callable[[dict[str, Any], str], bytes],
) -> None:
    """A hostile process name is harmless in a table, and both forms tell its bytes."""
    watched = str(tmp_path / "watched")
    options = ("-p", str(os.getpid()), "--path", watched)
    tools = [
        trace("opensnoop", *options, "--columns", "comm", "--no-header"),
        trace("opensnoop", *options, "--json"),
    ]
    names = [name[:15] for name in NAMES.values()]
    for name in names:
        with called(name):
            open_missing(os.fsencode(watched))
    for tool in tools:
        tool.end()
    lines = tools[0].out.split("\n")[:-1]

    assert names == [unescape(line) for line in lines]
    assert all(line.isprintable() for line in lines)
    assert names == [bytes_in(event, "comm") for event in tools[1].json]


@pytest.mark.parametrize("name", [b"a;rm -rf $HOME", b"x.*y[z]", b"\x1b[31m\n", b"-p"])
def test_filter_by_a_hostile_name(trace: Any, tmp_path: Path, called: Any, name: bytes) -> None:
    """A name to filter by is taken literally, whatever it has in it."""
    watched = str(tmp_path / "watched")
    tool = trace("opensnoop", b"--comm=" + name, "--path", watched, "--json")
    for other in (name, name[:-1], name + b"x", b"x"):
        with called(other):
            open_missing(os.fsencode(watched))
    tool.end()

    assert [os.fsdecode(name)] == [event["comm"] for event in tool.json]


@pytest.mark.parametrize("glob", ["a.c", "a+", "(a)", "^a$", "[!a]", "[a-c]x", "a|b", "[", "é?"])
def test_globs_with_the_letters_of_other_patterns(trace: Any, tmp_path: Path, glob: str) -> None:
    """Only * ? and [ mean something in a glob: a name is matched as fnmatch does."""
    import fnmatch

    names = ["a.c", "axc", "a+", "aa", "(a)", "^a$", "a", "b", "bx", "dx", "a|b", "[", "éa", "é"]
    tool = trace("opensnoop", "-p", str(os.getpid()), "-n", glob, "--json")
    for name in names:
        open_missing(os.fsencode(tmp_path / name))
    tool.end()
    # A byte is what ? stands for.
    by_bytes = [os.fsencode(name).decode("latin-1") for name in names]
    pattern = os.fsencode(glob).decode("latin-1")
    expected = [n for n, b in zip(names, by_bytes) if fnmatch.fnmatchcase(b, pattern)]

    assert expected == [Path(event["path"]).name for event in tool.json]


@pytest.mark.parametrize("unit", ["x", "é", "\x1b", "日"])
def test_longest_path(
    trace: Any, bytes_in: Callable[[dict[str, Any], str], bytes], unit: str
) -> None:
    """A path of 4095 bytes, the longest there is, is shown whole."""
    path = (b"/" + os.fsencode(unit * 80)[:200]) * 400
    path = (path[: 4095 - 3] + b"/zz")[:4095]
    tool = trace("opensnoop", "-p", str(os.getpid()), "--path", "/*/zz", "--json")
    open_missing(path)
    tool.end()

    assert [path] == [bytes_in(event, "path") for event in tool.json]
    assert "path_truncated" not in tool.json[0]


def test_path_that_is_too_long(
    trace: Any, bytes_in: Callable[[dict[str, Any], str], bytes]
) -> None:
    """A path beyond that is marked as cut, and the open shown as failed."""
    path = b"/" + b"long/" * 2000
    tool = trace("opensnoop", "-p", str(os.getpid()), "--path", "/long/*", "--json")
    open_missing(path)
    tool.end()
    (event,) = tool.json

    assert path.startswith(bytes_in(event, "path"))
    assert event["ret"] < 0
    assert event["path_truncated"]


TRUE = ("-P", str(os.getpid()), "-n", "true")
needs_execsnoop = pytest.mark.skipif("execsnoop" not in tool_names(), reason="no execsnoop")


def execute(*arguments: bytes) -> None:
    """Execute a program that does nothing."""
    subprocess.run([b"/bin/true", *arguments], check=True)


@needs_execsnoop
def test_arguments(trace: Any, unescape: Callable[[str], bytes]) -> None:
    """Hostile arguments are one line of a table that tells their bytes, and one JSON line."""
    table = trace("execsnoop", *TRUE, "--columns", "args", "--no-header")
    lines = trace("execsnoop", *TRUE, "--json")
    for name in NAMES.values():
        execute(name, b"last")
    for tool in (table, lines):
        tool.end()
    rows = table.out.split("\n")[:-1]

    assert all(row.isprintable() for row in rows)
    assert [b"/bin/true " + name + b" last" for name in NAMES.values()] == [*map(unescape, rows)]
    expected = [["/bin/true", os.fsdecode(name), "last"] for name in NAMES.values()]
    assert expected == [arguments_of(event) for event in lines.json]
    assert not [c for c in lines.out if c != "\n" and (c < " " or "\x7f" <= c < "\xa0")]


def arguments_of(event: dict[str, Any]) -> list[str]:
    """Return the arguments in a JSON record, also where they are no UTF-8."""
    if "args_b64" in event:
        raw = base64.b64decode(event["args_b64"])
        return [os.fsdecode(each) for each in raw.removesuffix(b"\0").split(b"\0")]
    args: list[str] = event["args"]
    return args


@needs_execsnoop
@pytest.mark.parametrize(
    "arguments",
    [[b"a"] * 100_000, [b"\xe2\x82\xac" * 40_000], [b"\x1b\n" * 60_000], [b""] * 100_000],
    ids=["many", "long", "hostile", "empty"],
)
def test_too_many_arguments(trace: Any, arguments: list[bytes]) -> None:
    """Arguments beyond what a record holds are cut, and both forms say so."""
    table = trace("execsnoop", *TRUE, "--columns", "args", "--no-header")
    lines = trace("execsnoop", *TRUE, "--json")
    execute(*arguments)
    for tool in (table, lines):
        tool.end()
    (row,) = table.out.split("\n")[:-1]
    (event,) = lines.json
    shown = [os.fsencode(each) for each in arguments_of(event)]

    assert row.isprintable()
    assert row.endswith("...")
    assert event["args_truncated"]
    assert len(row) < 1 << 17
    assert b"/bin/true" == shown[0]
    assert arguments[: len(shown) - 2] == shown[1:-1]
    assert arguments[len(shown) - 2].startswith(shown[-1])


@needs_execsnoop
def test_programs_with_hostile_names(
    trace: Any, tmp_path: Path, bytes_in: Callable[[dict[str, Any], str], bytes]
) -> None:
    """A program's name is shown as harmless as any other."""
    table = trace("execsnoop", "-P", str(os.getpid()), "--no-header")
    lines = trace("execsnoop", "-P", str(os.getpid()), "--json")
    for name in NAMES.values():
        program = os.fsencode(tmp_path) + b"/" + name
        os.symlink(b"/bin/true", program)
        subprocess.run([program], check=True)
    for tool in (table, lines):
        tool.end()
    rows = table.out.split("\n")[1:-1]  # behind that of the other tool

    assert [name[:15] for name in NAMES.values()] == [bytes_in(e, "comm") for e in lines.json]
    assert len(NAMES) == len(rows)
    assert all(row.isprintable() for row in rows)

# SPDX-License-Identifier: BSD-2-Clause
"""Wrong arguments, and processes that do not exist, are errors of one line before tracing."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import tracewheel
from tracewheel.runtime import cli
from tracewheel.runtime.host.errors import BpfError, TargetGone, UsageError
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.options import options_of

NO_PROCESS = str(2**31 - 1)  # beyond any pid_max

NONSENSE = [
    ("--duration", "0"),
    ("--duration", "-1"),
    ("--duration", "1e10"),
    ("--duration", "nan"),
    ("--duration", "inf"),
    ("--duration", ""),
    ("--duration",),
    ("--pid", "-1"),
    ("--pid", "0"),
    ("--pid", "1.5"),
    ("--pid", "x"),
    ("--pid", "1,x"),
    ("--pid", "1,"),
    ("--pid", ","),
    ("--pid", "9" * 5000),
    ("--pid", "\u0661"),
    ("--tid", "-7"),
    ("--comm", ""),
    ("--max-entries", "0"),
    ("--max-entries", "4294967296"),
    ("--no-such-option",),
    ("--dur", "1"),
    ("operand", "that", "is", "too", "much"),
]
GONE = [
    ("--pid", NO_PROCESS),
    ("--pid", f"1,{NO_PROCESS}"),
    ("--tid", NO_PROCESS),
    ("--uid", "no-such-user"),
    ("--uid", "\udcff"),
    ("--cgroup", "/no/such/cgroup"),
    ("--cgroup", "../../../etc"),
    ("--cgroup", "999999999"),
]
ONLY_STREAMS = [
    ("--buffer-size", "0"),
    ("--buffer-size", "-4096"),
    ("--buffer-size", "4095"),
    ("--buffer-size", "12K"),
    ("--buffer-size", "4G"),
    ("--buffer-size", "M"),
    ("--columns", "no_such"),
    ("--columns", ""),
    ("--columns", ","),
]
ONLY_INTERVALS = [("-1",), ("0",), ("x",), ("1", "0"), ("1", "-1"), ("1", "1.5"),
                  ("2", "--duration", "1"), ("--interval", "0"), ("-i", "1", "1")]  # fmt: skip
OWN_OPTIONS = {
    "--disk": [("no-such-disk", 5), ("/dev/null", 5), ("../../etc", 5), ("", 5)],
    "--cpu": [("99999", 5), ("-1", 2), ("x", 2), ("0-1", 2)],
    "--sample-rate": [("0", 2), ("-1", 2), ("4294967296", 2), ("0.5", 2)],
    "--flag": [("O_NOTHING", 2), ("", 2), ("path", 2)],
    "--name": [("", 2)],
    "--ppid": [("0", 2), (NO_PROCESS, 5)],
    "--min": [("0", 2), ("-1", 2)],
    "--syscall": [("no_such_call", 2), ("", 2), ("compat:read", 2)],
    "--errno": [("0", 2), ("ENOTHING", 2), ("4096", 2)],
    "--reason": [("NO_SUCH_REASON", 2), ("", 2), ("4294967296", 2), ("NO_SOCKET,", 2)],
    "--netns-id": [("0", 2), ("x", 2)],
    "--pid-netns": [("x", 2), (NO_PROCESS, 5)],
    "--top": [("-1", 2), ("x", 2)],
}


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Give a function that checks how a command fails, and that it says nothing of tracing."""

    def check(code: int, name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name])
        assert code == cli.main(list(arguments))
        out, err = capfd.readouterr()
        assert "" == out
        assert 1 == err.count("\n"), err
        assert err.startswith(f"{name}: ")
        assert "Tracing" not in err

    return check


def shown(words: tuple[str, ...]) -> str:
    """Name a test."""
    return " ".join(words)[:40]


@pytest.mark.parametrize("arguments", NONSENSE, ids=shown)
def test_nonsense(fails: Any, tool_name: str, arguments: tuple[str, ...]) -> None:
    """Arguments that make no sense are a usage error."""
    fails(2, tool_name, *arguments)


@pytest.mark.parametrize("arguments", GONE, ids=shown)
def test_targets_that_are_not_there(fails: Any, tool_name: str, arguments: tuple[str, ...]) -> None:
    """Processes, users and cgroups that are not there have an exit code of their own."""
    fails(5, tool_name, *arguments)


@pytest.mark.parametrize("arguments", ONLY_STREAMS, ids=shown)
def test_nonsense_for_streams(fails: Any, stream_name: str, arguments: tuple[str, ...]) -> None:
    """The same for options that only streams have."""
    fails(2, stream_name, *arguments)


@pytest.mark.parametrize("arguments", ONLY_INTERVALS, ids=shown)
def test_nonsense_for_intervals(fails: Any, interval_name: str, arguments: tuple[str, ...]) -> None:
    """The same for intervals and counts, and an interval that no duration has room for."""
    fails(2, interval_name, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("syncsnoop", "--per-file"),
        ("syncsnoop", "-i", "1"),
        ("tcpdrop", "--interval", "1"),
        ("writeback", "-i", "1"),
    ],
    ids=shown,
)
def test_options_that_need_another(fails: Any, arguments: tuple[str, ...]) -> None:
    """An option that changes nothing without another one is not taken in silence."""
    fails(2, *arguments)


def own_options() -> list[tuple[str, str, str, int]]:
    """List bad arguments of the options that only some tools have."""
    return [
        (name, flag, argument, code)
        for name in tool_names()
        for option in options_of(load_tool(name)[0])
        for flag in option.flags
        for argument, code in OWN_OPTIONS.get(flag, ())
    ]


@pytest.mark.parametrize(("name", "flag", "argument", "code"), own_options())
def test_own_options(fails: Any, name: str, flag: str, argument: str, code: int) -> None:
    """Disks, CPUs, flags and rates that are not there or make no sense."""
    fails(code, name, flag, argument)


@pytest.mark.parametrize("command", ["no-such-tool", "-x", "doctor x", "\udcff\x1b[31m", ""])
def test_tracewheel(fails: Any, command: str) -> None:
    """The command tracewheel refuses commands that do not exist."""
    fails(2, "tracewheel", *command.split(" "))


def test_tracewheel_knows_what_was_meant(run: Any) -> None:
    """For a misspelt name of a tool, the right one is suggested."""
    for arguments in (["opensnop"], ["help", "opensnop"]):
        with run("tracewheel", *arguments) as tool:
            tool.ended()

        assert (2, "") == (tool.code, tool.out)
        assert "did you mean opensnoop?" in tool.err


def test_tracewheel_lists_and_helps(run: Any) -> None:
    """List has a line for each tool, and help TOOL is what TOOL --help prints."""
    outputs = []
    for arguments in (["tracewheel", "list"], ["tracewheel", "help", "runqlat"], ["runqlat", "-h"]):
        with run(*arguments) as tool:
            tool.ended()
        assert (0, "") == (tool.code, tool.err)
        outputs.append(tool.out)

    assert tool_names() == [line.split()[0] for line in outputs[0].splitlines()]
    assert outputs[1] == outputs[2]


def test_tracewheel_alone(run: Any) -> None:
    """Without arguments it lists the tools."""
    with run("tracewheel") as tool:
        tool.ended()

    assert (0, "") == (tool.code, tool.err)
    assert all(f"  {name} " in tool.out for name in tool_names())


@pytest.mark.parametrize("wish", ["no=such", "", "=", "open"])
def test_rungs_that_are_not_there(run: Any, tool_name: str, wish: str) -> None:
    """A rung to force has to exist."""
    with run(tool_name, "--rung", wish) as tool:
        tool.ended()

    assert (2, "") == (tool.code, tool.out)
    assert tool.err.startswith(f"{tool_name}: no rung '{wish}': the rungs are ")
    assert 1 == tool.err.count("\n")


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a\0b"},
        {"name": ""},
        {"path": "\0"},
        {"comm": "a\0"},
        {"pid": -1},
        {"pid": 0},
        {"pid": "1\0"},
        {"pid": "9" * 5000},
        {"duration": -1},
        {"duration": 0},
        {"sample_rate": -1},
        {"buffer_size": -1},
        {"cgroup": "a\0b"},
        {"uid": -1},
        {"rung": ["no=such"]},
        {"no_such_option": 1},
        {"name": "a", "path": "b"},
    ],
    ids=shown,
)
def test_library(values: dict[str, Any]) -> None:
    """The library refuses the same arguments, and NUL bytes, which no command line can have."""
    with (
        pytest.raises((UsageError, TargetGone)),
        tracewheel.opensnoop.trace(**values),
    ):
        pytest.fail("it traces")


@pytest.mark.parametrize("values", [{"interval": -1}, {"interval": 0}, {"count": 0, "interval": 1},
                                    {"interval": "x"}, {"interval": 2, "duration": 1}])  # fmt: skip
def test_library_intervals(interval_name: str, values: dict[str, Any]) -> None:
    """The library refuses intervals and counts that make no sense."""
    with pytest.raises(BpfError), getattr(tracewheel, interval_name).trace(**values):
        pytest.fail("it traces")

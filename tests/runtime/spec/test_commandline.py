# SPDX-License-Identifier: BSD-2-Clause
"""A command line is parsed as users of such commands write it, or told what is wrong with it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import parse_arguments
from tracewheel.runtime.spec.options import options_of
from tracewheel.runtime.spec.request import Request

PARSED: list[tuple[str, str, dict[str, Any]]] = [
    ("opensnoop", "-xe", {"failed": True, "extended": True}),
    ("opensnoop", "-n*.txt", {"name": "*.txt"}),
    ("opensnoop", "--name=*.txt -x", {"name": "*.txt", "failed": True}),
    ("opensnoop", "--name= -x", {"name": "", "failed": True}),
    ("opensnoop", "-d", {"d": True}),
    ("opensnoop", "-d 5", {"d": 5.0}),
    ("opensnoop", "-d5 -x", {"d": 5.0, "failed": True}),
    ("opensnoop", "-d -x", {"d": True, "failed": True}),
    ("opensnoop", "-dx", {"d": True, "failed": True}),
    ("opensnoop", "-f O_CREAT -fO_EXCL", {"flag": ("O_CREAT", "O_EXCL")}),
    ("opensnoop", "--folded -", {"folded": "-"}),
    ("opensnoop", "--self", {"include_self": True}),
    ("opensnoop", "--duration 1 --duration 2", {"duration": 2.0}),
    ("runqlat", "1 10", {"every": 1.0, "count": 10}),
    ("runqlat", "1 -m 10", {"every": 1.0, "count": 10, "milliseconds": True}),
    ("offcputime", "-df 5", {"d": True, "fold": True, "seconds": 5.0}),
    ("biolatency", "-dD", {"d": True, "per_disk": True}),
    ("tcpconnect", "-4xL", {"ipv4": True, "failed": True, "ports": True}),
    ("tcpconnect", "-p -t", {"p": True, "timestamps": True}),
]
REFUSED = [
    ("opensnoop", "--duratoin 1", "no option --duratoin: did you mean --duration?"),
    ("opensnoop", "--dur 1", "no option --dur"),
    ("opensnoop", "--durable", "no option --durable (try --help)"),
    ("biolatency", "--stack", "no option --stack: other tools have it, but this one does not"),
    ("opensnoop", "-xZ", "no option -Z"),
    ("opensnoop", "--failed=1", "--failed takes no argument"),
    ("opensnoop", "--name", "--name needs an argument: --name GLOB"),
    ("opensnoop", "-n -x", "-n needs an argument: -n GLOB"),
    ("opensnoop", "-d5x", "-d: expected a number of seconds"),
    ("opensnoop", "file", "unexpected argument 'file'"),
    ("opensnoop", "-t 1234", "use --tid 1234 for one thread"),
    ("opensnoop", "--cgroupmap x", "--cgroup PATH or --container NAME"),
    ("offcputime", "--perf-max-stack-depth 64", "no option --perf-max-stack-depth: stacks are"),
    ("runqlat", "1 2 3", "unexpected argument '3'"),
]
OPPOSED = [
    ("tcpaccept", "-m 1 -x", "--failed cannot be combined with --min-ms"),
    ("tcpaccept", "-c -x --peer ::1", "--failed cannot be combined with --peer"),
    ("tcpconnect", "-46", "--ipv4 cannot be combined with --ipv6"),
    (
        "tcpdrop",
        f"--netns-id 1 --pid-netns {os.getpid()}",
        "--pid-netns cannot be combined with --netns-id",
    ),
    ("capable", "--denied --allowed", "--denied cannot be combined with --allowed"),
    ("killsnoop", "--all --kill-only", "--kill-only cannot be combined with --all"),
    (
        "killsnoop",
        "-s 0 --no-probe -s 0",
        "--signal with this value cannot be combined with --no-probe",
    ),
]


@pytest.mark.parametrize(("name", "line", "expected"), PARSED, ids=lambda each: str(each)[:40])
def test_parsed(name: str, line: str, expected: dict[str, Any]) -> None:
    """Values are those that the command line gives, by the names of the options."""
    tool, _ = load_tool(name)

    assert expected == parse_arguments(tool, line.split(" "))


@pytest.mark.parametrize(("name", "line", "message"), REFUSED, ids=lambda each: str(each)[:40])
def test_refused(name: str, line: str, message: str) -> None:
    """What is wrong is told, with what was probably meant."""
    tool, _ = load_tool(name)
    with pytest.raises(UsageError) as error:
        parse_arguments(tool, line.split(" "))

    assert message in str(error.value)


@pytest.mark.parametrize(("name", "line", "message"), OPPOSED, ids=lambda each: str(each)[:40])
def test_opposed(name: str, line: str, message: str) -> None:
    """Options of which one leaves nothing to the other are refused in one sentence."""
    tool, _ = load_tool(name)
    with pytest.raises(UsageError) as error:
        Request(tool, parse_arguments(tool, line.split(" ")))

    assert f"{message}: give only one of them" == str(error.value)


def test_not_opposed() -> None:
    """A value that leaves something to the other option is taken."""
    tool, _ = load_tool("killsnoop")
    request = Request(tool, parse_arguments(tool, ["-s", "0,TERM", "--no-probe"]))

    assert ((0, 15),) == request.signal


def test_no_wrong_suggestion(tool_name: str) -> None:
    """For an option that only other tools have, no other option is suggested."""
    tool, _ = load_tool(tool_name)
    own = {flag for option in options_of(tool) for flag in option.flags}
    every = [option for name in tool_names() for option in options_of(load_tool(name)[0])]
    for flag in {flag for option in every for flag in option.flags if flag.startswith("--")} - own:
        with pytest.raises(UsageError) as error:
            parse_arguments(tool, [flag])
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("text", ["TIME(s),PATH", "time(s), path", "seconds,path"])
def test_columns_by_header(text: str) -> None:
    """--columns takes the name of a column, and its header as it is printed."""
    tool, _ = load_tool("opensnoop")

    columns = Request(tool, {"columns": text}).columns()

    assert ["TIME(s)", "PATH"] == [column.header for column in columns]


def test_unknown_column() -> None:
    """The names and the headers of all columns are listed where one is not known."""
    tool, _ = load_tool("opensnoop")
    with pytest.raises(UsageError) as error:
        Request(tool, {"columns": "size"})

    assert "the columns are seconds or TIME(s), time, pid," in str(error.value)


def test_several_processes(tool_name: str) -> None:
    """-p takes a list in which a process counts once."""
    tool, _ = load_tool(tool_name)
    own, parent = os.getpid(), os.getppid()

    assert {"pid": (own, parent)} == parse_arguments(tool, ["--pid", f"{own},{parent},{own}"])

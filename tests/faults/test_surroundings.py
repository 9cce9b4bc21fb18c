# SPDX-License-Identifier: BSD-2-Clause
"""Kernels, file systems and environments that lack something."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tracewheel._shim import lib
from tracewheel.runtime.spec.catalogue import tool_names

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

COMMANDS = Path(sys.executable).parent
HIDE = "mount -t tmpfs tmpfs"


def apart(run: Any, script: str, **settings: Any) -> Any:
    """Run a script in a mount namespace of its own, with the tools in its PATH."""
    settings.setdefault("env", {**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"})
    return run(shutil.which("unshare"), "-m", "sh", "-ec", script, **settings)


def test_with_more_possible_cpus_than_online() -> None:
    """In a guest all tests run where values in per-CPU maps are of many CPUs that are not there."""
    if not os.environ.get("TRACEWHEEL_GUEST"):
        pytest.skip("needs a guest")

    assert os.sysconf("SC_NPROCESSORS_ONLN") < lib.libbpf_num_possible_cpus()


def test_without_types(run: Any, tool_name: str) -> None:
    """Without the kernel's BTF the exit code is 4, and a line says what is missing."""
    with apart(run, f"{HIDE} /sys/kernel/btf; exec {tool_name}") as tool:
        tool.ended()

    assert (4, "") == (tool.code, tool.out)
    assert 1 == tool.err.count("\n")
    assert "/sys/kernel/btf/vmlinux" in tool.err
    assert "CONFIG_DEBUG_INFO_BTF" in tool.err


def test_without_tracefs(run: Any, tool_name: str) -> None:
    """Without tracefs and debugfs a tool traces, or its line tells how to mount it."""
    script = (
        f"{HIDE} /sys/kernel/tracing; {HIDE} /sys/kernel/debug; exec {tool_name} --duration 0.1"
    )
    with apart(run, script) as tool:
        tool.ended()

    if tool.code != 0:
        assert 4 == tool.code
        assert "mount -t tracefs" in tool.err


def test_read_only_files(run: Any, tool_name: str) -> None:
    """A tool writes nothing: no file system has to be writable, and no HOME is needed."""
    script = (
        "mount -o remount,bind,ro /; for at in /tmp /dev/shm /run; do"
        " ! mountpoint -q $at || mount -o remount,bind,ro $at; done;"
        f"! touch {COMMANDS}/x /tmp/x 2>/dev/null; exec {tool_name} --duration 0.1"
    )
    with apart(run, script, env={"PATH": f"{COMMANDS}:/usr/sbin:/usr/bin:/sbin:/bin"}) as tool:
        tool.ended()

    assert 0 == tool.code
    assert tool.counted


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LANG": "C", "TERM": "dumb"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "COLUMNS": "10", "LINES": "1"},
        {"LC_ALL": "no_SUCH.locale", "NO_COLOR": "1", "TERM": "no-such-terminal"},
        {"LANG": "C.UTF-8", "TERM": ""},
    ],
    ids=str,
)
def test_locale_and_terminal(
    trace: Any, tmp_path: Path, called: Any, unescape: Any, env: Any
) -> None:
    """Whatever the environment says of language and terminal, rows are whole."""
    watched = tmp_path / "grün"
    tool = trace("opensnoop", "--comm", "pytest-names", "-n", "gr*n", env=env)
    with called(b"pytest-names"):
        watched.touch()
    tool.end()
    (row,) = tool.rows

    assert 0 == tool.code
    assert [str(os.getpid()), "pytest-names"] == row[:2]
    assert os.fsencode(watched) == unescape(row[-1])
    assert all(line == line.rstrip() for line in tool.out.split("\n"))
    if env.get("LC_ALL") in ("C", "POSIX"):
        assert tool.out.isascii()


def test_help_ignores_the_terminal(run: Any, tool_name: str) -> None:
    """The help is the same for any terminal."""
    helps = []
    for env in ({"COLUMNS": "10", "TERM": "dumb"}, {"LC_ALL": "C"}, {"COLUMNS": "500"}):
        with run(tool_name, "--help", env=env) as tool:
            helps.append(tool.ended().out)

    assert 1 == len(set(helps))
    assert max(map(len, helps[0].split("\n"))) < 120


def test_doctor(run: Any) -> None:
    """The doctor tells of every tool whether it works; its code is that of the worst."""
    with run("tracewheel", "doctor") as doctor:
        doctor.ended()
    with run("tracewheel", "doctor", "--json") as programs:
        programs.ended()
    tools = {each["tool"]: each for each in json.loads(programs.out)["tools"]}

    assert doctor.code in (0, 4)
    assert doctor.code == programs.code
    assert "" == doctor.err
    assert sorted(tools) == sorted(tool_names())
    for name, told in tools.items():
        state = "works" if told["works"] else "does not work"
        assert re.search(rf"^{name} +{state}", doctor.out, re.MULTILINE)
        assert told["works"] == (not told["missing"])
        assert set(told["taken"]) == {a["ladder"] for a in told["attempts"] if not a["error"]}


def test_doctor_lists_all_ways(run: Any) -> None:
    """With -v the doctor tells of each rung whether it holds, and why it does not."""
    with run("tracewheel", "doctor", "-v") as doctor:
        doctor.ended()
    with run("opensnoop", "--explain") as tool:
        tool.ended()

    assert tool.out
    assert set(tool.out.splitlines()) <= set(doctor.out.splitlines())


def test_doctor_without_privilege(run: Any) -> None:
    """The doctor tells what is missing, and that the tools are not permitted."""
    with run("tracewheel", "doctor", user=65534, group=65534, extra_groups=[]) as doctor:
        doctor.ended()

    assert 3 == doctor.code
    assert "CAP_BPF: no\n" in doctor.out
    told = doctor.out.count("not permitted: run as root, or grant CAP_BPF and CAP_PERFMON")
    assert len(tool_names()) == told

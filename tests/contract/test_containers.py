# SPDX-License-Identifier: BSD-2-Clause
"""Containers are found by what their engines call their cgroups, and by what root has written."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host import containers
from tracewheel.runtime.host.containers import container_id, container_names, find_container, label
from tracewheel.runtime.host.errors import TargetGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

PRIME, OTHERS = 23, 17
WEB, DATABASE, QUEUE, CACHE, POD, BARE = (
    digits * 32 for digits in ("a1", "b2", "c3", "d4", "e5", "f6")
)
TWIN = WEB[:10] + "0" * 54
UID = "8a5b_1c"
# Paths as the engines make them, and the id of the container that each is of.
PATHS = {
    f"system.slice/docker-{WEB}.scope": WEB,
    f"docker/{TWIN}": TWIN,
    f"system.slice/nerdctl-{QUEUE}.scope": QUEUE,
    f"default/{BARE}": BARE,
    f"kubepods.slice/kubepods-burstable.slice/cri-containerd-{POD}.scope": POD,
    f"machine.slice/libpod-{DATABASE}.scope/container": DATABASE,
    f"machine.slice/libpod-conmon-{DATABASE}.scope": "",
    f"kubepods.slice/crio-{CACHE}.scope": CACHE,
    f"kubepods.slice/crio-conmon-{CACHE}.scope": "",
    "system.slice/nginx.service": "",
    "user.slice/user-1000.slice/user@1000.service/app.slice/backup.service": "",
    "user.slice/user-1001.slice/user@1001.service/app.slice/backup.service": "",
    "machine.slice/machine-some\\x2dbox.scope/payload": "",
    "lxc.payload.alpine": "",
}
WRITTEN: dict[str, Any] = {
    f"var/lib/docker/containers/{WEB}/config.v2.json": {"ID": WEB, "Name": "/web"},
    f"var/lib/docker/containers/{TWIN}/config.v2.json": {
        "Name": f"/k8s_app_shop_default_{UID.replace('_', '-')}_0"
    },
    f"run/containerd/io.containerd.runtime.v2.task/default/{QUEUE}/config.json": {
        "annotations": {"nerdctl/name": "queue"}
    },
    f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{POD}/config.json": {
        "annotations": {
            "io.kubernetes.cri.sandbox-name": "shop",
            "io.kubernetes.cri.container-name": "front",
        }
    },
    "var/lib/containers/storage/overlay-containers/containers.json": [
        {"id": DATABASE, "names": ["database"]}
    ],
    "var/lib/containers/storage/overlay-containers/volatile-containers.json": [
        {"id": CACHE, "names": ["k8s_cache_shop_default_8a5b_1"]}
    ],
}
NAMES = {"web": WEB, "shop/app": TWIN, "app": TWIN, "queue": QUEUE, "front": POD,
         "shop/front": POD, "database": DATABASE, "cache": CACHE}  # fmt: skip


@pytest.fixture
def engines(tmp_path: Path) -> tuple[str, str]:
    """Give a tree like that of cgroups, and a root with what engines write."""
    if os.geteuid():
        pytest.skip("needs root")
    for path in PATHS:
        (tmp_path / "cgroups" / path).mkdir(parents=True)
    for path, content in WRITTEN.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        file.chmod(0o600)
    return str(tmp_path / "cgroups"), str(tmp_path / "root")


def place_of(number: str, cgroups: str) -> tuple[int, int]:
    """Return what tells the cgroup of a container, found by its path."""
    (path,) = (path for path, found in PATHS.items() if found == number)
    parts = path.split("/")
    while number not in parts[-1]:
        parts.pop()
    return os.stat(os.path.join(cgroups, *parts)).st_ino, len(parts)


@pytest.mark.parametrize(("name", "number"), NAMES.items())
def test_names(engines: tuple[str, str], name: str, number: str) -> None:
    """A container goes by the name that its engine gave it."""
    assert place_of(number, engines[0]) == find_container(name, *engines)


@pytest.mark.parametrize("number", [*filter(None, PATHS.values())])
def test_ids(engines: tuple[str, str], number: str) -> None:
    """A container goes by its id, by the twelve digits that engines show, or by six."""
    expected = place_of(number, engines[0])

    assert expected == find_container(number, *engines)
    if number not in (WEB, TWIN):
        assert expected == find_container(number[:12], *engines)
        assert expected == find_container(number[:6].upper(), *engines)
        with pytest.raises(TargetGone):
            find_container(number[:5], *engines)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("nginx", "system.slice/nginx.service"),
        ("nginx.service", "system.slice/nginx.service"),
        ("some-box", "machine.slice/machine-some\\x2dbox.scope"),
        ("alpine", "lxc.payload.alpine"),
        ("machine.slice", "machine.slice"),
    ],
)
def test_units_and_machines(engines: tuple[str, str], text: str, path: str) -> None:
    """A unit of systemd and a machine go by their names."""
    expected = (os.stat(f"{engines[0]}/{path}").st_ino, path.count("/") + 1)

    assert expected == find_container(text, *engines)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [(WEB[:8], ["web", "shop/app"]), ("backup", ["user-1000.slice", "user-1001.slice"])],
)
def test_candidates(engines: tuple[str, str], text: str, candidates: list[str]) -> None:
    """What may be several names them all."""
    with pytest.raises(UsageError) as raised:
        find_container(text, *engines)

    assert all(each in str(raised.value) for each in candidates)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["no-such", "conmon", "0" * 64, WEB[1:], "/", "\n", "../.."])
def test_unknown(engines: tuple[str, str], text: str) -> None:
    """What is no container is told in a line."""
    with pytest.raises(TargetGone) as raised:
        find_container(text, *engines)

    assert "\n" not in str(raised.value)


def become_a_pipe(file: Path) -> None:
    """Put a pipe where a file was."""
    file.unlink()
    os.mkfifo(file)


def become_a_link(file: Path) -> None:
    """Put a symbolic link where a file was."""
    file.symlink_to(file.rename(file.with_suffix(".moved")))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.chmod(0o666),
        lambda file: file.chmod(0o620),
        lambda file: os.chown(file, 1000, 0),
        lambda file: file.write_text("{"),
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text('{"Name": {"no": "text"}, "annotations": []}'),
        lambda file: file.write_text("[1, {}]"),
        become_a_link,
        become_a_pipe,
    ],
)
def test_files_of_others(engines: tuple[str, str], spoil: Callable[[Path], Any]) -> None:
    """A file that others can write, that is none or makes no sense, names nothing."""
    spoil(Path(engines[1], next(iter(WRITTEN))))

    assert not container_names(engines[1]).get(WEB)
    with pytest.raises(TargetGone):
        find_container("web", *engines)
    assert place_of(DATABASE, engines[0]) == find_container("database", *engines)


@given(st.text(max_size=80))
def test_any_component(text: str) -> None:
    """Only 64 hexadecimal digits are an id, whatever a cgroup is called."""
    found = container_id(text)
    assert found == "" or (len(found) == 64 and int(found, 16) >= 0)
    assert container_id(f"x-{WEB}.scope") == WEB


def enter(cgroup: Path) -> Callable[[], int]:
    """Return what moves a child into a cgroup before its exec."""
    return functools.partial((cgroup / "cgroup.procs").write_text, "0")


def test_labels(cgroups: Any, engines: tuple[str, str]) -> None:
    """The innermost container is shown, by its name, or by its id if root has written none."""
    shown = {
        f"test.slice/docker-{WEB}.scope": "web",
        f"test.slice/docker-{WEB}.scope/docker/{BARE}/system.slice": BARE[:12],
        "test.slice/lxc.payload.alpine": "alpine",
        "test.slice/nginx.service": "-",
    }
    numbers = {path: cgroups(path).stat().st_ino for path in shown}

    assert shown == {path: label(number, engines[1]) for path, number in numbers.items()}
    assert "?" == label(2**63)


def test_learning(cgroups: Any) -> None:
    """What was looked at keeps its name when it is gone, and its id when it is started again."""
    lone = "09" * 32  # of which nothing is written
    path = f"test.slice/docker-{lone}.scope"
    first = cgroups(f"{path}/payload")
    numbers = [first.stat().st_ino, first.parent.stat().st_ino]
    containers.learn()
    first.rmdir()
    first.parent.rmdir()
    again = cgroups(path).stat().st_ino

    assert again not in numbers
    assert [lone[:12]] * 3 == [label(number) for number in (*numbers, again)]
    assert {numbers[1]} == {containers.container_of(number)[0] for number in (*numbers, again)}
    assert (2**62, "?") == containers.container_of(2**62)
    assert {1} == {containers.container_of(cgroups(path).stat().st_ino)[0]
                   for path in ("test.slice", "test.slice/nginx.service")}  # fmt: skip


def open_in(cgroup: Path, watched: Path, times: int) -> None:
    """Open a file so often in a process of a cgroup."""
    code = f"for _ in range({times}): open({str(watched)!r}).close()"
    subprocess.run([sys.executable, "-c", code], preexec_fn=enter(cgroup), check=True)


def test_live(cgroups: Any, engines: tuple[str, str], trace: Any, tmp_path: Path) -> None:
    """--container shows what a container does, and the column shows which one it is."""
    inside = cgroups(f"test.slice/docker-{WEB}.scope")
    other = cgroups(f"test.slice/docker-{BARE}.scope")
    watched = tmp_path / "watched"
    watched.touch()
    env = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    tools = []
    for options in ("--json --container web", "--json -v", "--columns pid,container,path"):
        script = f"mount --bind {engines[1]}/var/lib /var/lib; exec opensnoop -n watched {options}"
        tools.append(trace(shutil.which("unshare"), "-m", "sh", "-c", script, env=env))
    open_in(inside, watched, PRIME)
    open_in(other, watched, OTHERS)
    open_in(inside.parent, watched, 1)
    for tool in tools:
        tool.end()

    expected = {(inside.stat().st_ino, "web"): PRIME, (other.stat().st_ino, BARE[:12]): OTHERS,
                (inside.parent.stat().st_ino, "-"): 1}  # fmt: skip
    filtered, listed, table = tools
    assert {"web": PRIME} == filtered.completed({"web": len(filtered.json)}, {"web": PRIME})
    assert "cgroup" not in filtered.json[0]
    found = collections.Counter((each["cgroup"], each["container"]) for each in listed.json)
    assert expected == listed.completed(found, expected)
    shown = collections.Counter(row[1] for row in table.rows)
    every = collections.Counter({name: times for (_, name), times in expected.items()})
    assert shown <= every
    assert sum((every - shown).values()) <= table.skipped


@pytest.mark.parametrize("rung", ["tp_btf", "raw_tp"])
def test_live_execs(cgroups: Any, trace: Any, rung: str) -> None:
    """Each way of tracing execs shows in which container they were, and their ends."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    options = ["--exit", "-P", str(os.getpid()), "--rung", f"exec={rung}"]
    tool = trace("execsnoop", "--json", "-v", *options)
    for _ in range(PRIME):
        subprocess.run(["/bin/true"], preexec_fn=enter(inside), check=True)
    tool.end()

    assert [(inside.stat().st_ino, BARE[:12])] * 2 * PRIME == [
        (each["cgroup"], each["container"]) for each in tool.json
    ]


def test_live_connects(cgroups: Any, trace: Any) -> None:
    """Connects show in which container they were made."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    connect = f"[socket.socket().connect_ex(('127.0.0.1', 9)) for _ in range({PRIME})]"
    tool = trace("tcpconnect", "--json", "-v", "--port", "9")
    command = [sys.executable, "-c", f"import socket; {connect}"]
    subprocess.run(command, preexec_fn=enter(inside), check=True)
    tool.end()

    assert [(inside.stat().st_ino, BARE[:12])] * PRIME == [
        (each["cgroup"], each["container"]) for each in tool.json
    ]


def test_live_lines(cgroups: Any, trace: Any) -> None:
    """Lines show in which container they were typed."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    tool = trace("bashreadline", "--json", "-v")
    pid, terminal = pty.fork()
    if not pid:
        enter(inside)()
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    os.write(terminal, b": typed\r" * PRIME + b"exit\r")
    with contextlib.suppress(OSError):  # EIO: it has ended
        while os.read(terminal, 4096):
            pass
    os.waitpid(pid, 0)
    os.close(terminal)
    tool.end()

    assert [(inside.stat().st_ino, BARE[:12])] * (PRIME + 1) == [
        (each["cgroup"], each["container"]) for each in tool.json if each["pid"] == pid
    ]


def test_library(cgroups: Any, tmp_path: Path) -> None:
    """A record has its cgroup and its container when the column is asked for."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    watched = tmp_path / "watched"
    watched.touch()
    options = {"container": BARE[:7], "per_container": True, "name": "watched", "duration": 1e6}
    with tracewheel.opensnoop.trace(**options) as events:
        open_in(inside, watched, 1)
        event = next(iter(events))

    assert (inside.stat().st_ino, BARE[:12]) == (event.cgroup, event.container)


# What a child does so often, and the member that counts it.
SUMS = {
    "syscount --syscall getpgid": ("os.getpgid(0)", "count"),
    "syscount -B --syscall getpgid": ("os.getpgid(0)", "count"),
    "syscount -L --syscall getpgid": ("os.getpgid(0)", "count"),
    "syscount --hist --syscall getpgid": ("os.getpgid(0)", "count"),
    "tcpconnect -c --port 9": ("socket.socket().connect_ex(('127.0.0.1', 9))", "connects"),
    "vfsstat": ("os.rmdir(os.mkdir(sys.argv[1]) or sys.argv[1])", "mkdir"),
    "pidpersec": ("os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)", "pids"),
    "pidpersec -P": ("os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)", "pids"),
}


def act_in(cgroup: Path, code: str, times: int, *arguments: object) -> None:
    """Do something so often in a process of a cgroup."""
    code = f"import os, socket, sys, time\nfor _ in range({times}): {code}"
    command = [sys.executable, "-B", "-c", code, *map(str, arguments)]
    subprocess.run(command, preexec_fn=enter(cgroup), check=True)


def act_in_several(cgroups: Any, code: str, *arguments: object) -> dict[tuple[int, str], int]:
    """Act so in containers, one of which has two cgroups, and outside; return how often in each."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    below = cgroups(f"test.slice/docker-{BARE}.scope/system.slice")
    other = cgroups(f"test.slice/lxc.payload.{POD[:9]}")
    outside = cgroups("test.slice")
    for cgroup, times in ((inside, PRIME), (other, OTHERS), (below, 2), (outside, 1)):
        act_in(cgroup, code, times, *arguments)
    return {(inside.stat().st_ino, BARE[:12]): PRIME + 2, (other.stat().st_ino, POD[:9]): OTHERS}


@pytest.mark.parametrize("line", SUMS)
def test_sums(cgroups: Any, trace: Any, tmp_path: Path, line: str) -> None:
    """--per-container tells what each container did, in all of its cgroups together."""
    code, member = SUMS[line]
    tool = trace(*line.split(), "--per-container", "--json")
    expected = act_in_several(cgroups, code, tmp_path / "folder")
    tool.end()

    found: collections.Counter[tuple[int, str]] = collections.Counter()
    for each in tool.json:
        found[each["cgroup"], each["container"]] += each[member]
    del found[1, "-"]  # others act, too
    assert {} == tool.losses
    assert expected == tool.completed({each: found[each] for each in expected}, expected)
    assert set(expected) == {each for each, count in found.items() if count}


@pytest.mark.parametrize("line", SUMS)
def test_no_container_unless_asked(cgroups: Any, trace: Any, tmp_path: Path, line: str) -> None:
    """Without the option all containers share a row, and no row says which."""
    code, member = SUMS[line]
    tool = trace(*line.split(), "--json")
    expected = {member: sum(act_in_several(cgroups, code, tmp_path / "folder").values()) + 1}
    tool.end()

    assert all(not {"cgroup", "container"} & set(each) for each in tool.json)
    found = {member: sum(each[member] for each in tool.json)}
    assert tool.completed(found, expected)[member] >= expected[member]


def test_tables_and_headings(cgroups: Any, trace: Any) -> None:
    """A table has the container in its first column, a histogram in its heading."""
    lines = ["syscount --syscall getpgid", "syscount --hist --syscall getpgid"]
    table, histogram = tools = [trace(*line.split(), "--per-container") for line in lines]
    act_in_several(cgroups, "os.getpgid(0)")
    for tool in tools:
        tool.end()

    names = {BARE[:12], POD[:9]}
    assert ["CONTAINER", "SYSCALL", "COUNT"] == table.out.splitlines()[0].split()
    assert names == {row[0] for row in table.rows} - {"-"}
    headings = re.findall("^.* = .*$", histogram.out, re.MULTILINE)
    assert {f"syscall = getpgid, container = {name}" for name in names} == {
        heading for heading in headings if not heading.endswith("-")
    }


def test_gone_before_the_report(cgroups: Any, trace: Any) -> None:
    """A container that was there while it was traced has its name in the report."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    tool = trace("syscount", "-i", "1", "--syscall", "getpgid", "--per-container")
    tool.line()
    act_in(inside, "os.getpgid(0)", PRIME)
    inside.rmdir()
    tool.end()

    assert [BARE[:12], "getpgid"] in [row[:2] for row in tool.rows]


def test_samples(cgroups: Any, trace: Any) -> None:
    """All samples of a process are its container's."""
    inside = cgroups(f"test.slice/docker-{BARE}.scope")
    tool = trace("cpuwalk", "-P", "-F", "997", "--per-container", "--json")
    burn = "print(sum(1 for _ in iter(lambda: time.process_time() < 0.3, False)) > 0)"
    act_in(inside, f"open('/proc/self/comm', 'w').write('burner'); {burn}", 1)
    tool.end()

    burnt = [each for each in tool.json if each["comm"] == "burner"]
    assert {(inside.stat().st_ino, BARE[:12])} == {(e["cgroup"], e["container"]) for e in burnt}


def test_sleeps(cgroups: Any, trace: Any) -> None:
    """Times off the CPU are the sleeper's container's, whoever comes next."""
    tool = trace("offcputime", "-m", "15000", "--state", "1", "--per-container", "--json")
    expected = act_in_several(cgroups, "time.sleep(0.02)")
    tool.end()

    found: collections.Counter[tuple[int, str]] = collections.Counter()
    for each in tool.json:
        if any("nanosleep" in frame for frame in each["kernel_stack"]):
            found[each["cgroup"], each["container"]] += each["times"]
    unseen = tool.summary["losses"].get("unseen", 0)
    for container, times in expected.items():
        assert times - unseen <= found[container] <= times
    assert all("container" in each for each in tool.json)


@pytest.mark.parametrize("line", ["offcputime -f", "opensnoop --folded - -n watched"])
def test_outermost_frame(cgroups: Any, trace: Any, tmp_path: Path, line: str) -> None:
    """Folded stacks begin with the container, then the command."""
    (tmp_path / "watched").touch()
    tool = trace(*line.split(), "--per-container")
    act_in_several(cgroups, "time.sleep(0.01); open(sys.argv[1])", tmp_path / "watched")
    tool.end()

    comm = os.path.basename(os.path.realpath(sys.executable))[:15]
    frames = [frame.split(";") for frame in tool.out.splitlines()]
    assert {(BARE[:12],), (POD[:9],)} <= {tuple(each[:1]) for each in frames}
    assert {BARE[:12], POD[:9], "-"} == {each[0] for each in frames}
    assert {each[1] for each in frames if each[0] == BARE[:12]} & {comm, "python", "python3"}


def test_reports_as_objects(cgroups: Any) -> None:
    """Histograms, rows and stacks have the cgroup and the container, as JSON has."""
    asked: dict[str, Any] = {"syscall": "getpgid", "per_container": True}
    with contextlib.ExitStack() as tools:
        times = tools.enter_context(tracewheel.syscount.trace(**asked, hist=True))
        calls = tools.enter_context(tracewheel.syscount.trace(**asked))
        sleeps = tools.enter_context(tracewheel.offcputime.trace(per_container=True))
        done = act_in_several(cgroups, "os.getpgid(0); time.sleep(0.001)")
        objects = [*sleeps.read(), *calls.read()]
        keys = [(each.key["cgroup"], each.key["container"]) for each in times.read()]

    # An earlier test had a container of this name, and this process remembers its id.
    expected = {(containers.container_of(cgroup)[0], name) for cgroup, name in done}
    assert expected == set(keys) - {(1, "-")}
    assert expected == {(each.cgroup, each.container) for each in objects} - {(1, "-")}

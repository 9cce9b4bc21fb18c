# SPDX-License-Identifier: BSD-2-Clause
"""Containers are found by what their engines call their cgroups, and by what root has written."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime import kernel
from tracewheel.runtime.containers import container_id, container_names, label, parse_container
from tracewheel.runtime.errors import NotSupported, TargetGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    assert place_of(number, engines[0]) == parse_container(name, *engines)


@pytest.mark.parametrize("number", [*filter(None, PATHS.values())])
def test_ids(engines: tuple[str, str], number: str) -> None:
    """A container goes by its id, by the twelve digits that engines show, or by six."""
    expected = place_of(number, engines[0])

    assert expected == parse_container(number, *engines)
    if number not in (WEB, TWIN):
        assert expected == parse_container(number[:12], *engines)
        assert expected == parse_container(number[:6].upper(), *engines)
        with pytest.raises(TargetGone):
            parse_container(number[:5], *engines)


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

    assert expected == parse_container(text, *engines)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [(WEB[:8], ["web", "shop/app"]), ("backup", ["user-1000.slice", "user-1001.slice"])],
)
def test_candidates(engines: tuple[str, str], text: str, candidates: list[str]) -> None:
    """What may be several names them all."""
    with pytest.raises(UsageError) as raised:
        parse_container(text, *engines)

    assert all(each in str(raised.value) for each in candidates)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["no-such", "conmon", "0" * 64, WEB[1:], "/", "\n", "../.."])
def test_unknown(engines: tuple[str, str], text: str) -> None:
    """What is no container is told in a line."""
    with pytest.raises(TargetGone) as raised:
        parse_container(text, *engines)

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
        parse_container("web", *engines)
    assert place_of(DATABASE, engines[0]) == parse_container("database", *engines)


@given(st.text(max_size=80))
def test_any_component(text: str) -> None:
    """Only 64 hexadecimal digits are an id, whatever a cgroup is called."""
    found = container_id(text)
    assert found == "" or (len(found) == 64 and int(found, 16) >= 0)
    assert container_id(f"x-{WEB}.scope") == WEB


@pytest.fixture
def cgroups() -> Iterator[Callable[[str], Path]]:
    """Give a function that makes cgroups; they are removed after the test."""
    try:
        root = Path(kernel.cgroup_root())
    except NotSupported:
        pytest.skip("needs a cgroup2 file system")
    if os.geteuid():
        pytest.skip("needs root")
    made: list[Path] = []

    def make(path: str) -> Path:
        at = root
        for part in path.split("/"):
            at /= part
            if not at.exists():
                at.mkdir()
                made.append(at)
        return at

    yield make
    for path in reversed(made):
        path.rmdir()


def enter(cgroup: Path) -> Callable[[], None]:
    """Return what moves a child into a cgroup before its exec."""

    def move() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    return move


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

    expected = [(inside, "web")] * PRIME + [(other, BARE[:12])] * OTHERS + [(inside.parent, "-")]
    assert PRIME == len(tools[0].json)
    assert "cgroup" not in tools[0].json[0]
    assert [(c.stat().st_ino, name) for c, name in expected] == [
        (each["cgroup"], each["container"]) for each in tools[1].json
    ]
    assert [name for _, name in expected] == [row[1] for row in tools[2].rows]


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
    options = {"container": BARE[:7], "columns": "container", "name": "watched", "duration": 1e6}
    with tracewheel.opensnoop.trace(**options) as events:
        open_in(inside, watched, 1)
        event = next(iter(events))

    assert (inside.stat().st_ino, BARE[:12]) == (event.cgroup, event.container)

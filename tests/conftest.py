# SPDX-License-Identifier: BSD-2-Clause
"""How tests run a tool: start it, wait until it traces, act, end it, look at its rows."""

from __future__ import annotations

import base64
import collections
import contextlib
import ctypes
import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from tracewheel.runtime.host.cgroups import cgroup_root
from tracewheel.runtime.host.errors import NotSupported
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.shapes import WITH_COLUMNS, WITH_INTERVALS, Stream
from tracewheel.runtime.trace.btf import preempts_programs, tracepoint_args

from tests.arrays import has_module, start_array, stop_array
from tests.events import (
    IN_GUEST,
    LIMIT_S,
    FileSystem,
    attach_loop,
    flush,
    limited_memory,
    retransmit,
    type_a_line,
    use_memory,
    wait_until,
    write_to_disk,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMANDS = Path(sys.executable).parent
SECONDS_PER_TOOL = 35  # in a guest, on a machine that does nothing else; see docs/testing.md
# On such kernels programs can be preempted, and are skipped where another task comes by meanwhile.
# How often is told, not whose events were meant. Elsewhere it would be a fault.
MAY_SKIP = preempts_programs()
# Else the kernel drops packets without telling for which socket they were.
TELLS_SOCKETS = tracepoint_args("kfree_skb") > 3
# Causes of loss that no test can bring about or avoid, nor tell whose events were meant. The CPU of
# an emulated machine is late for many samples. On others so many are missing only where a test
# keeps the kernel busy with changes of maps, and then it counts them.
ANYBODYS = (
    "unseen",
    *(["unsampled"] if IN_GUEST else []),
    *(["skipped"] if MAY_SKIP else []),
    *([] if TELLS_SOCKETS else ["unowned"]),
)

settings.register_profile("tracewheel", deadline=None, database=None)
settings.load_profile("tracewheel")


class Run:
    """A tool at work. Leaving the context kills what is left of it."""

    def __init__(self, *command: str, **settings: Any) -> None:
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
        self.process = subprocess.Popen([str(COMMANDS / command[0]), *command[1:]], **settings)
        self.err = ""
        self.out = ""

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def wait_for(self, text: str) -> None:
        """Read standard error until a line has the text."""
        assert self.process.stderr
        deadline = time.monotonic() + LIMIT_S
        while text not in self.err:
            ready, _, _ = select.select([self.process.stderr], [], [], deadline - time.monotonic())
            data = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            assert data, f"ended or silent before {text!r}: {self.err}"
            self.err += data.decode()

    def attached(self) -> Run:
        """Wait until the tool traces."""
        self.wait_for("Tracing ")
        return self

    def line(self) -> str:
        """Wait for a line on standard output."""
        assert self.process.stdout
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
            # A byte at a time: what a buffer held would be missing from what ended() reads.
            byte = os.read(self.process.stdout.fileno(), 1) if ready else b""
            assert byte, "no line"
            line += byte
        self.out += line.decode()
        return line.decode()

    def end(self, number: int = signal.SIGINT) -> Run:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> Run:
        """Wait until the tool has ended by itself."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        self.out += (out or b"").decode()
        self.err += (err or b"").decode()
        return self

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def code(self) -> int:
        """The exit code."""
        return self.process.returncode

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line, the header left out."""
        return [line.split() for line in self.out.splitlines()[1:]]

    @property
    def json(self) -> list[dict[str, Any]]:
        """The JSON objects but the last, which is the summary."""
        return [json.loads(line) for line in self.out.splitlines()][:-1]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of a run with --json."""
        summary: dict[str, Any] = json.loads(self.out.splitlines()[-1])["summary"]
        return summary

    @property
    def losses(self) -> dict[str, int]:
        """The losses that a run with --json tells, but for programs that the kernel may skip."""
        losses = self.summary["losses"].items()
        return {cause: n for cause, n in losses if cause not in ANYBODYS}

    def completed(self, found: dict[Any, int], expected: dict[Any, int]) -> dict[Any, int]:
        """Return counts as expected where they lack no more than what the kernel may skip."""
        skipped = self.summary["losses"].get("skipped", 0) if MAY_SKIP else 0
        lacking = {what: expected.get(what, count) - count for what, count in found.items()}
        return {
            what: count + lack if 0 <= lack <= skipped else count
            for (what, count), lack in zip(found.items(), lacking.values())
        }

    @property
    def counted(self) -> tuple[int, int]:
        """How many events the last line of standard error says were seen and lost.

        Less the runs of programs that the kernel skipped: they are said, but may be anybody's.
        """
        seen, lost, _ = self._conclusion()
        return seen, lost - self.skipped

    @property
    def skipped(self) -> int:
        """How many events the last line says were lost by a cause of ANYBODYS."""
        found = re.findall(r"(\w+) (\d+)", self._conclusion()[2])
        return sum(int(count) for cause, count in found if cause in ANYBODYS)

    def _conclusion(self) -> tuple[int, int, str]:
        last = self.err.splitlines()[-1]
        found = re.fullmatch(
            r"\w+: (\d+) \w+, (\d+) lost( \([^)]+\))?(?:, \d+ repeats not shown)?", last
        )
        assert found, self.err
        return int(found[1]), int(found[2]), found[3] or ""


@functools.cache  # takes longer than a start of the tool
def explain(tool: str, *options: str) -> str:
    """Return what a tool says of the ways of tracing that this kernel allows."""
    return subprocess.run(
        [COMMANDS / tool, *options, "--explain"], capture_output=True, text=True, timeout=LIMIT_S
    ).stdout


def rungs(tool: str, ladder: str, *options: str) -> list[str]:
    """Return the rungs of a ladder that this kernel offers, as --explain tells."""
    found = []
    for line in explain(tool, *options).splitlines():
        what, _, state = line.partition(": ")[2].partition(": ")
        name, _, rung = what.partition(" by ")
        if name == ladder and state.startswith(("taken", "holds")):
            found.append(rung)
    return found


@pytest.fixture
def run() -> type[Run]:
    """Give the class that runs a tool."""
    return Run


@pytest.fixture
def trace(run: type[Run]) -> Any:
    """Give a function that starts a tool and returns when it traces; ended after the test."""
    if os.geteuid():
        pytest.skip("needs root")
    started: list[Run] = []

    def start(*command: str, **settings: Any) -> Run:
        started.append(run(*command, **settings))
        return started[-1].attached()

    yield start
    for each in started:
        each.__exit__()


@pytest.fixture(scope="session")
def rungs_of() -> Any:
    """Give the function that lists the rungs of a ladder that hold on this kernel."""
    return rungs


# One tool of each shape. What the runtime does for all tools of a shape, and no kernel changes, CI
# tests in guests by these, so that a guest takes no longer for each tool that is added.
REPRESENTATIVES = ("offcputime", "opensnoop", "runqlat", "syscount", "vfsstat")
ONLY_REPRESENTATIVES = bool(os.environ.get("TRACEWHEEL_ONLY_REPRESENTATIVES"))
KINDS = {
    "tool_name": (object,),
    "stream_name": (Stream,),
    "table_name": WITH_COLUMNS,
    "interval_name": WITH_INTERVALS,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test that asks for tool_name for each tool, or for those of a kind."""
    for fixture in set(KINDS) & set(metafunc.fixturenames):
        names = [n for n in tool_names() if isinstance(load_tool(n)[0], KINDS[fixture])]
        if ONLY_REPRESENTATIVES and not metafunc.definition.get_closest_marker("each_tool"):
            names = [n for n in names if n in REPRESENTATIVES]
        metafunc.parametrize(fixture, names)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what CI runs on every kernel: the contract, and tests of each way of tracing."""
    for item in items:
        if "contract" in item.path.parts or "rungs_of" in item.fixturenames:
            item.add_marker("each_kernel")


def tool_of(item: pytest.Function) -> str | None:
    """Return the tool that a test is of: by its parameter, or by the name of its file."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    named = [str(parameters[fixture]) for fixture in KINDS if fixture in parameters]
    file = item.path.stem.removeprefix("test_")
    if "tools" in item.path.parts and file in tool_names():
        named.append(file)
    return named[0] if named else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    """Note of which tool the test is, for the times that are printed in the end."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    report.user_properties.append(("tool", tool_of(item)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how long the tests of each tool took, if they are to be fast: in a guest."""
    seconds: collections.defaultdict[object, float] = collections.defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[dict(report.user_properties)["tool"]] += report.duration
    if not IN_GUEST or not seconds:
        return
    terminalreporter.section(f"seconds per tool; {SECONDS_PER_TOOL} are allowed")
    for tool, took in sorted(seconds.items(), key=lambda each: -each[1]):
        mark = " (too slow)" if tool and took > SECONDS_PER_TOOL else ""
        terminalreporter.write_line(f"{took:7.1f} {tool or 'of no tool'}{mark}")


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], None]:
    """Give the function that waits for what cannot be read from a descriptor."""
    return wait_until


class Kernel:
    """The BPF objects in the kernel, as pairs of kind and id."""

    def __init__(self) -> None:
        self._libbpf = ctypes.CDLL("libbpf.so.1")

    def held_by(self, pid: int) -> set[tuple[str, int]]:
        """Return those that a process has a descriptor of."""
        text = ""
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                text += info.read_text()
        found = re.findall(r"^(prog|map|link)_id:\s(\d+)$", text, re.MULTILINE)
        return {(kind, int(number)) for kind, number in found}

    def all(self) -> set[tuple[str, int]]:
        """Return all."""
        return {(kind, number) for kind in ("prog", "map", "link") for number in self._ids(kind)}

    def _ids(self, kind: str) -> Iterator[int]:
        number = ctypes.c_uint32(0)
        following = getattr(self._libbpf, f"bpf_{kind}_get_next_id")
        while not following(number, ctypes.byref(number)):
            yield number.value


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Give the view of the kernel's BPF objects."""
    return Kernel()


def unescape_text(shown: str) -> bytes:
    """Return the bytes of which a table shows an escaped text."""
    letters = {"n": b"\n", "t": b"\t", "r": b"\r", "\\": b"\\"}

    def one(found: re.Match[bytes]) -> bytes:
        what = found[1].decode()
        return letters[what] if what in letters else bytes.fromhex(what[1:])

    return re.sub(rb"\\(\\|n|t|r|x[0-9a-f]{2})", one, shown.encode())


@pytest.fixture(scope="session")
def unescape() -> Callable[[str], bytes]:
    """Give the function that undoes the escaping of tables."""
    return unescape_text


def bytes_in_json(record: dict[str, Any], name: str) -> bytes:
    """Return the bytes of a text in a JSON record, also where they are no UTF-8."""
    if f"{name}_b64" in record:
        return base64.b64decode(record[f"{name}_b64"], validate=True)
    return os.fsencode(record[name])


@pytest.fixture(scope="session")
def bytes_in() -> Callable[[dict[str, Any], str], bytes]:
    """Give the function that reads a text of a JSON record."""
    return bytes_in_json


@contextlib.contextmanager
def name_thread(name: bytes) -> Iterator[None]:
    """Give the main thread another name meanwhile."""
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()[:-1]  # the kernel's newline is not part of it
    comm.write_bytes(name)
    try:
        yield
    finally:
        comm.write_bytes(before)


@pytest.fixture(scope="session")
def called() -> Callable[[bytes], contextlib.AbstractContextManager[None]]:
    """Give `name_thread`."""
    return name_thread


@pytest.fixture(scope="session")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSystem]:
    """Give a file system on a loop device."""
    if os.geteuid():
        pytest.skip("needs root")
    folder = tmp_path_factory.mktemp("file-system")
    image, path = folder / "image", folder / "mounted"
    image.touch()
    os.truncate(image, 4 << 20)
    path.mkdir()
    subprocess.run(["mkfs.ext2", "-q", "-F", image], check=True)
    loop = attach_loop(image)
    subprocess.run(["mount", loop, path], check=True)
    yield FileSystem(path, os.path.basename(loop))
    subprocess.run(["umount", path], check=True)
    subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture(scope="session")
def small_array(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the path of an array of one disk, empty where the kernel has no arrays."""
    if os.geteuid() or not (has_module("md-mod") and has_module("raid1")):
        assert not IN_GUEST, "no kernel module raid1"
        yield ""
        return
    image = tmp_path_factory.mktemp("array") / "image"
    image.touch()
    os.truncate(image, 8 << 20)
    loop = attach_loop(image)
    name = start_array("raid1", [os.path.basename(loop)])
    yield f"/dev/{name}"
    stop_array(name)
    subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.fixture
def stir(
    tmp_path: Path, small_memory: Path | None, request: pytest.FixtureRequest
) -> Callable[[], None]:
    """Give a function that makes some of every event: an open, an exec, a connection, a line.

    The events of `silent_tools` are left out.
    """

    def make_events() -> None:
        for number in range(3):
            with open(tmp_path / f"stirred-{number}", "wb") as file:
                file.write(bytes(4096))
                os.fsync(file.fileno())
            subprocess.run(["/bin/true"], check=True)
            os.kill(os.getpid(), 0)
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as refused:
                address = server.getsockname()
                with socket.create_connection(address):
                    server.accept()[0].close()
                server.close()
                refused.connect_ex(address)
        retransmit()
        type_a_line()
        if not os.geteuid():
            write_to_disk(file.name)
            written: FileSystem = request.getfixturevalue("file_system")
            written.dirty(1)
            written.sync()
            flush(request.getfixturevalue("small_array"))
            os.setgroups(os.getgroups())  # the kernel checks CAP_SETGID
        if small_memory:
            use_memory(small_memory, 64 << 20)

    return make_events


@pytest.fixture(scope="session")
def silent_tools(small_array: str, small_memory: Path | None) -> set[str]:
    """Give the names of the tools whose events cannot happen on this machine."""
    can_happen = {"mdflush": bool(small_array), "oomkill": bool(small_memory)}
    return {tool for tool, can in can_happen.items() if not can}


@pytest.fixture(scope="session")
def small_memory() -> Iterator[Path | None]:
    """Give a cgroup with little memory, None where that is impossible."""
    with limited_memory(f"tracewheel-stir-{os.getpid()}", 4 << 20) as cgroup:
        yield cgroup


@pytest.fixture
def cgroups() -> Iterator[Callable[[str], Path]]:
    """Give a function that makes cgroups; they are removed after the test."""
    try:
        root = Path(cgroup_root())
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
        if path.exists():
            path.rmdir()

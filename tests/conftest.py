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
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings
from tracewheel.runtime.host.cgroups import cgroup_root
from tracewheel.runtime.host.errors import NotSupported
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.shapes import WITH_COLUMNS, WITH_INTERVALS, Stream
from tracewheel.runtime.trace.btf import preempts_programs, tracepoint_args

from tests.arrays import has_module, start_array, stop_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMANDS = Path(sys.executable).parent
LIMIT_S = 120  # emulated machines are slow
SECONDS_PER_TOOL = 35  # in a guest, on a machine that does nothing else; see docs/testing.md
# On such kernels programs can be preempted, and are skipped where another task comes by meanwhile.
# How often is told, not whose events were meant. Elsewhere it would be a fault.
MAY_SKIP = preempts_programs()
# Else the kernel drops packets without telling for which socket they were.
TELLS_SOCKETS = tracepoint_args("kfree_skb") > 3
# Causes of loss that no test can bring about or avoid, nor tell whose events were meant. The CPU of
# an emulated machine is late for many samples. On others so many are missing only where a test
# keeps the kernel busy with changes of maps, and then it counts them.
IN_GUEST = bool(os.environ.get("TRACEWHEEL_GUEST"))
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


def wait_until(claim: Callable[[], Any]) -> None:
    """Wait until a claim is true."""
    deadline = time.monotonic() + LIMIT_S
    while not claim():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.005)


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


class FileSystem(NamedTuple):
    """A file system of which nobody else knows."""

    path: Path
    disk: str

    def file(self, pages: int) -> Path:
        """Return a file of so many pages. What is new has its place on the disk."""
        path = self.path / f"{pages}-pages"
        if not path.exists():
            path.touch()
            self.dirty(pages)
            self.sync()
        return path

    def dirty(self, pages: int) -> None:
        """Change so many pages, all of a file, and leave them in memory."""
        with open(self.file(pages), "r+b") as file:
            file.write(os.urandom(pages * os.sysconf("SC_PAGESIZE")))

    def sync(self) -> None:
        """Have all pages written, in the name of this process."""
        folder = os.open(self.path, os.O_RDONLY)
        assert not ctypes.CDLL(None).syncfs(folder)
        os.close(folder)


def attach_loop(image: Path) -> str:
    """Make a loop device of a file; return its path."""
    losetup = ["losetup", "--find", "--show", str(image)]
    return subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()


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


def flush(disk: str) -> None:
    """Flush the write cache of a disk, if there is one."""
    if not disk:
        return
    fd = os.open(disk, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)


class Instruction(ctypes.Structure):
    """An instruction of a socket filter: struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("number", ctypes.c_uint32),
    )


class Filter(ctypes.Structure):
    """A socket filter: struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
BPF_RET = 6
IGNORE_ALL = ((BPF_RET, 0, 0, 0),)
TCPI_TOTAL_RETRANS = 100  # offset in struct tcp_info of linux/tcp.h


def ignore(end: socket.socket, what: tuple[tuple[int, int, int, int], ...] = IGNORE_ALL) -> None:
    """Let a socket drop packets before TCP has seen them: all, or those that a filter chooses."""
    instructions = (Instruction * len(what))(*(Instruction(*each) for each in what))
    program = Filter(len(what), instructions)
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))


def heed(end: socket.socket) -> None:
    """Let a socket take packets again."""
    end.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def tcp_info(end: socket.socket, offset: int) -> int:
    """Return a number that the kernel tells of a TCP socket."""
    info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return int.from_bytes(info[offset : offset + 4], sys.byteorder)


def retransmit() -> None:
    """Send what the other end ignores, until it is sent again.

    Of two segments without an answer the kernel sends one again within some 10 ms.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer, _ = server.accept()
    ignore(peer)
    for _ in range(2):
        client.send(b"x")
    wait_until(lambda: tcp_info(client, TCPI_TOTAL_RETRANS))
    heed(peer)
    client.close()
    peer.close()


def type_a_line() -> None:
    """End a shell on a terminal of its own by typing that."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    os.write(terminal, b"exit\r")
    with contextlib.suppress(OSError):  # EIO: it has ended
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)


def memory_root() -> Path | None:
    """Return the root of the cgroups that can limit memory, None if there are none."""
    for mount in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options = mount.split()[:4]
        controllers = Path(path, "cgroup.controllers")
        has_memory = kind == "cgroup2" and "memory" in controllers.read_text().split()
        if has_memory or (kind == "cgroup" and "memory" in options.split(",")):
            return Path(path)
    return None


def is_empty(cgroup: Path) -> bool:
    """Tell whether all processes of a cgroup have ended."""
    return not (cgroup / "cgroup.procs").read_text()


@contextlib.contextmanager
def limited_memory(name: str, limit: int) -> Iterator[Path | None]:
    """Make a cgroup whose processes have so many bytes of memory; None if that is impossible."""
    root = memory_root()
    if os.geteuid() or not root:
        assert not IN_GUEST, "no cgroups for memory"
        yield None
        return
    cgroup, control = root / name, root / "cgroup.subtree_control"
    enables = control.exists() and "memory" not in control.read_text().split()
    if enables:
        control.write_text("+memory")
    cgroup.mkdir()
    for file in ("memory.max", "memory.limit_in_bytes"):
        if (cgroup / file).exists():
            (cgroup / file).write_text(str(limit))
    if (cgroup / "memory.swap.max").exists():
        (cgroup / "memory.swap.max").write_text("0")
    if (cgroup / "memory.swappiness").exists():
        (cgroup / "memory.swappiness").write_text("0")
    try:
        yield cgroup
    finally:
        for path in (*cgroup.glob("*/"), cgroup):
            wait_until(functools.partial(is_empty, path))
            path.rmdir()
        if enables:
            control.write_text("-memory")


@pytest.fixture(scope="session")
def small_memory() -> Iterator[Path | None]:
    """Give a cgroup with little memory, None where that is impossible."""
    with limited_memory(f"tracewheel-stir-{os.getpid()}", 4 << 20) as cgroup:
        yield cgroup


def use_memory(cgroup: Path, size: int) -> subprocess.Popen[bytes]:
    """Have a process of a cgroup killed for want of so many bytes of memory; return it."""
    enter = functools.partial((cgroup / "cgroup.procs").write_text, "0")
    process = subprocess.Popen(
        ["dd", "if=/dev/zero", "of=/dev/null", f"bs={size}", "count=1"],
        stderr=subprocess.DEVNULL, preexec_fn=enter,
    )  # fmt: skip
    assert -signal.SIGKILL == process.wait(LIMIT_S)
    return process


def write_to_disk(image: str) -> None:
    """Write to a loop device: a temporary folder need not be on a disk."""
    path = attach_loop(Path(image))
    with open(path, "r+b") as disk:
        disk.write(bytes(4096))
        os.fsync(disk.fileno())
    subprocess.run(["losetup", "--detach", path], check=True)


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

# SPDX-License-Identifier: BSD-2-Clause
"""Events that tools trace, each made when it is wanted, and how to wait for what takes its time."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 120  # emulated machines are slow
IN_GUEST = bool(os.environ.get("TRACEWHEEL_GUEST"))


def wait_until(claim: Callable[[], Any]) -> None:
    """Wait until a claim is true."""
    deadline = time.monotonic() + LIMIT_S
    while not claim():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.005)


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

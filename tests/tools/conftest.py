# SPDX-License-Identifier: BSD-2-Clause
"""What tests of single tools act on: disks, cgroups and system calls of 32-bit programs."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.host.cgroups import cgroup_root

from tests.arrays import load_module
from tests.events import IN_GUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
LOOP_CTL_ADD, LOOP_CTL_REMOVE = 0x4C80, 0x4C81
IOCB = struct.Struct("QIiHhIQQqQII")  # struct iocb of linux/aio_abi.h
IO_EVENT = struct.Struct("QQqq")
AIO = {
    "x86_64": {"io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209},
    "aarch64": {"io_setup": 0, "io_destroy": 1, "io_getevents": 4, "io_submit": 2},
}


def aio(name: str, *arguments: Any) -> int:
    """Make a system call of asynchronous I/O, which the C library does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    ret: int = libc.syscall(AIO[os.uname().machine][name], *arguments)
    if ret < 0:
        raise OSError(ctypes.get_errno(), name)
    return ret


def by_io_uring(operation: int, fd: int, address: int, flags: int) -> int:
    """Let io_uring do something, without a system call for it; return the result."""
    setup, enter, wait = 425, 426, 1
    libc = ctypes.CDLL(None)
    params = (ctypes.c_uint32 * 30)()  # struct io_uring_params
    ring = libc.syscall(setup, 1, params)
    if ring < 0:
        assert not IN_GUEST, "no io_uring"
        pytest.skip("needs io_uring")
    completions = params[1]
    tail, array, results = params[11], params[16], params[25]
    with (
        mmap.mmap(ring, max(array + 4, results + 16 * completions)) as queues,
        mmap.mmap(ring, 64, offset=0x10000000) as entries,
    ):
        struct.pack_into("<BBHiQQII", entries, 0, operation, 0, 0, fd, 0, address, 0, flags)
        struct.pack_into("<I", queues, array, 0)
        struct.pack_into("<I", queues, tail, 1)
        assert 1 == libc.syscall(enter, ring, 1, 1, wait, None, 0)
        result: int = struct.unpack_from("<i", queues, results + 8)[0]
    os.close(ring)
    return result


class Reads(NamedTuple):
    """The kernel's counts of reads of a disk."""

    requests: int
    merged: int  # into the request of another
    sectors: int
    took_ms: int


class Disk:
    """A disk of which nobody else knows."""

    BLOCK = 4096

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.settings = Path("/sys/block", self.name)

    def read(self, count: int, size: int = BLOCK, first: int = 0) -> float:
        """Read past the page cache; return the microseconds that all reads took."""
        return self._transfer(os.preadv, count, size, first)

    def write(self, count: int) -> float:
        """Write likewise."""
        return self._transfer(os.pwritev, count, self.BLOCK)

    def _transfer(self, call: Any, count: int, size: int, first: int = 0) -> float:
        took = 0.0
        with mmap.mmap(-1, size) as buffer:
            fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            try:
                for number in range(first, first + count):
                    begin = time.monotonic_ns()
                    assert size == call(fd, [buffer], number * size)
                    took += (time.monotonic_ns() - begin) / 1000
            finally:
                os.close(fd)
        return took

    def reads(self) -> Reads:
        """Return what the kernel has counted."""
        return Reads(*map(int, (self.settings / "stat").read_text().split()[:4]))

    @contextlib.contextmanager
    def reading(self, blocks: Iterable[int]) -> Iterator[None]:
        """Have reads of all these blocks under way, begun by one system call."""
        blocks = list(blocks)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, len(blocks) * self.BLOCK) as buffer:
            begin = ctypes.addressof(hold := ctypes.c_char.from_buffer(buffer))
            calls = [
                IOCB.pack(0, 0, 0, 0, 0, fd, begin + at * self.BLOCK, self.BLOCK,
                          block * self.BLOCK, 0, 0, 0)
                for at, block in enumerate(blocks)
            ]  # fmt: skip
            each = (ctypes.c_char_p * len(calls))(*calls)
            answers = ctypes.create_string_buffer(len(calls) * IO_EVENT.size)
            context = ctypes.c_ulong()
            aio("io_setup", len(calls), ctypes.byref(context))
            try:
                assert len(calls) == aio("io_submit", context, len(calls), each)
                yield
                assert len(calls) == aio(
                    "io_getevents", context, len(calls), len(calls), answers, None
                )
            finally:
                aio("io_destroy", context)
                os.close(fd)
                del hold  # the buffer closes only then
        assert {self.BLOCK} == {answer[2] for answer in IO_EVENT.iter_unpack(answers)}

    def remove(self) -> None:
        """Unplug this loop device."""
        subprocess.run(["losetup", "--detach", self.path], check=True)
        with open("/dev/loop-control") as control:
            fcntl.ioctl(control, LOOP_CTL_REMOVE, int(self.name[len("loop") :]))

    def flush_and_discard(self) -> None:
        """Make one request of each of these kinds."""
        fd = os.open(self.path, os.O_RDWR)
        fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", 0, self.BLOCK))
        os.fsync(fd)
        os.close(fd)

    def write_zeroes(self, block: int) -> None:
        """Have the disk itself zero a block, without sending it any."""
        with open(self.path, "r+b") as file:
            fcntl.ioctl(file, BLKZEROOUT, struct.pack("QQ", block * self.BLOCK, self.BLOCK))

    def read_in_a_child(self, count: int, **settings: Any) -> int:
        """Let another process read; return its id."""
        child = subprocess.Popen(
            ["dd", f"if={self.path}", "of=/dev/null", f"bs={self.BLOCK}", f"count={count}",
             "iflag=direct", "status=none"], **settings,
        )  # fmt: skip
        assert 0 == child.wait()
        return child.pid


class Volume(Disk):
    """A device that the device mapper makes of others."""

    def __init__(self, name: str, table: str) -> None:
        self.volume = name
        subprocess.run(["dmsetup", "create", name, "--noudevsync", "--table", table], check=True)
        told = subprocess.run(
            ["dmsetup", "info", "-c", "--noheadings", "-o", "blkdevname", name],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        super().__init__(f"/dev/{told.stdout.strip()}")

    def control(self, command: str) -> None:
        """Give the device mapper a command for this device."""
        subprocess.run(["dmsetup", command, "--noudevsync", self.volume], check=True)


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Give a function that makes a loop device, with options; they are removed after the test."""
    if os.geteuid():
        pytest.skip("needs root")
    subprocess.run(["modprobe", "-q", "loop"], check=False)
    disks: list[Disk] = []

    def make(*options: str) -> Disk:
        file = tmp_path / f"disk-{len(disks)}"
        with open(file, "wb") as image:
            image.truncate(8 << 20)
        made = subprocess.run(
            ["losetup", "--find", "--show", *options, str(file)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        disks.append(Disk(made.stdout.strip()))
        return disks[-1]

    yield make
    for disk in disks:
        if disk.settings.exists():
            subprocess.run(["losetup", "--detach", disk.path], check=True)


@pytest.fixture
def disk(new_disk: Callable[[], Disk]) -> Disk:
    """Give a disk."""
    return new_disk()


@pytest.fixture
def new_volume() -> Iterator[Callable[[str, str], Volume]]:
    """Give a function that makes a volume of a name and a table; removed after the test."""
    if os.geteuid():
        pytest.skip("needs root")
    load_module("dm-mod")
    volumes: list[Volume] = []

    def make(name: str, table: str) -> Volume:
        volumes.append(Volume(name, table))
        return volumes[-1]

    yield make
    for volume in volumes:
        volume.control("remove")


@pytest.fixture
def null_disk() -> Iterator[Callable[[int], Disk]]:
    """Give a function that makes a disk that takes so many ms for each request, or no time."""
    made = []

    def make(takes_ms: int) -> Disk:
        how = ["irqmode=2", f"completion_nsec={takes_ms * 1_000_000}"] if takes_ms else []
        load = ["modprobe", "-q", "null_blk", "nr_devices=1", *how]
        if subprocess.run(load, check=False).returncode:
            pytest.skip("needs null_blk")
        made.append(Disk("/dev/nullb0"))
        return made[-1]

    yield make
    if made:
        subprocess.run(["modprobe", "-r", "null_blk"], check=True)


@pytest.fixture
def slow_disk(null_disk: Callable[[int], Disk]) -> Disk:
    """Give a disk that takes 25 ms for each request."""
    return null_disk(25)


class ScsiDisk(Disk):
    """A simulated disk that goes wrong in a chosen way, now and then."""

    SHORT_TRANSFER, HOST_BUSY = 0x100, 0x8000
    TAKES_NS = 2_000_000

    def go_wrong(self, how: int, every: int = 3) -> None:
        """Go wrong in every third command, or so, from now on."""
        driver = Path("/sys/bus/pseudo/drivers/scsi_debug")
        (driver / "opts").write_text(str(how))
        (driver / "every_nth").write_text(str(every))


@pytest.fixture
def scsi_disk(until: Callable[[Any], None]) -> Iterator[ScsiDisk]:
    """Give a disk that takes 2 ms or more for each command."""
    subprocess.run(["modprobe", "-q", "sd_mod"], check=False)
    command = ["modprobe", "-q", "scsi_debug", "dev_size_mb=16"]
    command.append(f"ndelay={ScsiDisk.TAKES_NS}")
    if subprocess.run(command, check=False).returncode:
        pytest.skip("needs scsi_debug")
    pattern = "bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/sd*"
    until(lambda: [path for path in Path("/sys").glob(pattern) if (path / "dev").exists()])
    [found] = Path("/sys").glob(pattern)
    until(Path("/dev", found.name).exists)
    yield ScsiDisk(f"/dev/{found.name}")
    subprocess.run(["modprobe", "-r", "scsi_debug"], check=True)


@pytest.fixture
def kernel_says() -> Iterator[Callable[[str], list[str]]]:
    """Give a function that lists what a block tracepoint has said, as tracefs tells."""
    instance = Path("/sys/kernel/tracing/instances/tracewheel-test")
    if not instance.parent.exists():
        pytest.skip("needs tracefs")
    instance.mkdir()
    (instance / "buffer_size_kb").write_text("8192")  # other disks may be busy
    (instance / "events/block/enable").write_text("1")
    yield lambda name: [
        line.partition(f" {name}: ")[2]
        for line in (instance / "trace").read_text().splitlines()
        if f" {name}: " in line
    ]
    instance.rmdir()


class Cgroup:
    """A cgroup of one test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.stat().st_ino

    def enter(self) -> None:
        """Move the current process into it."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))


@pytest.fixture
def new_cgroup() -> Iterator[Callable[..., Cgroup]]:
    """Give a function that makes a cgroup with some controllers; removed after the test."""
    if os.geteuid():
        pytest.skip("needs root")
    root = Path(cgroup_root())
    path, control = root / "tracewheel-test", root / "cgroup.subtree_control"
    enabled: list[str] = []

    def make(*controllers: str) -> Cgroup:
        missing = {*controllers} - {*(root / "cgroup.controllers").read_text().split()}
        if missing:
            pytest.skip(f"needs {missing} in the cgroup2 hierarchy")
        for name in {*controllers} - {*control.read_text().split()}:
            control.write_text(f"+{name}")
            enabled.append(name)
        path.mkdir()
        return Cgroup(path)

    yield make
    if path.exists():
        path.rmdir()
    for name in enabled:
        control.write_text(f"-{name}")


# int 0x80 with the six arguments of a function: the number of a call and its arguments.
_CALL_32 = bytes.fromhex("53 4889f8 4889f3 4887ca 4c89c6 4c89cf cd80 5b c3")
_GARBAGE = 0xDEADBEEF << 32  # in the upper halves of registers, which such a call does not look at
_PATH_AT, _BUFFER_AT = 64, 8192  # in a page that 32 bits can address


def _make_calls_32(path: str, calls: Iterable[tuple[Any, ...]]) -> None:
    below_4g = 0x40
    page = mmap.mmap(
        -1,
        16384,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | below_4g,
        mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )
    page[: len(_CALL_32)] = _CALL_32
    page[_PATH_AT : _PATH_AT + len(path)] = os.fsencode(path)
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))
    addresses = {"path": at + _PATH_AT, "buffer": at + _BUFFER_AT}
    call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_uint64] * 6)(at)
    for number, *arguments in calls:
        values = [addresses.get(argument, argument) for argument in arguments]
        whole = [number, *values, *[0] * (5 - len(values))]
        call(*(_GARBAGE | value for value in whole))


@pytest.fixture
def call_32() -> Callable[..., int]:
    """Give a function that makes 32-bit calls in a process of its own; it returns the process's id.

    A call is a number and up to five arguments, of which "path" stands for the address of the path,
    and "buffer" for that of some memory.
    """
    if platform.machine() != "x86_64":
        pytest.skip("needs 32-bit calls of x86")

    def make(path: str, *calls: tuple[Any, ...]) -> int:
        child = os.fork()
        if not child:
            _make_calls_32(path, calls)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV:
            assert not IN_GUEST, "no 32-bit calls"
            pytest.skip("needs CONFIG_IA32_EMULATION")
        return child

    return make

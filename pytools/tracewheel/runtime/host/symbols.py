# SPDX-License-Identifier: BSD-2-Clause
"""Names of addresses, in the kernel and in programs.

A name is ``function+0x12``. An address without a function is named ``[module+0x12]``, with the
offset in the module's file, or ``[unknown+0x12]``, with the address itself. Other people write the
files that names come from: escape a name before a terminal shows it.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import itertools
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.processes import status_of
from tracewheel.runtime.host.rust_names import demangle

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable, Iterator


KERNEL = 2**32 - 1  # stands for the kernel where a process is expected
_FRESH_S = 0.1  # for so long a process is taken to run the same program as before
_READ_SHARE = 10  # reading a process's mappings again takes at most one part of so many of the time
# The most that is kept: processes, bytes of all symbols, and names.
_PROCESSES = 4096
_BYTES = 256 << 20
_NAMES = 1 << 16
# The most bytes that are read of each.
_MAPS_MOST = 16 << 20
_LINES_MOST = 64 << 20
_VDSO_MOST = 1 << 16
_OFFSET_MOST = 2**63 - 1  # in a file, as loff_t has it
_NAME_MOST = 384  # bytes of a name that are shown
_CHARS_MOST = 1024  # bytes of a name that are read: a forged name may be of any length
_DEBUG = "/usr/lib/debug"
_VDSO = b"[vdso]"
_LINES = b"perf-PID.map"  # in place of a path: the lines that a JIT compiler has written
_ADDRESSES = 1 << 64  # more than any address
_RUST = {"LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ",", "RF": "&", "BP": "*", "SP": "@"}
_Found = tuple[str, int]  # a function, and the bytes from its start to the address
_new = ffi.new_allocator(should_clear_after_alloc=False)


class Mapping(NamedTuple):
    """A range of addresses that a process may execute, and the part of a file mapped there."""

    start: int
    end: int
    offset: int
    inode: int  # 0 without a file
    path: bytes

    def place(self, address: int) -> int:
        """Return the offset of an address in the file."""
        return address - self.start + self.offset

    def __str__(self) -> str:
        base = os.fsdecode(os.path.basename(self.path.removesuffix(b" (deleted)")))
        return base.strip("[]") or "anon"


class _Key(NamedTuple):
    """What tells apart the files that names come from."""

    inode: int  # 0 for the vDSO and for a JIT compiler's lines
    path: bytes
    size: int
    identity: tuple[int, ...]  # device, inode and time of the last change; empty for the vDSO


class Frames:
    """The names of frames that the shim renders. They are forgotten when they may have changed."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pointer = ffi.new("struct shim_frames *")
        self._symbols = Symbols()
        self._since = 0.0
        for pid in pids:
            self._symbols.learn(pid)

    def refresh(self) -> None:
        """Forget the names if a process may have begun to run another program since."""
        now = time.monotonic()
        if now - self._since > _FRESH_S:
            lib.shim_frames_forget(self.pointer)
            self._since = now

    def find(self, pid: int, stack: bytes) -> None:
        """Find the names of all frames of a stack."""
        for address, name in zip(_addresses(stack), self._symbols.names(stack, pid)):
            lib.shim_frames_put(self.pointer, pid, address, os.fsencode(name))


def _addresses(stack: bytes) -> memoryview:
    return memoryview(stack[: len(stack) // 8 * 8]).cast("Q")


@functools.lru_cache(_NAMES)
def _is_of_tracing(name: str) -> bool:
    return bool(lib.shim_is_of_tracing(os.fsencode(name)))


def without_tracing(names: list[str]) -> list[str]:
    """Return a kernel stack, innermost frame first, without the frames of the tracing itself.

    A stack that has no other frames is returned as it is.
    """
    for at, name in enumerate(names):
        if not _is_of_tracing(name):
            return names[at:]
    return names


class Symbols:
    """Finds the names of addresses; remembers processes that have ended."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._files: dict[_Key, _File] = {}

    def learn(self, pid: int) -> None:
        """Look at what a process has mapped, if it lives, to remember it."""
        if pid not in self._processes:
            if len(self._processes) >= _PROCESSES:
                oldest = next(iter(self._processes))
                del self._processes[oldest]
            self._processes[pid] = _Process(pid, self._files)
        self._processes[pid].check()

    def name(self, pid: int, address: int, offset: bool = True) -> str:
        """Return the name of an address in a process, or in KERNEL."""
        mapping = None
        if pid == KERNEL:
            found = _kernel().find(address)
        else:
            self.learn(pid)
            mapping, found = self._processes[pid].find(address)
        if found:
            return f"{found[0]}+{found[1]:#x}" if offset else found[0]
        if mapping:
            return f"[{mapping}+{mapping.place(address):#x}]"
        return f"[unknown+{address:#x}]"

    def names(self, stack: bytes, pid: int, offset: bool = True) -> list[str]:
        """Return the names of a stack's frames."""
        return [self.name(pid, address, offset) for address in _addresses(stack)]


class _Process:
    """What a process has mapped."""

    def __init__(self, pid: int, files: dict[_Key, _File]) -> None:
        self._pid = pid
        self._files = files
        self._maps: list[list[Mapping]] = []  # the mappings now, and those of the reading before
        self._keys: dict[Mapping, _Key | None] = {}  # None if a mapping has no names
        self._program: tuple[int, int] | None = None  # device and inode
        self._checked = 0.0
        self._next_reading = 0.0

    def check(self) -> None:
        """Read the mappings if the process is new, or runs another program than before."""
        now = time.monotonic()
        if now - self._checked <= _FRESH_S:
            return
        self._checked = now
        with contextlib.suppress(OSError):  # it has ended
            status = os.stat(f"/proc/{self._pid}/exe")
            program = (status.st_dev, status.st_ino)
            if program != self._program:
                self._program = program
                self._read()

    def find(self, address: int) -> tuple[Mapping | None, _Found | None]:
        """Return what is mapped at an address, and the function there."""
        mapping, found = self._find(address)
        key = self._keys[mapping] if mapping else None
        is_in_file = key is not None and key.inode != 0
        begin = time.monotonic()
        if not found and not is_in_file and begin > self._next_reading:
            # The process may have mapped or compiled something since.
            self._read()
            mapping, found = self._find(address)
            end = time.monotonic()
            self._next_reading = end + _READ_SHARE * (end - begin)
        return mapping, found

    def _read(self) -> None:
        """Read the mappings; forget the names that may be others by now, those without a file."""
        mappings = list(mappings_of(self._pid))
        latest = self._maps[:1]
        if mappings and latest != [mappings]:
            # Events that are read now may have happened before: keep the earlier mappings as well.
            self._maps = [mappings, *latest]
        kept: dict[Mapping, _Key | None] = {}
        for mapping in itertools.chain(*self._maps):
            key = self._keys.get(mapping)
            if key and key.inode:
                kept[mapping] = key
        self._keys = kept

    def _find(self, address: int) -> tuple[Mapping | None, _Found | None]:
        for mappings in self._maps:
            behind = bisect.bisect_right(mappings, (address, _ADDRESSES))
            if behind == 0:
                continue
            mapping = mappings[behind - 1]  # the last one that starts at the address or before it
            if address < mapping.end:
                file = self._file(mapping)
                return mapping, file.find(mapping, address) if file else None
        return None, None

    def _file(self, mapping: Mapping) -> _File | None:
        """Return the symbols of a mapping; read them if they are new, or were dropped."""
        is_new = mapping not in self._keys
        key = self._keys.get(mapping)
        if is_new or (key and key not in self._files):
            key = _read_names(self._files, self._pid, mapping)
            self._keys[mapping] = key
        return self._files.get(key) if key else None


def mappings_of(pid: int) -> Iterator[Mapping]:
    """Yield what a process may execute, by address; nothing if it has ended."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read(_MAPS_MOST)
    except OSError:
        return
    for line in text.split(b"\n")[:-1]:
        area, access, offset, _, inode, *path = line.split(None, 5)
        if b"x" in access:
            start, end = area.split(b"-")
            yield Mapping(int(start, 16), int(end, 16), int(offset, 16), int(inode), b"".join(path))


def _read_names(files: dict[_Key, _File], pid: int, mapping: Mapping) -> _Key | None:
    """Read the file that has the names of a mapping, unless it is known; return its key.

    Returns None if there is no such file.
    """
    with contextlib.suppress(OSError, ValueError):
        return _keep(files, open_mapped(pid, mapping), mapping.inode, mapping.path)
    for key in files:
        # The process has ended, but another one may have mapped the same file.
        if (key.inode, key.path) == (mapping.inode, mapping.path):
            return key
    with contextlib.suppress(OSError):
        return _keep(files, _open_lines(pid), 0, _LINES)
    return None


def _keep(files: dict[_Key, _File], fd: int, inode: int, path: bytes) -> _Key:
    """Read the symbols of a file, unless they are known; drop the oldest if they are too many."""
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns) if path != _VDSO else ()
        key = _Key(inode, path, status.st_size, identity)
        if key not in files:
            files[key] = _File(file, path)
    while sum(file.bytes for file in files.values()) > _BYTES and len(files) > 1:
        oldest = next(iter(files))
        del files[oldest]
    return key


def open_regular(path: str | bytes, follow: int = 0) -> int:
    """Open a regular file for reading; raise OSError for any other, which might block or act."""
    handle = os.open(path, os.O_PATH | follow | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def open_mapped(pid: int, mapping: Mapping) -> int:
    """Open the file that is mapped, even if its path leads to another file by now."""
    if mapping.path == _VDSO:
        return _copy_vdso(pid, mapping)
    mapped = b"/proc/%d/map_files/%x-%x" % (pid, mapping.start, mapping.end)
    in_its_root = b"/proc/%d/root%s" % (pid, mapping.path)
    # The first needs CAP_SYS_ADMIN and a mapping that still exists; only the last one is there if
    # the process has ended.
    for path in (mapped, in_its_root, mapping.path):
        with contextlib.suppress(OSError):
            fd = open_regular(path)
            if path == mapped or os.fstat(fd).st_ino == mapping.inode:
                return fd
            os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "no such file")


def _copy_vdso(pid: int, mapping: Mapping) -> int:
    """Return a file with a copy of the vDSO, which the kernel has mapped into the process."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(mapping.start)
        image = memory.read(min(mapping.end - mapping.start, _VDSO_MOST))
    fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
    os.write(fd, image)
    return fd


def _open_lines(pid: int) -> int:
    """Open the file in which a JIT compiler names its code, /tmp/perf-PID.map.

    Raises OSError if there is none, or if it belongs to neither the process's user nor root.
    """
    pids = status_of(pid, "NSpid") or [str(pid)]
    innermost = pids[-1]  # the id in the process's own PID namespace
    # In two steps, because a link at /tmp would lead out of the process's root.
    tmp = os.open(f"/proc/{pid}/root/tmp", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = open_regular(f"/proc/self/fd/{tmp}/perf-{innermost}.map", os.O_NOFOLLOW)
    finally:
        os.close(tmp)
    if os.fstat(fd).st_uid in (0, os.stat(f"/proc/{pid}").st_uid):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "belongs to another user")


class _File:
    """The symbols of an ELF file, or of a JIT compiler's lines.

    Raises ValueError if the file is neither.
    """

    def __init__(self, file: io.BufferedReader, path: bytes) -> None:
        self._has_lines = path == _LINES
        self._elf = _read_lines(file) if self._has_lines else _read_elf(file.fileno())
        self._debug = self._elf
        if not self._elf.has_symtab:
            self._debug = _debug_file(self._elf, path) or self._elf
        self.bytes = int(self._debug.bytes)

    def find(self, mapping: Mapping, address: int) -> _Found | None:
        """Return the function at an address."""
        place = address if self._has_lines else mapping.place(address)
        return _find(self._elf, self._debug, place)


def _find(elf: Any, debug: Any, place: int) -> _Found | None:
    """Return the function at a place of a file, whose symbols are in DEBUG or in the file."""
    name, distance = ffi.new("char **"), ffi.new("uint64_t *")
    if lib.shim_elf_find(elf, debug, place, name, distance):
        return None
    return _readable(ffi.string(name[0], _CHARS_MOST)), int(distance[0])


def _read_elf(fd: int) -> Any:
    ret = ffi.new("shim_elf **")
    if lib.shim_elf_open(fd, ret):
        raise ValueError("not an ELF file")
    return ffi.gc(ret[0], lib.shim_elf_close)


def _read_lines(file: io.BufferedReader, is_kallsyms: bool = False) -> Any:
    """Return the symbols that lines of text name; the shim keeps pointing into the text."""
    text = _new("char[]", _LINES_MOST)  # only what is written to takes memory
    size = file.readinto(ffi.buffer(text))
    ret = ffi.new("shim_elf **")
    if lib.shim_elf_of_lines(text, size, is_kallsyms, ret):
        raise MemoryError

    def close(elf: Any, kept: Any = text) -> None:
        """Free the symbols. The text lives as long as this function holds it."""
        lib.shim_elf_close(elf)

    return ffi.gc(ret[0], close)


class _Kernel:
    """The functions of the kernel and its modules, and BPF programs, which come and go."""

    def __init__(self) -> None:
        self._next_reading = 0.0
        self._read()

    def find(self, address: int) -> _Found | None:
        """Return the function at an address."""
        found = _find(self._symbols, self._symbols, address)
        if not self._is_sure(address, found) and time.monotonic() > self._next_reading:
            self._read()
            found = _find(self._symbols, self._symbols, address)
        return found

    def _read(self) -> None:
        begin = time.monotonic()
        with open("/proc/kallsyms", "rb") as file:
            self._symbols = _read_lines(file, is_kallsyms=True)
        self._modules = list(_modules())
        self._core = range(self._address_of(b"_stext"), self._address_of(b"_etext"))
        end = time.monotonic()
        self._next_reading = end + _READ_SHARE * (end - begin)

    def _is_sure(self, address: int, found: _Found | None) -> bool:
        """Tell whether a function is that at the address, and not just the last one before it.

        Symbols of the kernel have no size. Behind the last function of a module, or of the kernel
        itself, there may be a module or a BPF program that was loaded since.
        """
        is_restricted = not self._core  # the kernel tells this process no addresses
        if is_restricted or (found and found[0].startswith("bpf_")):
            return True
        return any(address in area for area in (self._core, *self._modules))

    def _address_of(self, name: bytes) -> int:
        address = ffi.new("uint64_t *")
        return 0 if lib.shim_elf_offset(self._symbols, name, address) else int(address[0])


def _modules() -> Iterator[range]:
    """Yield where the modules of the kernel are; nothing if it has none."""
    with contextlib.suppress(FileNotFoundError), open("/proc/modules") as lines:
        for line in lines:
            _name, size, _uses, _users, _state, start, *_ = line.split()
            yield range(int(start, 16), int(start, 16) + int(size))


@functools.cache
def _kernel() -> _Kernel:
    return _Kernel()


def find_functions(fd: int, names: tuple[str, ...]) -> dict[str, int]:
    """Return the offsets in a file of those of the functions that the file itself defines."""
    try:
        elf = _read_elf(fd)
    except ValueError:
        return {}
    offset = ffi.new("uint64_t *")
    found = {}
    for name in names:
        error = lib.shim_elf_offset(elf, name.encode(), offset)
        if not error and offset[0] <= _OFFSET_MOST:
            found[name] = int(offset[0])
    return found


def _debug_file(elf: Any, path: bytes) -> Any:
    """Return the symbols that were split off a file into another one, which only root can write.

    Returns None if there are none.
    """
    build_id = _build_id(elf)
    link = os.fsdecode(ffi.string(elf.debug_link))
    folder = os.fsdecode(os.path.dirname(path))
    candidates = []
    if build_id:
        candidates.append(f"{_DEBUG}/.build-id/{build_id[:2]}/{build_id[2:]}.debug")
    if link and "/" not in link and folder.startswith("/"):
        candidates += [f"{folder}/{link}", f"{folder}/.debug/{link}", f"{_DEBUG}{folder}/{link}"]
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError), open(_open_trusted(candidate), "rb") as file:
            found = _read_elf(file.fileno())
            if not found.has_symtab or _build_id(found) != build_id:
                continue
            # Without a build id only the checksum tells that the two files belong together.
            if build_id or _checksum(file) == elf.debug_crc:
                return found
    return None


def _build_id(elf: Any) -> str:
    return bytes(elf.build_id)[: elf.build_id_size].hex()


def _open_trusted(path: str) -> int:
    """Open a file that only root can write, rename or replace; raise OSError for any other."""
    path = place = os.path.realpath(path)
    while True:
        status = os.stat(place)
        if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "others than root can write it", place)
        if place == "/":
            return open_regular(path)
        place = os.path.dirname(place)


def _checksum(file: Any) -> int:
    import binascii

    file.seek(0)
    checksum = 0
    block = file.read(1 << 20)
    while block:
        checksum = binascii.crc32(block, checksum)
        block = file.read(1 << 20)
    return checksum


@functools.lru_cache(_NAMES)
def _readable(name: bytes) -> str:
    """Return a C++ or Rust name as it is written in the source."""
    out = ffi.new("char[]", _NAME_MOST)
    if name[:2] == b"_Z" and not lib.shim_demangle(name, out, len(out)):
        name = ffi.string(out)
        path, _, tail = name.rpartition(b"::h")
        if len(tail) == 16 and not tail.strip(b"0123456789abcdef"):
            name = os.fsencode(_rust(os.fsdecode(path)))
    else:
        name = name.partition(b"@")[0] or name  # of a version
        name = os.fsencode(demangle(os.fsdecode(name)) or name)
    cut = "..." if len(name) >= _NAME_MOST - 1 else ""
    return os.fsdecode(name[: _NAME_MOST - 1]) + cut


def _rust(path: str) -> str:
    """Return a path of Rust with its signs, for which its mangled name has letters."""
    import re

    path = re.sub(r"\$u([2-7][0-9a-f])\$", lambda found: chr(int(found[1], 16)), path)
    for word, sign in _RUST.items():
        path = path.replace(f"${word}$", sign)
    path = path.replace("..", "::")
    return path.replace("::_<", "::<").replace("_<", "<", path.startswith("_<"))

# SPDX-License-Identifier: BSD-2-Clause
"""Names of addresses, in the kernel and in programs.

A name is ``function+0x12``. Where there is none it is ``[module+0x12]``, with the offset in the
module's file, or ``[unknown+0x12]``, with the address itself. The files that names come from are
other people's: escape a name before a terminal shows it.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
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


_FRESH_S = 0.1  # for how long a process is taken to be the one that it was
_PATIENCE = 10  # times what it took: so long until something is read again
_PROCESSES, _BYTES, _NAMES = 4096, 256 << 20, 1 << 16  # kept at most
_MAPS_MOST, _LINES_MOST, _VDSO_MOST = 16 << 20, 64 << 20, 1 << 16  # bytes read at most
_NAME_MOST = 384  # bytes of a name that are shown
_CHARS_MOST = 1024  # of a name; forged ones are as long as they like
_DEBUG = "/usr/lib/debug"
KERNEL = 2**32 - 1  # instead of a process: the kernel has the frames
_VDSO, _LINES = b"[vdso]", b"perf-PID.map"
_RUST = {"LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ",", "RF": "&", "BP": "*", "SP": "@"}
_Found = tuple[str, int]  # function, bytes behind its start
_new = ffi.new_allocator(should_clear_after_alloc=False)


class Mapping(NamedTuple):
    """Part of a file, or of none, that a process may execute."""

    start: int
    end: int
    offset: int
    inode: int
    path: bytes

    def place(self, address: int) -> int:
        """Return where in the file an address is."""
        return address - self.start + self.offset

    def __str__(self) -> str:
        base = os.fsdecode(os.path.basename(self.path.removesuffix(b" (deleted)")))
        return base.strip("[]") or "anon"


class Frames:
    """The names that a plan's rendering finds; kept no longer than a process stays itself."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pointer = ffi.new("struct shim_frames *")
        self._symbols = Symbols()
        self._since = 0.0
        for pid in pids:
            self._symbols.learn(pid)

    def refresh(self) -> None:
        """Forget the names if they have grown old."""
        now = time.monotonic()
        if now - self._since > _FRESH_S:
            lib.shim_frames_forget(self.pointer)
            self._since = now

    def find(self, pid: int, stack: bytes) -> None:
        """Name all frames of a stack."""
        for address, name in zip(_addresses(stack), self._symbols.names(stack, pid)):
            lib.shim_frames_put(self.pointer, pid, address, os.fsencode(name))


def _addresses(stack: bytes) -> memoryview:
    return memoryview(stack[: len(stack) // 8 * 8]).cast("Q")


@functools.lru_cache(_NAMES)
def _is_of_tracing(name: str) -> bool:
    return bool(lib.shim_is_of_tracing(os.fsencode(name)))


def without_tracing(names: list[str]) -> list[str]:
    """Return a kernel stack, innermost first, from where its event happened.

    The frames of the tracing itself are left out, unless there are no others.
    """
    of_event = (i for i, name in enumerate(names) if not _is_of_tracing(name))
    return names[next(of_event, 0) :]


class Symbols:
    """Names addresses; knows the processes that it has met, also when they have ended."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._files: dict[Any, _File] = {}

    def learn(self, pid: int) -> None:
        """Remember what a process has mapped, while it lives."""
        if pid not in self._processes:
            if len(self._processes) >= _PROCESSES:
                del self._processes[next(iter(self._processes))]
            self._processes[pid] = _Process(pid, self._files)
        self._processes[pid].check()

    def name(self, pid: int, address: int, offset: bool = True) -> str:
        """Return the name of an address in a process, or in KERNEL."""
        mapping = None
        if pid == KERNEL:
            found = _find(_kallsyms(), _kallsyms(), address)
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

    def __init__(self, pid: int, files: dict[Any, _File]) -> None:
        self._pid = pid
        self._files = files
        self._maps: list[list[Mapping]] = []  # the present ones, those before
        self._keys: dict[Mapping, Any] = {}  # of their files; None where there is none
        self._program: tuple[int, int] | None = None
        self._checked = self._again = 0.0

    def check(self) -> None:
        """Look what is mapped if the process is new, or has become another program."""
        now = time.monotonic()
        if now - self._checked > _FRESH_S:
            self._checked = now
            with contextlib.suppress(OSError):  # it has ended
                status = os.stat(f"/proc/{self._pid}/exe")
                if self._program != (status.st_dev, status.st_ino):
                    self._program = status.st_dev, status.st_ino
                    self._read()

    def find(self, address: int) -> tuple[Mapping | None, _Found | None]:
        """Return what is mapped at an address, and the function there."""
        mapping, found = self._find(address)
        of_file = mapping and self._keys[mapping] and self._keys[mapping][0]
        begin = time.monotonic()
        if not found and not of_file and begin > self._again:
            # It has mapped, or compiled, something since.
            self._read()
            mapping, found = self._find(address)
            end = time.monotonic()
            self._again = end + _PATIENCE * (end - begin)
        return mapping, found

    def _read(self) -> None:
        mappings = list(mappings_of(self._pid))
        if mappings and [mappings] != self._maps[:1]:
            # What is read now may have happened before: keep the last ones too.
            self._maps = [mappings, *self._maps[:1]]
        known = ((mapping, self._keys.get(mapping)) for some in self._maps for mapping in some)
        self._keys = {mapping: key for mapping, key in known if key and key[0]}

    def _find(self, address: int) -> tuple[Mapping | None, _Found | None]:
        for mappings in self._maps:
            at = bisect.bisect_right(mappings, (address, 1 << 64)) - 1
            if at >= 0 and address < mappings[at].end:
                file = self._file(mappings[at])
                return mappings[at], file.find(mappings[at], address) if file else None
        return None, None

    def _file(self, mapping: Mapping) -> _File | None:
        key = self._keys.get(mapping, "unread")
        if key and key not in self._files:
            key = self._keys[mapping] = _read_names(self._files, self._pid, mapping)
        return self._files.get(key)


def mappings_of(pid: int) -> Iterator[Mapping]:
    """Yield what a process may execute; nothing once it has ended."""
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


def _read_names(files: dict[Any, _File], pid: int, mapping: Mapping) -> Any:
    """Read the file that has the names of a mapping, if that is new; return its key or None."""
    with contextlib.suppress(OSError, ValueError):
        return _keep(files, open_mapped(pid, mapping), mapping.inode, mapping.path)
    for key in files:
        # It has ended: what another process has mapped may be the same file.
        if key[:2] == (mapping.inode, mapping.path):
            return key
    with contextlib.suppress(OSError):
        return _keep(files, _open_lines(pid), 0, _LINES)
    return None


def _keep(files: dict[Any, _File], fd: int, inode: int, path: bytes) -> Any:
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        itself = (status.st_dev, status.st_ino, status.st_mtime_ns) if path != _VDSO else ()
        key = (inode, path, status.st_size, *itself)
        if key not in files:
            files[key] = _File(file, path)
    while sum(file.bytes for file in files.values()) > _BYTES and len(files) > 1:
        del files[next(iter(files))]
    return key


def open_regular(path: str | bytes, follow: int = 0) -> int:
    """Open a regular file for reading; to open anything else might do something."""
    handle = os.open(path, os.O_PATH | follow | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def open_mapped(pid: int, mapping: Mapping) -> int:
    """Open what is mapped, even if its path leads elsewhere by now."""
    if mapping.path == _VDSO:
        return _copy_vdso(pid, mapping)
    # The first needs CAP_SYS_ADMIN, and what is mapped now; the last serves when it has ended.
    itself = b"/proc/%d/map_files/%x-%x" % (pid, mapping.start, mapping.end)
    for path in (itself, b"/proc/%d/root%s" % (pid, mapping.path), mapping.path):
        with contextlib.suppress(OSError):
            fd = open_regular(path)
            if path == itself or os.fstat(fd).st_ino == mapping.inode:
                return fd
            os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "no file")


def _copy_vdso(pid: int, mapping: Mapping) -> int:
    """Return what the kernel itself has mapped as a file."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(mapping.start)
        image = memory.read(min(mapping.end - mapping.start, _VDSO_MOST))
    fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
    os.write(fd, image)
    return fd


def _open_lines(pid: int) -> int:
    """Open what a JIT compiler tells of its code, if that is the process's user's or root's."""
    inner = status_of(pid, "NSpid") or [str(pid)]
    # In two steps: a link from within would lead out of the process's root.
    tmp = os.open(f"/proc/{pid}/root/tmp", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = open_regular(f"/proc/self/fd/{tmp}/perf-{inner[-1]}.map", os.O_NOFOLLOW)
    finally:
        os.close(tmp)
    if os.fstat(fd).st_uid in (0, os.stat(f"/proc/{pid}").st_uid):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "not the process's")


class _File:
    """The symbols of an ELF file, or of a JIT compiler's lines. Raises ValueError."""

    def __init__(self, file: io.BufferedReader, path: bytes) -> None:
        self._has_lines = path == _LINES
        self._elf = self._debug = _read_lines(file) if self._has_lines else _read_elf(file.fileno())
        if not self._elf.has_symtab:
            self._debug = _debug_file(self._elf, path) or self._elf
        self.bytes = int(self._debug.bytes)

    def find(self, mapping: Mapping, address: int) -> _Found | None:
        """Return the function at an address."""
        place = address if self._has_lines else mapping.place(address)
        return _find(self._elf, self._debug, place)


def _find(elf: Any, debug: Any, place: int) -> _Found | None:
    name, distance = ffi.new("char **"), ffi.new("uint64_t *")
    if lib.shim_elf_find(elf, debug, place, name, distance):
        return None
    return _readable(ffi.string(name[0], _CHARS_MOST)), int(distance[0])


def _read_elf(fd: int) -> Any:
    ret = ffi.new("shim_elf **")
    if lib.shim_elf_open(fd, ret):
        raise ValueError("no ELF file")
    return ffi.gc(ret[0], lib.shim_elf_close)


def _read_lines(file: io.BufferedReader, is_kallsyms: bool = False) -> Any:
    text = _new("char[]", _LINES_MOST)  # memory that is not written to is none
    size = file.readinto(ffi.buffer(text))
    ret = ffi.new("shim_elf **")
    if lib.shim_elf_of_lines(text, size, is_kallsyms, ret):
        raise MemoryError
    return ffi.gc(ret[0], lambda elf, text=text: lib.shim_elf_close(elf))  # which needs the text


@functools.cache
def _kallsyms() -> Any:
    with open("/proc/kallsyms", "rb") as file:
        return _read_lines(file, is_kallsyms=True)


def find_functions(fd: int, names: tuple[str, ...]) -> dict[str, int]:
    """Return the offsets in the file of those functions that it defines itself."""
    try:
        elf = _read_elf(fd)
    except ValueError:
        return {}
    ret = ffi.new("uint64_t *")
    return {name: ret[0] for name in names if not lib.shim_elf_offset(elf, name.encode(), ret)}


def _debug_file(elf: Any, path: bytes) -> Any:
    """Return the symbols that have been split off a file, if it is root who keeps them."""
    build_id = _build_id(elf)
    link = os.fsdecode(ffi.string(elf.debug_link))
    folder = os.fsdecode(os.path.dirname(path))
    candidates = [f"{_DEBUG}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"] if build_id else []
    if link and "/" not in link and folder[:1] == "/":
        candidates += [f"{place}/{link}" for place in (folder, f"{folder}/.debug", _DEBUG + folder)]
    for candidate in candidates:
        with contextlib.suppress(OSError, ValueError), open(_open_trusted(candidate), "rb") as file:
            found = _read_elf(file.fileno())
            same = _build_id(found) == build_id
            if found.has_symtab and same and (build_id or _checksum(file) == elf.debug_crc):
                return found
    return None


def _build_id(elf: Any) -> str:
    return bytes(elf.build_id)[: elf.build_id_size].hex()


def _open_trusted(path: str) -> int:
    """Open a file that only root can have put there."""
    path = place = os.path.realpath(path)
    while True:
        status = os.stat(place)
        if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "not root's", place)
        if place == "/":
            return open_regular(path)
        place = os.path.dirname(place)


def _checksum(file: Any) -> int:
    import binascii

    checksum = file.seek(0)
    while block := file.read(1 << 20):
        checksum = binascii.crc32(block, checksum)
    return int(checksum)


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
    """Undo what stands for signs in the names of Rust."""
    import re

    path = re.sub(r"\$u([2-7][0-9a-f])\$", lambda found: chr(int(found[1], 16)), path)
    for word, sign in _RUST.items():
        path = path.replace(f"${word}$", sign)
    path = path.replace("..", "::")
    return path.replace("::_<", "::<").replace("_<", "<", path.startswith("_<"))

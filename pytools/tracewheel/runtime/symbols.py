# SPDX-License-Identifier: BSD-2-Clause
"""Names of addresses, in the kernel and in programs.

A name is ``function+0x12``. Where there is none it is ``[module+0x12]``, with the offset in the
module's file, or ``[unknown+0x12]``, with the address itself. The files that names come from are
other people's: escape a name before a terminal shows it.
"""

from __future__ import annotations

import bisect
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRESH_S = 0.1  # for how long a process is taken to be the one that it was
_PATIENCE = 10  # times what it took: so long until something is read again
_PROCESSES, _BYTES, _NAMES = 4096, 256 << 20, 1 << 16  # kept at most; names for each file
_MAPS_MOST, _LINES_MOST, _VDSO_MOST = 16 << 20, 64 << 20, 1 << 16  # bytes read at most
_NAME_MOST = 384  # bytes of a name that are shown
_DEBUG = "/usr/lib/debug"
_RUST = {
    b"LT": b"<", b"GT": b">", b"LP": b"(", b"RP": b")", b"C": b",", b"RF": b"&", b"BP": b"*",
    b"SP": b"@", b"u20": b" ", b"u27": b"'", b"u3b": b";", b"u5b": b"[", b"u5d": b"]",
    b"u7b": b"{", b"u7d": b"}",
}  # fmt: skip

_Found = tuple[str, int]  # function, bytes behind its start


class _Mapping(NamedTuple):
    """Part of a file, or of none, that a process may execute."""

    start: int
    end: int
    offset: int
    inode: int
    path: bytes

    @property
    def name(self) -> str:
        base = os.fsdecode(os.path.basename(self.path.removesuffix(b" (deleted)")))
        return base.strip("[]") or "anon"


class Frames:
    """The names that a plan's rendering finds; kept no longer than a process stays itself."""

    def __init__(self, pid: int | None) -> None:
        self.pointer = ffi.new("struct shim_frames *")
        self._symbols = Symbols()
        self._since = 0.0
        if pid:
            self._symbols.learn(pid)

    def refresh(self) -> None:
        """Forget the names if they have grown old."""
        now = time.monotonic()
        if now - self._since > _FRESH_S:
            lib.shim_frames_forget(self.pointer)
            self._since = now

    def find(self, pid: int, stack: bytes) -> None:
        """Name all frames of a stack."""
        for address in _addresses(stack):
            name = os.fsencode(self._symbols.user(pid, address))
            lib.shim_frames_put(self.pointer, pid, address, name)


def _addresses(stack: bytes) -> Iterator[int]:
    return (int.from_bytes(stack[at : at + 8], "little") for at in range(0, len(stack) - 7, 8))


class Symbols:
    """Names addresses; knows the processes that it has met, also when they have ended."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._files = _Files()

    def kernel(self, address: int, offset: bool = True) -> str:
        """Return the name of an address in the kernel."""
        out = ffi.new("char[]", 256)
        name = os.fsdecode(ffi.buffer(out, lib.shim_symbol(address, out, len(out)))[:])
        return name if offset or name[0] == "[" else name.rpartition("+")[0]

    def learn(self, pid: int) -> None:
        """Remember what a process has mapped, while it lives."""
        process = self._processes.get(pid)
        if process:
            process.check()
            return
        if len(self._processes) >= _PROCESSES:
            del self._processes[next(iter(self._processes))]
        self._processes[pid] = _Process(pid, self._files)

    def user(self, pid: int, address: int, offset: bool = True) -> str:
        """Return the name of an address in a process."""
        self.learn(pid)
        process = self._processes[pid]
        mapping = process.find(address)
        if not mapping:
            return f"[unknown+{address:#x}]"
        found = process.name(mapping, address)
        if not found:
            return f"[{mapping.name}+{address - mapping.start + mapping.offset:#x}]"
        return f"{found[0]}+{found[1]:#x}" if offset else found[0]

    def names(self, stack: bytes, pid: int | None) -> list[str]:
        """Return the names of a stack's frames, which lie in a process or in the kernel."""
        if pid is None:
            return [self.kernel(address) for address in _addresses(stack)]
        return [self.user(pid, address) for address in _addresses(stack)]


class _Process:
    """What a process has mapped."""

    def __init__(self, pid: int, files: _Files) -> None:
        self._pid = pid
        self._files = files
        self._maps: list[tuple[list[int], list[_Mapping]]] = []  # the present ones, those before
        self._keys: dict[_Mapping, Any] = {}
        self._lines: _Lines | None = None
        self._program: tuple[int, int] | None = None
        self._checked = self._cost = 0.0
        self._read()

    def check(self) -> None:
        """Look again if the process has become another program."""
        now = time.monotonic()
        if now - self._checked > _FRESH_S:
            self._checked = now
            if self._executed() not in (None, self._program):
                self._read()

    def find(self, address: int) -> _Mapping | None:
        """Return what is mapped at an address; look again if it is nothing that is known."""
        found = self._find(address)
        if not found and time.monotonic() - self._checked > _PATIENCE * self._cost:
            self._read()
            found = self._find(address)
        return found

    def name(self, mapping: _Mapping, address: int) -> _Found | None:
        """Return the function at an address of a mapping."""
        key = self._keys.get(mapping)
        file = self._files.get(key)
        if not file and key != "none":
            self._keys[mapping], file = self._files.open(self._pid, mapping)
        if file:
            return file.find(address - mapping.start + mapping.offset)
        if not self._lines:
            self._lines = _Lines(self._pid)
        return self._lines.find(address)

    def _executed(self) -> tuple[int, int] | None:
        try:
            status = os.stat(f"/proc/{self._pid}/exe")
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _read(self) -> None:
        begin = time.monotonic()
        self._program = self._executed() or self._program
        mappings = list(_mappings(self._pid))
        if mappings and mappings != (self._maps and self._maps[0][1]):
            # What is read now may have happened before: keep the last ones too.
            self._maps = [([m.start for m in mappings], mappings), *self._maps[:1]]
            known = {m for _, some in self._maps for m in some}
            self._keys = {m: key for m, key in self._keys.items() if m in known}
        self._checked = time.monotonic()
        self._cost = self._checked - begin

    def _find(self, address: int) -> _Mapping | None:
        for starts, mappings in self._maps:
            at = bisect.bisect_right(starts, address) - 1
            if at >= 0 and address < mappings[at].end:
                return mappings[at]
        return None


def _mappings(pid: int) -> Iterator[_Mapping]:
    """Return what a process may execute; nothing once it has ended."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read(_MAPS_MOST)
    except OSError:
        return
    for line in text.split(b"\n")[:-1]:
        area, access, offset, _, inode, *path = line.split(None, 5)
        if b"x" in access:
            start, end = area.split(b"-")
            yield _Mapping(int(start, 16), int(end, 16), int(offset, 16), int(inode),
                           path[0] if path else b"")  # fmt: skip


class _Files:
    """The symbols of files, whoever has them mapped."""

    def __init__(self) -> None:
        self._files: dict[Any, _File] = {}

    def get(self, key: Any) -> _File | None:
        """Return a file that has been read."""
        return self._files.get(key)

    def open(self, pid: int, mapping: _Mapping) -> tuple[Any, _File | None]:
        """Return a mapping's file and the key to get it by; "none" where there is none."""
        try:
            fd = _vdso(pid, mapping) if mapping.path == b"[vdso]" else _open_mapped(pid, mapping)
        except OSError:
            # It has ended: what another process has mapped may be the same file.
            return next(((key, file) for key, file in self._files.items()
                         if key[:2] == (mapping.inode, mapping.path)), ("none", None))  # fmt: skip
        try:
            status = os.fstat(fd)
            file_id = mapping.inode and (status.st_dev, status.st_ino, status.st_mtime_ns)
            key = (mapping.inode, mapping.path, status.st_size, file_id)
            if key not in self._files:
                self._files[key] = _File(fd, mapping.path)
        except ValueError:
            return "none", None
        finally:
            os.close(fd)
        while sum(file.bytes for file in self._files.values()) > _BYTES and len(self._files) > 1:
            del self._files[next(iter(self._files))]
        return key, self._files.get(key)


def _open_regular(path: str | bytes, folder: int | None = None) -> int:
    """Open a regular file; to open anything else might do something."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW * (folder is not None) | os.O_CLOEXEC,
                     dir_fd=folder)  # fmt: skip
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _open_mapped(pid: int, mapping: _Mapping) -> int:
    """Open what is mapped, even if its path leads elsewhere by now."""
    if not mapping.inode:
        raise OSError(errno.ENOENT, "no file")
    try:
        return _open_regular(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")
    except OSError:
        pass  # without CAP_SYS_ADMIN, or the process has ended or unmapped it
    for root in (b"/proc/%d/root" % pid, b""):
        try:
            fd = _open_regular(root + mapping.path)
        except OSError:
            continue
        if os.fstat(fd).st_ino == mapping.inode:
            return fd
        os.close(fd)
    raise OSError(errno.ENOENT, "no file")


def _vdso(pid: int, mapping: _Mapping) -> int:
    """Return what the kernel itself has mapped as a file."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(mapping.start)
        image = memory.read(min(mapping.end - mapping.start, _VDSO_MOST))
    fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
    os.write(fd, image)
    return fd


def _read_elf(fd: int) -> tuple[Any, Any]:
    ret = ffi.new("shim_elf **")
    if lib.shim_elf_open(fd, ret):
        raise ValueError("no ELF file")
    facts = ffi.new("struct shim_elf_facts *")
    lib.shim_elf_describe(ret[0], facts)
    return ffi.gc(ret[0], lib.shim_elf_close), facts


class _File:
    """The symbols of an ELF file, or of the separate file that has them. Raises ValueError."""

    def __init__(self, fd: int, path: bytes) -> None:
        self._elf, facts = _read_elf(fd)
        self._debug = self._elf
        self._names: dict[int, _Found | None] = {}
        if not facts.has_symtab:
            self._debug, facts = _debug_file(facts, path) or (self._elf, facts)
        self.bytes = int(facts.bytes)

    def find(self, offset: int) -> _Found | None:
        """Return the function at an offset of the file."""
        if offset not in self._names:
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[offset] = _find(self._elf, self._debug, offset)
        return self._names[offset]


def _find(elf: Any, debug: Any, offset: int) -> _Found | None:
    name, distance = ffi.new("char **"), ffi.new("uint64_t *")
    if lib.shim_elf_find(elf, debug, offset, name, distance):
        return None
    return _readable(ffi.string(name[0])), int(distance[0])


def _debug_file(facts: Any, path: bytes) -> tuple[Any, Any] | None:
    """Return the symbols that have been split off a file, if it is root who keeps them."""
    build_id = bytes(facts.build_id)[: facts.build_id_size]
    link = ffi.string(facts.debug_link)
    folder = os.fsdecode(os.path.dirname(path))
    candidates = []
    if build_id:
        digits = build_id.hex()
        candidates.append(f"{_DEBUG}/.build-id/{digits[:2]}/{digits[2:]}.debug")
    if link and b"/" not in link and folder[:1] == "/":
        for place in (folder, f"{folder}/.debug", _DEBUG + folder):
            candidates.append(f"{place}/{os.fsdecode(link)}")
    for candidate in candidates:
        try:
            fd = _open_trusted(candidate)
        except OSError:
            continue
        try:
            elf, found = _read_elf(fd)
            same = bytes(found.build_id)[: found.build_id_size] == build_id
            if found.has_symtab and same and (build_id or _checksum(fd) == facts.debug_crc):
                return elf, found
        except ValueError:
            continue
        finally:
            os.close(fd)
    return None


def _open_trusted(path: str) -> int:
    """Open a file that only root can have put there."""
    path = os.path.realpath(path)
    place = path
    while True:
        status = os.stat(place)
        if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "not root's", place)
        if place == "/":
            return _open_regular(path)
        place = os.path.dirname(place)


def _checksum(fd: int) -> int:
    import binascii

    checksum = at = 0
    while block := os.pread(fd, 1 << 20, at):
        checksum = binascii.crc32(block, checksum)
        at += len(block)
    return checksum


class _Lines:
    """What a JIT compiler tells of the code that it makes: /tmp/perf-PID.map of the process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._elf: Any = None
        self._state: tuple[int, int] = (0, 0)
        self._checked = self._cost = 0.0

    def find(self, address: int) -> _Found | None:
        """Return the function at an address; look again if there is none."""
        found = _find(self._elf, self._elf, address) if self._elf else None
        if not found and time.monotonic() - self._checked > _PATIENCE * self._cost:
            begin = time.monotonic()
            self._read()
            self._checked = time.monotonic()
            self._cost = self._checked - begin
            found = _find(self._elf, self._elf, address) if self._elf else None
        return found

    def _read(self) -> None:
        try:
            fd = _open_lines(self._pid)
        except OSError:
            return
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if (status.st_size, status.st_mtime_ns) == self._state:
                return
            self._state = (status.st_size, status.st_mtime_ns)
            text = file.read(_LINES_MOST)
        ret = ffi.new("shim_elf **")
        if not lib.shim_elf_of_lines(text, len(text), ret):
            self._elf = ffi.gc(ret[0], lib.shim_elf_close)


def _open_lines(pid: int) -> int:
    """Open the file, if it belongs to the process's user or to root."""
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = [line.split() for line in file if line.startswith(b"NSpid:")]
    inner = lines[0][-1] if lines else b"%d" % pid
    # Step by step: a link from within would lead out of the process's root.
    folder = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        tmp = os.open("tmp", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                      dir_fd=folder)  # fmt: skip
    finally:
        os.close(folder)
    try:
        fd = _open_regular(b"perf-%s.map" % inner, tmp)
    finally:
        os.close(tmp)
    if os.fstat(fd).st_uid in (0, os.stat(f"/proc/{pid}").st_uid):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "not the process's")


def _readable(name: bytes) -> str:
    """Return a C++ or Rust name as it is written in the source."""
    out = ffi.new("char[]", _NAME_MOST)
    if name[:2] == b"_Z" and not lib.shim_demangle(name, out, len(out)):
        name = ffi.string(out)
        path, _, tail = name.rpartition(b"::h")
        if len(tail) == 16 and not tail.strip(b"0123456789abcdef"):
            name = _rust(path)
    else:
        name = name.partition(b"@")[0] or name  # of a version
    cut = "..." if len(name) >= _NAME_MOST - 1 else ""
    return os.fsdecode(name[: _NAME_MOST - 1]) + cut


def _rust(path: bytes) -> bytes:
    """Undo what stands for signs in the names of Rust."""
    path = path.replace(b"..", b"::")
    for word, sign in _RUST.items():
        path = path.replace(b"$%s$" % word, sign)
    return path.replace(b"::_<", b"::<").replace(b"_<", b"<", path.startswith(b"_<"))

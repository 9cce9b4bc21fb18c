# SPDX-License-Identifier: BSD-2-Clause
"""One tracing session: open an object, choose rungs, load, attach, count what was lost."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import ffi, lib
from tracewheel.runtime import kernel
from tracewheel.runtime.errors import BpfError, NotSupported, TargetGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracewheel.runtime.options import Request
    from tracewheel.runtime.uprobes import Prober

_OBJECTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bpf")
_RINGBUF, _HASH, _PERCPU_HASH = 27, 1, 5  # enum bpf_map_type
_FOLLOWED_MOST = 16384  # processes that --follow traces at a time


class Member(NamedTuple):
    """A member of a struct, or a global variable, as BTF describes it."""

    name: str
    meaning: str
    section: str
    offset: int
    size: int
    elements: int
    is_signed: bool
    is_bool: bool

    def pack(self, value: Any) -> bytes:
        """Return the value's bytes, whatever the width of the member."""
        if self.elements or isinstance(value, bytes):
            raw = bytes(value)
            if len(raw) != self.size:
                raise BpfError(f"cannot set {self.name}: {len(raw)} bytes for {self.size}")
            return raw
        return int(value).to_bytes(self.size, "little", signed=self.is_signed)

    def unpack(self, data: Any, offset: int = 0) -> int:
        """Return an integer member of the record at an offset."""
        at = offset + self.offset
        return int.from_bytes(data[at : at + self.size], "little", signed=self.is_signed)


class Map(NamedTuple):
    """A map as its definition describes it."""

    name: str
    record: str
    key: str
    value: str
    type: int
    key_size: int
    value_size: int
    max_entries: int


class Program(NamedTuple):
    """A program, named LADDER__RUNG or LADDER__RUNG__PART."""

    name: str
    section: str
    optional: bool

    @property
    def ladder(self) -> str:
        """What the program helps to trace."""
        return self.name.split("__")[0]

    @property
    def rung(self) -> str:
        """The way in which it does."""
        return self.name.split("__")[1]

    @property
    def is_uprobe(self) -> bool:
        """Whether it is attached to functions of files, by the session's prober."""
        return self.section in ("uprobe", "uretprobe")


class Attempt(NamedTuple):
    """How a rung did: the error is None when it holds."""

    ladder: str
    rung: str
    error: str | None


def text(pointer: Any) -> str:
    """Return a C string, or nothing for NULL."""
    return ffi.string(pointer).decode() if pointer else ""


def _sha256(data: bytes) -> str:
    # CPython's own, where it has one: hashlib brings OpenSSL, 3 MB and 3 ms.
    for module in ("_sha2", "_sha256", "hashlib"):
        try:
            return str(importlib.import_module(module).sha256(data).hexdigest())
        except ImportError:
            continue
    raise AssertionError


def read_object(name: str) -> bytes:
    """Return the bytes of a tool's BPF object, which the manifest vouches for."""
    path = os.path.join(_OBJECTS, f"{name}.bpf.o")
    try:
        with open(path, "rb") as file:
            data = file.read()
        with open(os.path.join(_OBJECTS, "manifest")) as file:
            digests = {name: digest for digest, name in (line.split() for line in file)}
    except OSError as error:
        raise BpfError(
            f"cannot read {error.filename}: {error.strerror}: install tracewheel again"
        ) from None
    if _sha256(data) != digests.get(f"{name}.bpf.o"):
        raise BpfError(f"cannot trust {path}: it is damaged: install tracewheel again")
    return data


class Opened:
    """A BPF object, opened, perhaps loaded. Needs no privilege until it is loaded."""

    def __init__(self, data: bytes) -> None:
        ret = ffi.new("shim **")
        error = lib.shim_open(data, len(data), ret)
        if error:
            raise kernel.explain_failure("cannot open the BPF object", error, take_log())
        self.handle = ret[0]

    def close(self) -> None:
        """Detach and unload everything."""
        lib.shim_close(self.handle)
        self.handle = ffi.NULL

    def _each(self, ctype: str, get: Any, *args: Any) -> Iterator[Any]:
        ret = ffi.new(ctype)
        index = 0
        while not get(self.handle, *args, index, ret):
            yield ret
            index += 1

    def programs(self) -> list[Program]:
        """Return the programs that trace, in the order of the source."""
        return [
            Program(text(p.name), text(p.section), bool(p.optional))
            for p in self._each("struct shim_program *", lib.shim_program)
            if not text(p.section).startswith("iter/")
        ]

    def maps(self) -> list[Map]:
        """Return the maps that the source declares."""
        return [
            Map(text(m.name), text(m.record), text(m.key), text(m.value), m.type, m.key_size,
                m.value_size, m.max_entries)
            for m in self._each("struct shim_map *", lib.shim_map)
        ]  # fmt: skip

    def variables(self) -> list[Member]:
        """Return the global variables."""
        return [_member(m) for m in self._each("struct shim_member *", lib.shim_global)]

    def members(self, struct_name: str) -> list[Member]:
        """Return the members of a struct."""
        name = struct_name.encode()
        return [_member(m) for m in self._each("struct shim_member *", lib.shim_member, name)]

    def size(self, struct_name: str) -> int:
        """Return the size of a struct."""
        ret = ffi.new("uint32_t *")
        if lib.shim_struct_size(self.handle, struct_name.encode(), ret):
            raise BpfError(f"no struct {struct_name}")
        return int(ret[0])


def _member(m: Any) -> Member:
    return Member(text(m.name), text(m.meaning), text(m.section), m.offset, m.size, m.count,
                  bool(m.is_signed), bool(m.is_bool))  # fmt: skip


def take_log() -> str:
    """Return what libbpf has said since the last call."""
    buffer = ffi.new("char[]", 1 << 16)
    length = lib.shim_log_take(buffer, len(buffer))
    return bytes(ffi.buffer(buffer, length)).decode("utf-8", "replace")


def ladders_of(programs: list[Program]) -> dict[str, list[str]]:
    """Return each ladder's rungs, the preferred one first."""
    ladders: dict[str, list[str]] = {}
    for program in programs:
        rungs = ladders.setdefault(program.ladder, [])
        if program.rung not in rungs:
            rungs.append(program.rung)
    return ladders


class Session:
    """A tool that traces. Use as a context manager: leaving it detaches and unloads."""

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.request = request
        self.target = kernel.watch_process(request.pid)
        self._data = read_object(name)
        opened = Opened(self._data)
        self.programs = opened.programs()
        self.maps = {m.name: m for m in opened.maps()}
        self.variables = {v.name: v for v in opened.variables()}
        self.ladders = ladders_of(self.programs)
        for ladder in request.ladders_left_out(list(self.ladders)):
            del self.ladders[ladder]
        self._forced = self._parse_forced(request.rung or ())
        self.opened: Opened | None = opened
        self._absent: set[Program] = set()
        self.taken: dict[str, str] = {}
        self.missing: list[Program] = []  # optional programs that could not be attached
        self._host_ids: dict[int, int] = {}
        self.prober: Prober | None = None
        self.started = kernel.boot_time_ns()
        self.ended = 0  # monotonic, ns
        self._clocks = 0  # CPUs on which a clock runs the program
        self._clocks_since = 0  # monotonic, ns
        self.log = ""

    def _parse_forced(self, wishes: tuple[str, ...]) -> dict[str, str]:
        forced = {}
        for wish in wishes:
            ladder, _, rung = wish.partition("=")
            if rung not in self.ladders.get(ladder, ()):
                known = [f"{what}={how}" for what, hows in self.ladders.items() for how in hows]
                raise UsageError(f"no rung {wish!r}: there are {', '.join(known)}")
            forced[ladder] = rung
        return forced

    def __enter__(self) -> Session:
        assert self.opened
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def detach(self) -> None:
        """End the tracing; what was seen and lost until now can still be read."""
        self.ended = time.monotonic_ns()
        lib.shim_detach(self.handle)

    def close(self) -> None:
        """Detach and unload everything; may be called again."""
        self._unload()
        if self.target >= 0:
            os.close(self.target)
            self.target = -1

    def _unload(self) -> None:
        if self.opened:
            self.opened.close()
            self.opened = None

    @property
    def handle(self) -> Any:
        """The object as the shim knows it."""
        assert self.opened
        return self.opened.handle

    def _start(self) -> None:
        """Load and attach the rungs that are preferred; where that fails, those that hold."""
        climbs = {what: self._rungs_to_try(what) for what in self.ladders}
        rungs = {what: hows[0] for what, hows in climbs.items()}
        error = self._try(rungs)
        if error:
            # One of them is to blame: try each by itself.
            rungs = {what: self._first_that_holds(what, hows) for what, hows in climbs.items()}
            error = self._retry(rungs) if len(climbs) > 1 else 0
        if error:
            raise kernel.explain_failure(f"cannot trace with {self.name}", error, self.log)
        self.taken = rungs
        ring = [m for m in self.maps.values() if m.type == _RINGBUF]
        if ring:
            error = lib.shim_ring_open(self.handle, ring[0].name.encode())
            if error:
                raise BpfError(f"cannot map the ring buffer: {os.strerror(-error)}")
        self.prober = self._new_prober(rungs)
        if self.prober:
            self.prober.begin()

    def _new_prober(self, rungs: dict[str, str]) -> Prober | None:
        programs = [p for p in self.programs if rungs.get(p.ladder) == p.rung and p.is_uprobe]
        uprobes = getattr(self.request.tool, "uprobes", None)
        if not programs or not uprobes:
            return None
        from tracewheel.runtime.uprobes import Prober

        return Prober(self, uprobes, [p.name for p in programs])

    def patience(self, left: int) -> int:
        """Probe what has turned up; return how many of these ms (-1: all) there are to wait."""
        return self.prober.patience(left) if self.prober else left

    def _rungs_to_try(self, ladder: str) -> list[str]:
        if ladder in self._forced:
            return [self._forced[ladder]]
        rungs = self.ladders[ladder]
        trampolines = {
            p.rung
            for p in self.programs
            if p.ladder == ladder and p.section.startswith(("fentry/", "fexit/"))
        }
        if trampolines and lib.shim_refuses_trampolines():
            rungs = [rung for rung in rungs if rung not in trampolines] or rungs
        return rungs

    def _first_that_holds(self, ladder: str, rungs: list[str]) -> str:
        error = 0
        for rung in rungs:
            error = self._retry({ladder: rung})
            if not error:
                return rung
        raise kernel.explain_failure(f"cannot trace {ladder} with {self.name}", error, self.log)

    def _retry(self, rungs: dict[str, str]) -> int:
        self._unload()
        self.opened = Opened(self._data)
        return self._try(rungs)

    def attempts(self) -> Iterator[Attempt]:
        """Try every rung by itself, for --explain and for the tests."""
        for ladder, rungs in self.ladders.items():
            for rung in rungs:
                error = self._retry({ladder: rung})
                prober = None if error else self._new_prober({ladder: rung})
                if prober:
                    error = prober.trial()
                yield Attempt(ladder, rung, self._last_words(error) if error else None)

    def _last_words(self, error: int) -> str:
        """Return the verifier's last line that means something, behind the errno's text."""
        lines = [line.strip() for line in self.log.splitlines()]
        words = [
            line
            for line in lines
            if line and not line.startswith(("libbpf:", "processed", "--", "verification time"))
        ]
        return os.strerror(-error) + (f": {words[-1]}" if words else "")

    def _try(self, rungs: dict[str, str]) -> int:
        """Configure, load and attach a fresh object; return 0 or a negative errno."""
        handle = self.handle
        every = [p for p in self.programs if rungs.get(p.ladder) == p.rung]
        wanted = [p for p in every if p not in self._absent]
        self.missing = [p for p in every if p in self._absent]
        for program in self.programs:
            lib.shim_set_autoload(handle, program.name.encode(), program in wanted)
        values = self._configure()
        error: int = lib.shim_load(handle)
        if error == -errno.ESRCH and self._find_absent(wanted):
            return self._retry(rungs)
        self.started = kernel.boot_time_ns()
        if not error:
            self._follow(values)
            for program in wanted:
                if program.is_uprobe:
                    continue
                if program.section == "perf_event":
                    failed = self._attach_clocks(program.name.encode())
                else:
                    failed = lib.shim_attach(handle, program.name.encode())
                if failed and not program.optional:
                    error = failed
                    break
                if failed:
                    self.missing.append(program)
            ladders = {p.ladder for p in every if p not in self.missing}
            if not error and ladders != set(rungs):
                error = failed or -errno.ENOENT  # of a ladder, nothing was attached
            if not error:
                self._follow(values)  # what was forked meanwhile
        self.log = take_log()
        if self.request.debug and error:
            print(self.log, end="", file=sys.stderr)
        return error

    def _attach_clocks(self, program: bytes) -> int:
        """Let the program run at a frequency on each CPU that is online, or on one."""
        cpu, hertz = self.request.cpu, self.request.frequency
        cpus = range(lib.shim_cpus()) if cpu is None else [cpu]
        errors = [lib.shim_attach_clock(self.handle, program, each, hertz) for each in cpus]
        self._clocks, self._clocks_since = errors.count(0), time.monotonic_ns()
        if not set(errors) - {-errno.ENODEV}:
            raise TargetGone(f"cannot sample CPU {cpu}: it is offline")
        return next((error for error in errors if error not in (0, -errno.ENODEV)), 0)

    def _unsampled(self) -> int:
        """Return how many times a clock has ticked and the program has not run.

        It does not while a map is changed or another program runs on that CPU, and the kernel does
        not count that; nor on a CPU that went offline. Seen on one kernel: nor on an idle one.
        """
        lasted = (self.ended or time.monotonic_ns()) - self._clocks_since
        period: int = 10**9 // self.request.frequency
        return max(0, lasted // period * self._clocks - self.read_counter("clock_samples"))

    def tell_missing(self, ladder: str) -> str:
        """Return what to say of the functions that a rung does without."""
        every = [p for p in self.programs if (p.ladder, p.rung) == (ladder, self.taken[ladder])]
        missing = [p.section.partition("/")[2] for p in self.missing if p.ladder == ladder]
        if not missing:
            return ""
        return f"attached {len(every) - len(missing)} of {len(every)}, not {', '.join(missing)}"

    def _find_absent(self, programs: list[Program]) -> bool:
        """Find optional programs on functions that the kernel does not have as such."""
        ret = ffi.new("int *")
        for program in programs:
            kind, _, function = program.section.partition("/")
            if program.optional and kind in ("fentry", "fexit"):
                lib.shim_has_function(function.encode(), ret)
                if not ret[0]:
                    self._absent.add(program)
        return not self._absent.isdisjoint(programs)

    def _follow(self, values: dict[str, Any]) -> None:
        if self.request.follow:
            from tracewheel.runtime import tasks

            tasks.follow(self.handle, values["filter_pid"])

    def _configure(self) -> dict[str, Any]:
        values = self.request.variables()
        if not self._host_ids and kernel.in_pid_namespace():
            from tracewheel.runtime import tasks

            ids = [value for value in values.values() if isinstance(value, kernel.TaskId)]
            self._host_ids = tasks.host_ids(self._data, ids)
        for name, value in values.items():
            if isinstance(value, kernel.TaskId):
                values[name] = self._host_ids.get(value, value)
        if self.request.follow:
            from tracewheel.runtime import tasks

            tasks.enable(self.handle)
        for name in self.variables:
            if name.startswith("argc_"):
                values[name] = tracepoint_args(name[5:])
        for name, value in values.items():
            if name not in self.variables:
                raise UsageError(f"{self.name} cannot be asked for {name.partition('_')[2]}")
            raw = self.variables[name].pack(value)
            if lib.shim_set_global(self.handle, name.encode(), raw, len(raw)):
                raise BpfError(f"cannot set {name}")
        resized = self.request.entries()
        for m in self.maps.values():
            entries = self.request.buffer_size if m.type == _RINGBUF else resized.get(m.name)
            if m.type in (_HASH, _PERCPU_HASH):
                entries = entries or self.request.max_entries
            if m.name == getattr(self.request.tool, "stacks", ""):
                entries = self.request.stack_storage_size
            if m.name == "followed":
                entries = (entries or _FOLLOWED_MOST) if self.request.follow else None
            if entries and lib.shim_set_max_entries(self.handle, m.name.encode(), entries):
                raise BpfError(f"cannot size {m.name}")
        return values

    def read_map(self, name: str, summed: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Return the elements of a map; of a per-CPU map of u64 the sums over all CPUs."""
        m = self.maps[name]
        value_size = m.value_size * (lib.shim_cpus() if summed else 1)
        most = min(4096, m.max_entries)
        cursor = ffi.new("char[]", max(m.key_size, 8))
        keys = ffi.new("char[]", most * m.key_size)
        values = ffi.new("char[]", most * value_size)
        count = ffi.new("uint32_t *")
        first, error = 1, 0
        while not error:
            count[0] = most
            error = lib.shim_map_read(
                self.handle, m.name.encode(), first, cursor, keys, values, count
            )
            if error and error != -2:
                raise BpfError(f"cannot read {m.name}: {os.strerror(-error)}")
            first = 0
            if summed:
                lib.shim_sum(values, count[0], m.value_size)
            for i in range(count[0]):
                yield (
                    bytes(ffi.buffer(keys + i * m.key_size, m.key_size)),
                    bytes(ffi.buffer(values + i * m.value_size, m.value_size)),
                )

    def read_counter(self, name: str) -> int:
        """Return a global variable of the programs; 0 where they have none of that name."""
        ret = ffi.new("uint64_t *")
        lib.shim_get_global(self.handle, name.encode(), ret)
        return int(ret[0])

    def losses(self) -> dict[str, int]:
        """Return how many events were lost, by cause.

        Those are counters NAME_lost, skipped runs of programs, and samples that were not taken.
        """
        ret = ffi.new("uint64_t *")
        counters = [name for name in self.variables if name.endswith("_lost")]
        losses = {name[: -len("_lost")]: self.read_counter(name) for name in counters}
        missed = 0
        for program in self.programs:
            if self.taken.get(program.ladder) == program.rung:
                lib.shim_missed(self.handle, program.name.encode(), ret)
                missed += ret[0]
        losses["skipped"] = missed
        losses["unsampled"] = self._unsampled() if self._clocks else 0
        return {cause: count for cause, count in losses.items() if count}


def tracepoint_args(name: str) -> int:
    """Return how many arguments a tracepoint of the running kernel has."""
    ret = ffi.new("int *")
    error = lib.shim_tracepoint_args(name.encode(), ret)
    if error:
        raise kernel.explain_failure(f"cannot find the tracepoint {name}", error, take_log())
    return int(ret[0])


def kernel_enum(name: str) -> dict[str, int]:
    """Return an enum of the running kernel; raise NotSupported where there is none."""
    pointer, value = ffi.new("const char **"), ffi.new("int64_t *")
    members: dict[str, int] = {}
    index = 0
    while not (error := lib.shim_enumerator(name.encode(), index, pointer, value)):
        members[text(pointer[0])] = value[0]
        index += 1
    if not members:
        raise NotSupported(f"the kernel has no enum {name}: {os.strerror(-error)}")
    return members

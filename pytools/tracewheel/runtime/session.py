# SPDX-License-Identifier: BSD-2-Clause
"""One tracing session: open an object, choose rungs, load, attach, count what was lost."""

from __future__ import annotations

import collections
import errno
import functools
import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import ffi, lib
from tracewheel.runtime import kernel
from tracewheel.runtime.errors import BpfError, NotSupported, TargetGone, UsageError, say
from tracewheel.runtime.idle import count_unsampled, read_idle_ns
from tracewheel.runtime.meaning import later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tracewheel.runtime.options import Request
    from tracewheel.runtime.uprobes import Prober

_OBJECTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bpf")
_RINGBUF, _HASH, _PERCPU_HASH = 27, 1, 5  # enum bpf_map_type
_FOLLOWED_MOST = 16384  # processes that --follow traces at a time
_LOOK_MS = 1000  # until the next look which CPUs are online


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

    def chars(self, data: Any) -> bytes:
        """Return the text of an array of char, up to its NUL."""
        return bytes(data[self.offset : self.offset + self.size]).split(b"\0")[0]


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
    ladder: str  # what it helps to trace
    rung: str  # the way in which it does
    is_uprobe: bool  # attached to functions of files, by the session's prober
    turn: int  # 1; of one that stands in where those before it are skipped, 2 or 3


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
        self.handle = lib.shim_open(data, len(data))
        if not self.handle:
            raise kernel.explain_failure("cannot open the BPF object", -ffi.errno, take_log())
        self._btf = lib.bpf_object__btf(self.handle)
        self._links: list[Any] = []
        self._clocks: dict[int, int] = {}  # their descriptors, by CPU
        self._clocks_ran: list[tuple[int, int]] = []  # those that have ended: ns, idle ns
        self._idle_before: dict[int, int] = {}  # ns of a clock's CPU when the clock was started

    def detach(self) -> None:
        """Detach all programs."""
        self._end_clocks([*self._clocks])
        while self._links:
            lib.bpf_link__destroy(self._links.pop())

    def close(self) -> None:
        """Detach and unload everything."""
        self.detach()
        lib.bpf_object__close(self.handle)
        self.handle = ffi.NULL

    def programs(self) -> list[Program]:
        """Return the programs that trace, in the order of the source."""
        found = []
        for each in self._each(lib.bpf_object__next_program):
            name = text(lib.bpf_program__name(each))
            section = text(lib.bpf_program__section_name(each))
            if not section.startswith("iter/"):
                optional = not lib.bpf_program__autoload(each)
                is_uprobe = section in ("uprobe", "uretprobe")
                ladder, rung, *parts = name.split("__")
                turn = int(parts[-1]) if parts and parts[-1].isdigit() else 1
                found.append(Program(name, section, optional, ladder, rung, is_uprobe, turn))
        return found

    def maps(self) -> list[Map]:
        """Return the maps that the source declares."""
        return [
            self._map(text(lib.bpf_map__name(each)), each)
            for each in self._each(lib.bpf_object__next_map)
            if not lib.bpf_map__is_internal(each)
        ]

    def _map(self, name: str, found: Any) -> Map:
        record, key, value = (self._struct_of(name, which) for which in ("record", "key", "value"))
        return Map(name, record, key, value, lib.bpf_map__type(found), lib.bpf_map__key_size(found),
                   lib.bpf_map__value_size(found), lib.bpf_map__max_entries(found))  # fmt: skip

    def _each(self, following: Any) -> Iterator[Any]:
        each = ffi.NULL
        while each := following(self.handle, each):
            yield each

    def _struct_of(self, map_name: str, member: str) -> str:
        """Return the struct that a map's definition gives a member, or nothing."""
        variable = _type_named(self._btf, map_name, lib.BTF_KIND_VAR)
        definition, _ = _resolve(self._btf, variable.type)
        for m in ffi.unpack(lib.btf_members(definition), lib.btf_vlen(definition)):
            pointer = lib.btf__type_by_id(self._btf, m.type)
            if _name(self._btf, m) == member and lib.btf_is_ptr(pointer):
                struct, name = _resolve(self._btf, pointer.type)
                return name if lib.btf_is_struct(struct) else ""
        return ""

    def variables(self) -> list[Member]:
        """Return the global variables. libbpf knows their offsets once it has opened."""
        found = []
        for section in (".rodata", ".bss", ".data"):
            kind = _type_named(self._btf, section, lib.BTF_KIND_DATASEC)
            for v in ffi.unpack(lib.btf_var_secinfos(kind), lib.btf_vlen(kind)) if kind else ():
                variable = lib.btf__type_by_id(self._btf, v.type)
                found.append(_member(self._btf, variable, section, v.offset))
        return found

    def members(self, struct_name: str) -> list[Member]:
        """Return the members of a struct."""
        struct = _type_named(self._btf, struct_name, lib.BTF_KIND_STRUCT)
        return [
            _member(self._btf, m, "", lib.btf_member_bit_offset(struct, index) // 8)
            for index, m in enumerate(ffi.unpack(lib.btf_members(struct), lib.btf_vlen(struct)))
        ]

    def size(self, struct_name: str) -> int:
        """Return the size of a struct."""
        return int(_type_named(self._btf, struct_name, lib.BTF_KIND_STRUCT).size)

    def set(self, variable: Member, value: bytes) -> None:
        """Give a global variable its first value."""
        area = find_map(self.handle, variable.section)
        start = ffi.cast("char *", lib.bpf_map__initial_value(area, ffi.new("size_t *")))
        ffi.memmove(start + variable.offset, value, variable.size)

    def get(self, variable: Member) -> int:
        """Return a global variable's present value, or 0 if there is none yet."""
        # By look-up: outside skeletons libbpf maps .bss live only from 1.5 on.
        area = find_map(self.handle, variable.section)
        values = ffi.new("char[]", lib.bpf_map__value_size(area))
        lib.bpf_map_lookup_elem(lib.bpf_map__fd(area), ffi.new("uint32_t *"), values)
        return variable.unpack(ffi.buffer(values))

    def missed(self, program: Program) -> int:
        """Return how often the kernel has skipped a program."""
        # Linux commit 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented")
        # (in v5.12).
        info, size = ffi.new("struct bpf_prog_info *"), ffi.new("uint32_t *")
        size[0] = ffi.sizeof(info[0])
        fd = lib.bpf_program__fd(find_program(self.handle, program.name))
        lib.bpf_obj_get_info_by_fd(fd, info, size)
        return int(info.recursion_misses)

    def attach(self, program: Program) -> int:
        """Attach a program as its section says; return 0 or a negative errno."""
        found = find_program(self.handle, program.name)
        kind, _, function = program.section.partition("/")
        if kind != "kprobe.multi" or "*" in function or "?" in function:
            return self._keep(lib.bpf_program__attach(found))
        # To the one function: libbpf would look for it in kallsyms.
        name = ffi.new("char[]", function.encode())
        names = ffi.new("const char *[]", [name])
        options = ffi.new("struct bpf_kprobe_multi_opts *", {"syms": names, "cnt": 1})
        options.sz = ffi.sizeof(options[0])
        return self._keep(lib.bpf_program__attach_kprobe_multi_opts(found, ffi.NULL, options))

    def attach_uprobe(self, program: Program, fd: int, offset: int) -> int:
        """Probe the offset in a file, or the return from there; return 0 or a negative errno."""
        found, path = find_program(self.handle, program.name), b"/proc/self/fd/%d" % fd
        returns = program.section.startswith("uret")
        return self._keep(lib.bpf_program__attach_uprobe(found, returns, -1, path, offset))

    def start_clocks(self, program: Program, cpus: Iterable[int], frequency: int) -> int:
        """Run a program so many times a second on those CPUs that are online, unless it does.

        Returns 0 or a negative errno: -ENODEV where it runs on none.
        """
        # With a CPU that goes offline its clock ends, and does not run again when the CPU is back:
        # so it is from v5.10 to v7.2.
        self._end_clocks([c for c, clock in self._clocks.items() if _ran(clock) == _ran(clock)])
        fd = lib.bpf_program__fd(find_program(self.handle, program.name))
        idle = read_idle_ns()
        self._idle_before.update({cpu: idle.get(cpu, 0) for cpu in {*cpus} - {*self._clocks}})
        new = {cpu: lib.shim_start_clock(cpu, frequency, fd) for cpu in {*cpus} - {*self._clocks}}
        self._clocks.update({cpu: clock for cpu, clock in new.items() if clock >= 0})
        errors = {clock for clock in new.values() if clock < 0} - {-errno.ENODEV}
        return min(errors, default=0 if self._clocks else -errno.ENODEV)

    def _end_clocks(self, cpus: list[int]) -> None:
        self._clocks_ran += self._run_times(cpus)
        for clock in map(self._clocks.pop, cpus):
            os.close(clock)

    def _run_times(self, cpus: Iterable[int]) -> list[tuple[int, int]]:
        """Return how long clocks have run, and how long of it their CPUs were idle, in ns."""
        idle = read_idle_ns() if cpus else {}
        times = []
        for cpu in cpus:
            ran = _ran(self._clocks[cpu])
            # What is not known of a CPU that is offline by now is taken to be idleness.
            idled = idle[cpu] - self._idle_before[cpu] if cpu in idle else ran
            times.append((ran, min(ran, idled)))
        return times

    def clock_times(self) -> list[tuple[int, int]]:
        """Return how long each clock has run, and how long of it its CPU was idle, in ns."""
        return [*self._clocks_ran, *self._run_times([*self._clocks])]

    def _keep(self, link: Any) -> int:
        if link:
            self._links.append(link)
        return 0 if link else -ffi.errno


class Ring:
    """A ring buffer as lib.shim_read takes it: mapped while this lives."""

    def __init__(self, found: Any) -> None:
        import mmap

        page, size = os.sysconf("SC_PAGESIZE"), lib.bpf_map__max_entries(found)
        self.fd: int = lib.bpf_map__fd(found)
        try:
            self._areas = (
                ffi.from_buffer(mmap.mmap(self.fd, page)),
                ffi.from_buffer(mmap.mmap(self.fd, page + size, prot=mmap.PROT_READ, offset=page)),
            )
        except OSError as error:
            raise BpfError(f"cannot map the ring buffer: {error.strerror}") from None
        consumer, producer = (ffi.cast("uint64_t *", area) for area in self._areas)
        data = ffi.cast("char *", self._areas[1]) + page
        self.memory = ffi.new("struct shim_ring *", (consumer, producer, data, size - 1))


def _ran(clock: int) -> int:
    """Return for how many ns a clock has run: while its CPU was online."""
    return int.from_bytes(os.read(clock, 16)[8:], "little")


def find_program(handle: Any, name: str) -> Any:
    """Return a program of an object; libbpf would not survive NULL."""
    found = lib.bpf_object__find_program_by_name(handle, name.encode())
    if not found:
        raise BpfError(f"no program {name}")
    return found


def find_map(handle: Any, name: str) -> Any:
    """Return a map of an object, or that behind a section; libbpf would not survive NULL."""
    found = lib.bpf_object__find_map_by_name(handle, name.encode())
    if not found:
        raise BpfError(f"no map {name}")
    return found


def write_map(handle: Any, name: str, key: bytes, value: bytes) -> int:
    """Set an element of a map; return 0 or a negative errno."""
    fd = lib.bpf_map__fd(find_map(handle, name))
    return int(lib.bpf_map_update_elem(fd, key, value, lib.BPF_ANY))


def _name(btf: Any, named: Any) -> str:
    return text(lib.btf__name_by_offset(btf, named.name_off))


def _type_named(btf: Any, name: str, kind: int) -> Any:
    number = lib.btf__find_by_name_kind(btf, name.encode(), kind) if btf else 0
    return lib.btf__type_by_id(btf, number) if number > 0 else None


def _resolve(btf: Any, number: int) -> tuple[Any, str]:
    """Return the type under typedefs and qualifiers, which have no name, and the outermost name."""
    name = ""
    while True:
        found = lib.btf__type_by_id(btf, number)
        name = name or _name(btf, found)
        if not lib.btf_is_mod(found) and not lib.btf_is_typedef(found):
            return found, name
        number = found.type


def _member(btf: Any, member: Any, section: str, offset: int) -> Member:
    """Describe a member of a struct, or a global variable."""
    found, meaning = _resolve(btf, member.type)
    count = 0
    if lib.btf_is_array(found):
        array = lib.btf_array(found)
        count = array.nelems
        found, _ = _resolve(btf, array.type)
    encoding = lib.btf_int_encoding(found) if lib.btf_is_int(found) else 0
    is_signed, is_bool = (bool(encoding & bit) for bit in (lib.BTF_INT_SIGNED, lib.BTF_INT_BOOL))
    size = lib.btf__resolve_size(btf, member.type)
    return Member(_name(btf, member), meaning, section, offset, size, count, is_signed, is_bool)


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
        self._loaded: list[Program] = []
        self.taken: dict[str, str] = {}
        self.missing: list[Program] = []  # optional programs that could not be attached
        self._host_ids: dict[int, int] = {}
        self.prober: Prober | None = None
        self.ring: Ring | None = None
        self.started = kernel.boot_time_ns()
        self.ended = 0  # monotonic, ns
        self._sampler: Program | None = None  # what clocks run
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
        assert self.opened
        self.opened.detach()

    def close(self) -> None:
        """Detach and unload everything; may be called again."""
        self._unload()
        if self.target >= 0:
            os.close(self.target)
            self.target = -1

    def _unload(self) -> None:
        self.ring = None
        if self.opened:
            self.opened.close()
            self.opened = None

    @property
    def handle(self) -> Any:
        """The object as libbpf knows it."""
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
        for name in (m.name for m in self.maps.values() if m.type == _RINGBUF):
            self.ring = Ring(find_map(self.handle, name))
        self.prober = self._new_prober(rungs)
        if self.prober:
            self.prober.begin()

    def _new_prober(self, rungs: dict[str, str]) -> Prober | None:
        programs = [p for p in self.programs if rungs.get(p.ladder) == p.rung and p.is_uprobe]
        uprobes = getattr(self.request.tool, "uprobes", None)
        if not programs or not uprobes:
            return None
        from tracewheel.runtime.uprobes import Prober

        return Prober(self, uprobes, programs)

    def patience(self, left: int) -> int:
        """Probe or sample what has turned up; return how many of these ms (-1: all) to wait."""
        if self._sampler:
            error = self._start_clocks(self._sampler, kernel.online_cpus())
            if error not in (0, -errno.ENODEV):
                say(f"{self.name}: cannot sample every CPU: {os.strerror(-error)}")
            left = min(left, _LOOK_MS) if left >= 0 else _LOOK_MS
        return self.prober.patience(left) if self.prober else left

    def _rungs_to_try(self, ladder: str) -> list[str]:
        if ladder in self._forced:
            return [self._forced[ladder]]
        rungs = self.ladders[ladder]
        programs = (p for p in self.programs if p.ladder == ladder)
        trampolines = {p.rung for p in programs if p.section.startswith(("fentry/", "fexit/"))}
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

    def attempts(self) -> Iterator[tuple[str, str, str | None]]:
        """Try every rung by itself; yield ladder, rung, and the error or None where it holds."""
        for ladder, rungs in self.ladders.items():
            for rung in rungs:
                error = self._retry({ladder: rung})
                prober = None if error else self._new_prober({ladder: rung})
                if prober:
                    error = prober.trial()
                yield ladder, rung, self._last_words(error) if error else None

    def _last_words(self, error: int) -> str:
        """Return the verifier's last line that means something, behind the errno's text."""
        noise = ("libbpf:", "processed", "--", "verification time")
        lines = map(str.strip, self.log.splitlines())
        words = [line for line in lines if line and not line.startswith(noise)]
        return os.strerror(-error) + (f": {words[-1]}" if words else "")

    def _try(self, rungs: dict[str, str]) -> int:
        """Configure, load and attach a fresh object; return 0 or a negative errno."""
        assert self.opened
        handle = self.handle
        every = [p for p in self.programs if rungs.get(p.ladder) == p.rung]
        if any(p.turn > 1 for p in every) and not preempts_programs():
            every = [p for p in every if p.turn == 1]
        self._loaded = wanted = [p for p in every if p not in self._absent]
        self.missing = [p for p in every if p in self._absent]
        for program in self.programs:
            autoload(handle, program.name, program in wanted)
        values = self._configure()
        refused = ""
        error: int = lib.bpf_object__load(handle)
        if error == -errno.ESRCH and self._find_absent(wanted):
            return self._retry(rungs)
        self.started = kernel.boot_time_ns()
        if not error:
            self._follow(values)
            for program in wanted:
                if program.is_uprobe:
                    continue
                if program.section == "perf_event":
                    self._sampler = program
                    # Not just those that are said to be online: some containers tell but a few.
                    failed = self._start_clocks(program, range(lib.libbpf_num_possible_cpus()))
                    if failed == -errno.ENODEV:
                        raise TargetGone(f"cannot sample CPU {self.request.cpu}: it is offline")
                else:
                    failed = self.opened.attach(program)
                if failed and not program.optional:
                    error, refused = failed, program.section
                    break
                if failed:
                    self.missing.append(program)
            ladders = {p.ladder for p in every if p not in self.missing}
            if not error and ladders != set(rungs):
                error = failed or -errno.ENOENT  # of a ladder, nothing was attached
            if not error:
                self._follow(values)  # what was forked meanwhile
        self.log = take_log() + refused
        if self.request.debug and error:
            print(self.log, end="", file=sys.stderr)
        return error

    def _start_clocks(self, program: Program, cpus: Iterable[int]) -> int:
        """Let the program run at a frequency on those CPUs that are online, or on one."""
        assert self.opened
        chosen = cpus if self.request.cpu is None else [self.request.cpu]
        return self.opened.start_clocks(program, chosen, self.request.frequency)

    def _unsampled(self) -> int:
        """Return how many times a clock should have run the program on a busy CPU, and did not.

        It does not while a map is changed or another program runs on that CPU, and the kernel does
        not count that.
        """
        assert self.opened
        frequency = self.request.frequency
        times = self.opened.clock_times()
        period = 10**9 // frequency
        return count_unsampled(
            ticks=sum(ran // period for ran, _ in times),
            idle_ticks=sum(idle / period for _, idle in times),
            samples=self.global_value("clock_samples"),
            busy_samples=self.global_value("clock_busy_samples"),
            unsure=len(times) * frequency / os.sysconf("SC_CLK_TCK"),
        )

    def _skipped(self, ladder: str, full: bool) -> int:
        """Return for how many events, at most, the kernel has skipped a ladder's programs.

        A stand-in that finds no room, in what is FULL, leaves it open whether the first has run.
        """
        assert self.opened
        stood_in = self.variables.get(f"{ladder}_stood_in")
        by_turn = collections.Counter({1: -self.opened.get(stood_in) if stood_in else 0})
        for program in (p for p in self._loaded if p.ladder == ladder):
            by_turn[program.turn] += self.opened.missed(program)
        return max(0, by_turn[1] if full else min(by_turn.values()))

    def tell_missing(self, ladder: str) -> str:
        """Return what to say of the functions that a rung does without."""
        every = [p for p in self.programs if (p.ladder, p.rung) == (ladder, self.taken[ladder])]
        missing = [p.section.partition("/")[2] for p in self.missing if p.ladder == ladder]
        if not missing:
            return ""
        return f"attached {len(every) - len(missing)} of {len(every)}, not {', '.join(missing)}"

    def _find_absent(self, programs: list[Program]) -> bool:
        """Find optional programs on functions that the kernel does not have as such."""
        for program in programs:
            kind, _, function = program.section.partition("/")
            on_function = program.optional and kind in ("fentry", "fexit")
            if on_function and not _type_named(_kernel_btf(), function, lib.BTF_KIND_FUNC):
                self._absent.add(program)
        return not self._absent.isdisjoint(programs)

    def _follow(self, values: dict[str, Any]) -> None:
        if self.request.follow:
            later("tasks", "follow")(self.handle, values["filter_pid"])

    def _configure(self) -> dict[str, Any]:
        assert self.opened
        values = self.request.variables()
        if not self._host_ids and kernel.in_pid_namespace():
            ids = [value for value in values.values() if isinstance(value, kernel.TaskId)]
            self._host_ids = later("tasks", "host_ids")(self._data, ids)
        for name, value in values.items():
            if isinstance(value, kernel.TaskId):
                values[name] = self._host_ids.get(value, value)
        if self.request.follow:
            later("tasks", "enable")(self.handle)
        for name in self.variables:
            if name.startswith("argc_"):
                values[name] = tracepoint_args(name[5:])
        for name, value in values.items():
            if name not in self.variables:
                raise UsageError(f"{self.name} cannot be asked for {name.partition('_')[2]}")
            self.opened.set(self.variables[name], self.variables[name].pack(value))
        resized = self.request.entries()
        for m in self.maps.values():
            entries = self.request.buffer_size if m.type == _RINGBUF else resized.get(m.name)
            if m.type in (_HASH, _PERCPU_HASH):
                entries = entries or self.request.max_entries
            if m.name == getattr(self.request.tool, "stacks", ""):
                entries = self.request.stack_storage_size
            if m.name == "followed":
                entries = (entries or _FOLLOWED_MOST) if self.request.follow else None
            if entries and lib.bpf_map__set_max_entries(find_map(self.handle, m.name), entries):
                raise BpfError(f"cannot size {m.name}")
        return values

    def read_map(self, name: str, summed: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Return the elements of a map; of a per-CPU map of u64 the sums over all CPUs."""
        m = self.maps[name]
        value_size = m.value_size * (lib.libbpf_num_possible_cpus() if summed else 1)
        fd = lib.bpf_map__fd(find_map(self.handle, m.name))
        most = min(4096, m.max_entries)
        cursor = ffi.new("char[]", max(m.key_size, 8))
        keys = ffi.new("char[]", most * m.key_size)
        values = ffi.new("char[]", most * value_size)
        count = ffi.new("uint32_t *")
        before, error, singly = ffi.NULL, 0, False
        while not error:
            count[0] = most
            if not singly:
                error = lib.bpf_map_lookup_batch(fd, before, cursor, keys, values, count, ffi.NULL)
                # There are batches of hash maps since v5.6, of per-CPU arrays since Linux commit
                # f008d732ab18 ("bpf: Add batched ops support for percpu array") (in v5.13).
                singly = not before and error not in (0, -errno.ENOENT)
            if singly:
                error = lib.bpf_map_get_next_key(fd, before, cursor)
                gone = error or lib.bpf_map_lookup_elem(fd, cursor, values)
                ffi.memmove(keys, cursor, m.key_size)
                count[0] = 0 if gone else 1
            if error not in (0, -errno.ENOENT):
                raise BpfError(f"cannot read {m.name}: {os.strerror(-error)}")
            before = cursor
            if summed:
                lib.shim_sum(values, count[0], m.value_size)
            for i in range(count[0]):
                key, value = keys + i * m.key_size, values + i * m.value_size
                yield ffi.buffer(key, m.key_size)[:], ffi.buffer(value, m.value_size)[:]

    def whose(self, members: Iterable[Member]) -> Callable[[bytes], bytes]:
        """Return what makes one of the keys that differ only by cgroups of one container."""
        if not self.request.per_container:
            return bytes
        member = next(m for m in members if m.meaning == "ev_cgroup")
        begin, end = member.offset, member.offset + member.size
        find = later("containers", "container_of")
        return lambda key: key[:begin] + member.pack(find(member.unpack(key))[0]) + key[end:]

    def global_value(self, name: str) -> int:
        """Return what the programs have made of a global variable."""
        assert self.opened
        return self.opened.get(self.variables[name])

    def losses(self) -> dict[str, int]:
        """Return how many events were lost, by cause.

        Those are counters NAME_lost, skipped runs of programs, and samples that were not taken.
        """
        assert self.opened
        counters = [name for name in self.variables if name.endswith("_lost")]
        losses = {name.removesuffix("_lost"): self.global_value(name) for name in counters}
        told = getattr(self.request.tool, "tells_skips", ())
        full = any(losses.get(m.name) for m in self.maps.values() if m.type == _HASH)
        losses["skipped"] = sum(self._skipped(each, full) for each in {*self.taken} - {*told})
        losses["unsampled"] = self._unsampled() if self._sampler else 0
        return {cause: count for cause, count in losses.items() if count}


def autoload(handle: Any, program: str, wanted: bool) -> None:
    """Have a program loaded with its object, or not."""
    lib.bpf_program__set_autoload(find_program(handle, program), wanted)


@functools.cache
def _kernel_btf() -> Any:
    return lib.btf__load_vmlinux_btf()


def preempts_programs() -> bool:
    """Tell whether programs at tracepoints may be preempted: see ON_TRACEPOINT_THRICE."""
    return bool(_type_named(_kernel_btf(), "class_srcu_fast_notrace_t", lib.BTF_KIND_TYPEDEF))


def tracepoint_args(name: str) -> int:
    """Return how many arguments a tracepoint of the running kernel has."""
    btf = _kernel_btf()
    found = _type_named(btf, f"btf_trace_{name}", lib.BTF_KIND_TYPEDEF)
    if not found:
        what = f"cannot find the tracepoint {name}"
        raise kernel.explain_failure(what, -errno.ENOENT, take_log())
    pointer, _ = _resolve(btf, found.type)
    prototype, _ = _resolve(btf, pointer.type)
    return int(lib.btf_vlen(prototype)) - 1  # the first is the tracepoint's own data


def kernel_enum(name: str) -> dict[str, int]:
    """Return an enum of the running kernel; raise NotSupported where there is none."""
    btf = _kernel_btf()
    found = _type_named(btf, name, lib.BTF_KIND_ENUM)
    if not found:
        raise NotSupported(f"the kernel has no enum {name}")
    return {_name(btf, each): each.val
            for each in ffi.unpack(lib.btf_enum(found), lib.btf_vlen(found))}  # fmt: skip

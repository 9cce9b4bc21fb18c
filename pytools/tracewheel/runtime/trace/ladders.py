# SPDX-License-Identifier: BSD-2-Clause
"""Ladders: the ways in which a tool can trace, the preferred one first.

A tool traces by the first rung of each ladder that can be loaded and attached on this kernel.
"""

from __future__ import annotations

import errno
import os
import sys

from tracewheel._shim import lib
from tracewheel.runtime.host.clocks import boot_time_ns
from tracewheel.runtime.host.errors import TargetGone, UsageError
from tracewheel.runtime.host.kernel_types import kernel_btf, type_named
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.trace.btf import preempts_programs, take_log
from tracewheel.runtime.trace.object import BpfObject, autoload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.trace.configuration import Configuration
    from tracewheel.runtime.trace.object import Program


# How the sections of programs begin that the kernel calls by a trampoline.
_BY_TRAMPOLINE = ("fentry/", "fexit/")


def ladders_of(programs: list[Program]) -> dict[str, list[str]]:
    """Return the rungs of each ladder, the preferred one first."""
    ladders: dict[str, list[str]] = {}
    for program in programs:
        rungs = ladders.setdefault(program.ladder, [])
        if program.rung not in rungs:
            rungs.append(program.rung)
    return ladders


def _is_refused(section: str) -> bool:
    """Tell whether this kernel is known to refuse programs of a section."""
    if section.startswith(_BY_TRAMPOLINE):
        return bool(lib.shim_refuses_trampolines())
    if section in ("uprobe.multi", "uretprobe.multi"):
        return bool(lib.shim_refuses_uprobe_links())
    return False


class Climber:
    """Loads and attaches a tool's programs by the first rung of each ladder that holds.

    Every attempt is on a fresh object, because what was loaded cannot be configured again.
    """

    def __init__(
        self,
        name: str,
        data: bytes,
        request: Request,
        configuration: Configuration,
        all_ladders: bool = False,
    ) -> None:
        self._name = name
        self._data = data
        self._request = request
        self._configuration = configuration
        self.object: BpfObject | None = BpfObject(data)
        self.programs = self.object.programs()
        self.ladders = ladders_of(self.programs)
        if not all_ladders:
            for ladder in request.ladders_left_out(list(self.ladders)):
                del self.ladders[ladder]
        self._forced = self._parse_forced(request.rung or ())
        self._absent: set[Program] = set()  # programs on functions that this kernel lacks
        self.loaded: list[Program] = []
        self.missing: list[Program] = []  # optional programs that could not be attached
        self.started = boot_time_ns()
        self._log = ""  # what libbpf has said during the last attempt

    def climb(self) -> dict[str, str]:
        """Load and attach; return the rung taken of each ladder. Raises BpfError."""
        candidates = {ladder: self._rungs_to_try(ladder) for ladder in self.ladders}
        rungs = {ladder: rungs_to_try[0] for ladder, rungs_to_try in candidates.items()}
        error = self._try(rungs)
        if error:
            # It is not known which ladder the error comes from: try each by itself.
            for ladder in rungs:
                rungs[ladder] = self._first_that_holds(ladder, candidates[ladder])
            error = self.retry(rungs) if len(rungs) > 1 else 0
        if error:
            raise explain_failure(f"cannot trace with {self._name}", error, self._log)
        return rungs

    def retry(self, rungs: dict[str, str]) -> int:
        """Try rungs on a fresh object; return 0 or a negative errno."""
        self.close()
        self.object = BpfObject(self._data)
        return self._try(rungs)

    def close(self) -> None:
        """Detach and unload everything."""
        if self.object:
            self.object.close()
            self.object = None

    def describe_error(self, error: int) -> str:
        """Return the text of an errno, and the last line of the verifier that says something."""
        noise = ("libbpf:", "processed", "--", "verification time")
        lines = [line.strip() for line in self._log.splitlines()]
        telling = [line for line in lines if line and not line.startswith(noise)]
        description = os.strerror(-error)
        return f"{description}: {telling[-1]}" if telling else description

    def describe_missing(self, ladder: str, rung: str) -> str:
        """Return a line about functions that a rung could not attach to, "" if there are none."""
        every = [p for p in self.programs if p.ladder == ladder and p.rung == rung]
        missing = [p.function for p in self.missing if p.ladder == ladder]
        if not missing:
            return ""
        attached = len(every) - len(missing)
        return f"attached to {attached} of {len(every)} functions, not to {', '.join(missing)}"

    def _parse_forced(self, wishes: tuple[str, ...]) -> dict[str, str]:
        """Return the rung of each ladder that --rung forces. Raises UsageError."""
        forced = {}
        for wish in wishes:
            ladder, _, rung = wish.partition("=")
            if rung not in self.ladders.get(ladder, ()):
                known = [f"{name}={each}" for name, rungs in self.ladders.items() for each in rungs]
                raise UsageError(f"no rung {wish!r}: the rungs are {', '.join(known)}")
            forced[ladder] = rung
        return forced

    def _rungs_to_try(self, ladder: str) -> list[str]:
        """Return the rungs of a ladder that may hold; all of them if none of them can."""
        if ladder in self._forced:
            return [self._forced[ladder]]
        rungs = self.ladders[ladder]
        programs = [p for p in self.programs if p.ladder == ladder]
        refused = {p.rung for p in programs if _is_refused(p.section)}
        others = [rung for rung in rungs if rung not in refused]
        return others or rungs

    def _first_that_holds(self, ladder: str, rungs: list[str]) -> str:
        error = 0
        for rung in rungs:
            error = self.retry({ladder: rung})
            if not error:
                return rung
        flags = self._request.flags_that_enable(ladder)
        what = f"what {flags} asks for" if flags else ladder
        raise explain_failure(f"cannot trace {what} with {self._name}", error, self._log)

    def _try(self, rungs: dict[str, str]) -> int:
        """Configure, load and attach a fresh object; return 0 or a negative errno."""
        assert self.object
        self._choose_programs(self.object, rungs)
        self._configuration.apply(self.object)
        error = self.object.load()
        if error == -errno.ESRCH and self._find_absent():
            return self.retry(rungs)
        self.started = boot_time_ns()
        refused = ""
        if not error:
            error, refused = self._attach(self.object, set(rungs))
        self._log = take_log() + refused
        if self._request.debug and error:
            print(self._log.rstrip("\n"), file=sys.stderr)
        return error

    def _choose_programs(self, bpf_object: BpfObject, rungs: dict[str, str]) -> None:
        """Choose the programs of these rungs to be loaded, and no others."""
        wanted = [p for p in self.programs if rungs.get(p.ladder) == p.rung]
        has_stand_ins = any(p.attempt > 1 for p in wanted)
        if has_stand_ins and not preempts_programs():
            wanted = [p for p in wanted if p.attempt == 1]
        self.loaded = [p for p in wanted if p not in self._absent]
        self.missing = [p for p in wanted if p in self._absent]
        for program in self.programs:
            autoload(bpf_object.handle, program.name, program in self.loaded)

    def _find_absent(self) -> bool:
        """Find optional programs on functions that this kernel lacks; tell if there are any."""
        for program in self.loaded:
            if program.optional and program.section.startswith(_BY_TRAMPOLINE):
                found = type_named(kernel_btf(), program.function, lib.BTF_KIND_FUNC)
                if not found:
                    self._absent.add(program)
        return not self._absent.isdisjoint(self.loaded)

    def _attach(self, bpf_object: BpfObject, ladders: set[str]) -> tuple[int, str]:
        """Attach what was loaded; return 0 or a negative errno, and the section that failed."""
        self._configuration.mark_processes(bpf_object)
        failure = 0
        for program in self.loaded:
            if program.is_uprobe:
                continue
            error = self._attach_program(bpf_object, program)
            if error and not program.optional:
                return error, program.section
            if error:
                self.missing.append(program)
                failure = error
        attached = {p.ladder for p in self.loaded if p not in self.missing}
        if attached != ladders:
            return failure or -errno.ENOENT, ""
        self._configuration.mark_processes(bpf_object)  # again, for those forked meanwhile
        return 0, ""

    def _attach_program(self, bpf_object: BpfObject, program: Program) -> int:
        if program.section != "perf_event":
            return bpf_object.attach(program)
        cpu = self._request.cpu
        error = bpf_object.attach_clocks(program, self._request.frequency, cpu)
        if error == -errno.ENODEV:
            raise TargetGone(f"cannot sample CPU {cpu}: it is offline: choose another one")
        return error

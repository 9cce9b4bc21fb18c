# SPDX-License-Identifier: BSD-2-Clause
"""Uprobes: find the files to probe in every mount namespace, now and while processes start."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from tracewheel._shim import __file__ as _SHIM
from tracewheel._shim import lib
from tracewheel.runtime.host.errors import TargetGone, say
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.host.processes import in_pid_namespace, status_of
from tracewheel.runtime.host.symbols import find_functions, mappings_of, open_mapped, open_regular
from tracewheel.runtime.host.terminal import escape

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracewheel.runtime.spec.shapes import Uprobes
    from tracewheel.runtime.trace.object import Program


# The shortest and the longest pause, in seconds, before a process is looked at once more that has
# not mapped its library: the dynamic linker does that some time after the exec. The shortest one
# must be longer than ARRIVALS_TOGETHER_NS of uprobe.bpf.h.
_PAUSE, _LAST_PAUSE = 0.005, 2.0


class Prober:
    """Attaches uprobes to files, and looks at new processes for more of them.

    ``attach`` attaches a program to a descriptor of a file and to offsets in it; it returns 0 or a
    negative errno.
    """

    def __init__(
        self,
        name: str,
        what: Uprobes,
        programs: list[Program],
        attach: Callable[[Program, int, list[int]], int],
    ) -> None:
        self._name = name
        self._attach_program = attach
        self._what = what
        self._programs = programs
        self._has_functions: dict[tuple[Any, ...], bool] = {}  # by the names of a file
        # By the ids of processes: when to look at each, and the pause if it is to be once more.
        self._waiting: dict[int, tuple[float, float]] = {}
        self._allowed = False  # the kernel has attached a program
        self._hidden_processes = 0  # those that might be probed, but must not be looked at

    def begin(self, chosen: str | None) -> None:
        """Probe the files of all processes, or one that was chosen. Raises BpfError."""
        if chosen:
            if not self._probe(open_regular(chosen)):
                names = " or ".join(name for group in self._what.functions for name in group)
                path = escape(os.fsencode(os.path.realpath(chosen)))
                raise TargetGone(f"cannot trace file {path}: it has no function {names}")
            return
        for path in self._what.usual:
            with contextlib.suppress(OSError):
                self._probe(open_regular(path))
        for pid in _processes():
            self._look_at(pid, _PAUSE)
        wanted = self._what.program or self._what.libraries[0]
        if self._hidden_processes:
            remedy = ": run as root" if os.geteuid() else ""
            number = self._hidden_processes
            processes = "a process" if number == 1 else f"{number} processes"
            self._say(f"cannot look into {processes} that may use {wanted}{remedy}")
        if not any(self._has_functions.values()):
            self._raise_if_refused()
            self._say(f"no {wanted} found yet")

    def arrived(self, pid: int) -> None:
        """Take note that a process, given by its id on the host, runs another program."""
        # In a PID namespace its id is not known, so it may be any process.
        processes = _processes() if in_pid_namespace() else [pid]
        # A library is mapped later, and a process that has ended by then costs no look.
        first_look = 0.0 if self._what.program else time.monotonic() + _PAUSE
        for each in processes:
            next_look, _ = self._waiting.get(each, (first_look, _PAUSE))
            self._waiting[each] = (min(first_look, next_look), _PAUSE)

    def tend(self, left: int) -> int:
        """Look at the processes whose time has come; return for how many ms to wait until the next.

        ``left`` is how many ms there are to wait at most; -1 stands for no limit, here and in what
        is returned.
        """
        now = time.monotonic()
        for pid, (at, pause) in list(self._waiting.items()):
            if at <= now:
                del self._waiting[pid]
                self._look_at(pid, pause)
        if not self._waiting:
            return left
        next_look = min(at for at, _ in self._waiting.values())
        until_next = max(1, int((next_look - now) * 1000))
        return until_next if left < 0 else min(left, until_next)

    def trial(self) -> int:
        """Try to probe the shim, which nothing speaks against; return 0 or a negative errno."""
        function = "PyInit__shim"
        with open(_SHIM, "rb") as file:
            fd = file.fileno()
            offset = find_functions(fd, (function,))[function]
            return self._attach(fd, dict.fromkeys(self._what.functions, offset))

    def _look_at(self, pid: int, pause: float) -> None:
        """Probe the program that a process runs, or else its library.

        If the library is not mapped yet, the process is looked at once more after a pause.
        """
        wanted = self._what.program
        try:
            program = f"/proc/{pid}/exe"
            name = os.path.basename(os.readlink(program)).split(" (deleted)")[0]
            if wanted and (name != wanted or self._probe(open_regular(program))):
                return
            self._look_at_libraries(pid, pause)
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended, or is a kernel thread
        except PermissionError:
            may_be_wanted = status_of(pid, "Name") == [wanted] if wanted else _has_memory(pid)
            self._hidden_processes += may_be_wanted
        except OSError as error:
            self._say(f"cannot look into process {pid}: {error.strerror}")

    def _look_at_libraries(self, pid: int, pause: float) -> None:
        beginnings = tuple(os.fsencode(name) for name in self._what.libraries)
        mapped = [m for m in mappings_of(pid) if os.path.basename(m.path).startswith(beginnings)]
        for mapping in mapped:
            self._probe(open_mapped(pid, mapping))
        if not mapped and beginnings and pause <= _LAST_PAUSE:
            self._waiting[pid] = (time.monotonic() + pause, pause * 2)

    def _probe(self, fd: int) -> bool:
        """Attach to the functions of a file, unless that is done; tell whether it has any.

        Closes the descriptor.
        """
        with open(fd, "rb", buffering=0):
            known_by, names = _names_of(os.fstat(fd), bool(lib.shim_is_overlay(fd)))
            for name in known_by:
                if name in self._has_functions:
                    return self._has_functions[name]
            found = self._probe_file(fd)
            # A file without the functions may get them, so it is only known while it is unchanged.
            to_remember = names if found else names[:1]
            for name in to_remember:
                self._has_functions[name] = found
            return found

    def _probe_file(self, fd: int) -> bool:
        """Attach to the functions of a file; tell whether it has any."""
        every = tuple(name for group in self._what.functions for name in group)
        defined = find_functions(fd, every)
        offsets = {}
        caveats = []
        for group in self._what.functions:
            present = [name for name in group if name in defined]
            if present:
                offsets[group] = defined[present[0]]
                caveats += [name for name in present[:1] if name in self._what.caveats]
        error = self._attach(fd, offsets)
        path = escape(os.fsencode(os.path.realpath(f"/proc/self/fd/{fd}")))
        if error:
            self._raise_if_refused()
            self._say(f"cannot probe {path}: {os.strerror(-error)}")
        for name in [] if error else caveats:
            self._say(f"{path} has only {name}: {self._what.caveats[name]}")
        return bool(offsets)

    def _attach(self, fd: int, offsets: dict[tuple[str, ...], int]) -> int:
        """Attach all programs to functions, given by their names; return 0 or a negative errno."""
        for program in self._programs:
            its_own = {
                offset
                for names, offset in offsets.items()
                if program.part in names or not program.part
            }
            error = self._attach_program(program, fd, sorted(its_own)) if its_own else 0
            if error:
                return error
        self._allowed = self._allowed or bool(offsets)
        return 0

    def _raise_if_refused(self) -> None:
        """Raise BpfError if the kernel refuses to probe any file, not just the one at hand."""
        error = 0 if self._allowed else self.trial()
        if error:
            raise explain_failure(f"cannot trace with {self._name}", error, "uprobe")

    def _say(self, what: str) -> None:
        say(f"{self._name}: {what}")


def _names_of(status: os.stat_result, overlay: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the names by which a file may be known, and those by which to remember it.

    The kernel probes the file beneath an overlay, and many containers share that file. An overlay
    shows the inode number of the file beneath and the time of its last change, but a device of its
    own.
    """
    number = status.st_ino
    changed = status.st_ctime_ns
    unchanged = ("unchanged", status.st_dev, number, changed)
    beneath = ("beneath", number, changed)
    above = ("above", number, changed)
    if overlay:
        return (unchanged, above, beneath), (unchanged, above)
    probed = ("probed", status.st_dev, number)  # no other file gets its number while it is probed
    return (unchanged, probed, above), (unchanged, probed, beneath)


def _has_memory(pid: int) -> bool:
    """Tell whether a process runs a program, as all do but threads of the kernel."""
    return bool(status_of(pid, "VmSize"))


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]

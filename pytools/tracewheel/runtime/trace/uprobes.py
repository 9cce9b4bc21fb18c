# SPDX-License-Identifier: BSD-2-Clause
"""Uprobes: find the files that they belong in, of every mount namespace, now and later."""

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


# The first and the longest pause, in seconds, before a program is looked at once more whose
# library was not there: the dynamic linker maps it only after the exec that we are told of.
_PAUSE, _LAST_PAUSE = 0.005, 2.0


class Prober:
    """What a session has probed, and the processes that it has yet to look at."""

    def __init__(
        self,
        name: str,
        what: Uprobes,
        programs: list[Program],
        attach: Callable[[Program, int, int], int],
    ) -> None:
        self._name = name
        self._attach_program = attach  # to a descriptor and an offset; 0 or a negative errno
        self._what = what
        self._programs = programs
        self._defines: dict[tuple[Any, ...], bool] = {}
        self._waiting: dict[int, tuple[float, float]] = {}  # pid: when to look, pause after that
        self._allowed = False
        self._closed = 0

    def begin(self, chosen: str | None) -> None:
        """Probe what is there, or a file that was chosen; raise BpfError where none can be."""
        if chosen:
            if not self._probe(open_regular(chosen)):
                names = " or ".join(name for group in self._what.functions for name in group)
                path = escape(os.fsencode(os.path.realpath(chosen)))
                raise TargetGone(f"cannot trace file {path}: it has no {names}")
            return
        for path in self._what.usual:
            with contextlib.suppress(OSError):
                self._probe(open_regular(path))
        for pid in _processes():
            self._look_at(pid, _PAUSE)
        if self._closed:
            self._say(f"cannot look into {self._closed} processes that may be one: run as root")
        if not any(self._defines.values()):
            self._raise_if_refused()
            self._say(f"no {self._what.program or self._what.libraries[0]} found yet")

    def arrived(self, pid: int) -> None:
        """Take note of a process that has begun to run another program; the id is the host's."""
        for each in _processes() if in_pid_namespace() else [pid]:
            self._waiting[each] = (0.0, _PAUSE)

    def tend(self, left: int) -> int:
        """Look where it is time to; return for how many of LEFT ms to wait (-1: all)."""
        now = time.monotonic()
        for pid, (at, pause) in list(self._waiting.items()):
            if at <= now:
                del self._waiting[pid]
                self._look_at(pid, pause)
        if not self._waiting:
            return left
        soon = max(1, int((min(at for at, _ in self._waiting.values()) - now) * 1000))
        return soon if left < 0 else min(left, soon)

    def trial(self) -> int:
        """Return 0, or the errno by which the kernel refuses to probe even our own library."""
        with open(_SHIM, "rb") as file:
            fd = file.fileno()
            return self._attach(fd, find_functions(fd, ("PyInit__shim",))["PyInit__shim"])

    def _look_at(self, pid: int, pause: float) -> None:
        """Probe what a process runs, or its library; where that is not mapped yet, wait for it."""
        exe, libraries = f"/proc/{pid}/exe", tuple(map(os.fsencode, self._what.libraries))
        try:
            name = os.path.basename(os.readlink(exe)).split(" (deleted)")[0]
            if self._what.program not in ("", name) or self._probe(open_regular(exe)):
                return
            mapped = [each for each in mappings_of(pid)
                      if os.path.basename(each.path).startswith(libraries)]  # fmt: skip
            for each in mapped:
                self._probe(open_mapped(pid, each))
            if not mapped and libraries and pause <= _LAST_PAUSE:
                self._waiting[pid] = (time.monotonic() + pause, pause * 2)
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended, or is the kernel's own
        except PermissionError:
            self._closed += status_of(pid, "Name") == [self._what.program]
        except OSError as error:
            self._say(f"cannot look into process {pid}: {error.strerror}")

    def _probe(self, fd: int) -> bool:
        """Attach to the functions of a file, once; tell whether it defines any. Closes it."""
        with open(fd, "rb", buffering=0):
            known_by, names = _names_of(os.fstat(fd), bool(lib.shim_is_overlay(fd)))
            for name in known_by:
                if name in self._defines:
                    return self._defines[name]
            found = self._probe_file(fd)
            self._defines.update(dict.fromkeys(names if found else names[:1], found))
            return found

    def _probe_file(self, fd: int) -> bool:
        every = tuple(name for group in self._what.functions for name in group)
        offsets = find_functions(fd, every)
        path = escape(os.fsencode(os.path.realpath(f"/proc/self/fd/{fd}")))
        for group in self._what.functions:
            name = next((name for name in group if name in offsets), None)
            error = self._attach(fd, offsets[name]) if name else 0
            if error:
                self._raise_if_refused()
                self._say(f"cannot probe {path}: {os.strerror(-error)}")
            elif name and name in self._what.caveats:
                self._say(f"{path} has only {name}: {self._what.caveats[name]}")
        return bool(offsets)

    def _attach(self, fd: int, offset: int) -> int:
        for program in self._programs:
            error = self._attach_program(program, fd, offset)
            if error:
                return error
        self._allowed = True
        return 0

    def _raise_if_refused(self) -> None:
        error = 0 if self._allowed else self.trial()
        if error:
            raise explain_failure(f"cannot trace with {self._name}", error, "uprobe")

    def _say(self, what: str) -> None:
        say(f"{self._name}: {what}")


def _names_of(status: os.stat_result, overlay: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the names that a file may be known by, and those to know it by from now on.

    The kernel probes the file beneath an overlay, of which many containers have the same. It
    shows through by its number and the time of its change; the device is the overlay's.
    """
    number, changed = status.st_ino, status.st_ctime_ns
    unchanged = ("unchanged", status.st_dev, number, changed)
    beneath, above = ("beneath", number, changed), ("above", number, changed)
    if overlay:
        return (unchanged, above, beneath), (unchanged, above)
    probed = ("probed", status.st_dev, number)  # cannot get another file's number
    return (unchanged, probed, above), (unchanged, probed, beneath)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]

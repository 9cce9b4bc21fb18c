# SPDX-License-Identifier: BSD-2-Clause
"""The tasks of this PID namespace: their ids on the host, their descendants, their sockets."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError, TargetGone
from tracewheel.runtime.host.privileges import explain_failure
from tracewheel.runtime.trace.btf import take_log
from tracewheel.runtime.trace.object import BpfObject, autoload, find_program, write_map

if TYPE_CHECKING:
    from collections.abc import Iterable


_LIST = "list_tasks"  # the program of filter.bpf.h that lists tasks
_LIST_OWNERS = "list_owners"  # the program of owner.bpf.h that notes whose the TCP sockets are
_SEEN = struct.Struct("=IIIIQ")  # struct seen_task of filter.bpf.h


class Task(NamedTuple):
    """A task that this PID namespace shows."""

    tid_here: int  # its id in this PID namespace; the other ids are those on the host
    tid: int
    pid: int
    ppid: int
    began: int  # when its process began, in ns since the boot


def enable(handle: Any) -> None:
    """Choose the program that lists tasks to be loaded with an object."""
    autoload(handle, _LIST, True)


def _iterate(handle: Any, program: str) -> bytes:
    """Run a program for each of what it lists; return what it has written. Raises BpfError."""
    link = lib.bpf_program__attach_iter(find_program(handle, program), ffi.NULL)
    if not link:
        raise explain_failure("cannot list processes", -ffi.errno, take_log())
    written = None
    try:
        with open(lib.bpf_iter_create(lib.bpf_link__fd(link)), "rb", buffering=0) as listing:
            while written is None:  # EAGAIN: it was run a million times, and wrote nothing
                written = listing.read()
    except (OSError, ValueError) as error:
        number = -getattr(error, "errno", ffi.errno)
        raise explain_failure("cannot list processes", number, take_log()) from None
    finally:
        lib.bpf_link__destroy(link)
    return written


def tasks(handle: Any) -> list[Task]:
    """Return the tasks that this PID namespace shows. Raises BpfError."""
    return [Task(*each) for each in _SEEN.iter_unpack(_iterate(handle, _LIST))]


def note_owners(handle: Any) -> None:
    """Tell the programs of owner.bpf.h whose the TCP sockets are that are there already."""
    _iterate(handle, _LIST_OWNERS)


def host_ids(data: bytes, ids: Iterable[int]) -> dict[int, int]:
    """Return the ids on the host of processes or threads, by their ids in this PID namespace.

    Raises TargetGone if one has ended.
    """
    with contextlib.closing(BpfObject(data)) as lister:
        for program in lister.programs():
            autoload(lister.handle, program.name, False)
        enable(lister.handle)
        error = lister.load()
        if error:
            raise explain_failure("cannot list processes", error, take_log())
        known = {task.tid_here: task.tid for task in tasks(lister.handle)}
    for each in ids:
        if each not in known:
            raise TargetGone(f"cannot trace process {each}: it has ended")
    return {each: known[each] for each in ids}


def follow(handle: Any, roots: list[int]) -> None:
    """Mark processes, given by their ids on the host, and all of their descendants as followed.

    A process may fork before it is marked: its children are found in the next pass.
    """
    marked: set[int] = set()
    while True:
        children: dict[int, list[Task]] = {}
        found: list[Task] = []
        for task in tasks(handle):
            if task.tid == task.pid and task.pid in roots:
                found.append(task)
            elif task.tid == task.pid:
                children.setdefault(task.ppid, []).append(task)
        for task in found:  # the loop adds the children that it finds
            found += children.get(task.pid, ())
        new = [task for task in found if task.pid not in marked]
        for task in new:
            key = task.pid.to_bytes(4, "little")
            began = task.began.to_bytes(8, "little")
            error = write_map(handle, "followed", key, began)
            if error:
                raise BpfError(
                    f"cannot follow {len(found)} processes: {os.strerror(-error)}: "
                    "give a larger --max-entries"
                )
        if not new:
            return
        marked.update(task.pid for task in new)

# SPDX-License-Identifier: BSD-2-Clause
"""Set the variables of a BPF object and the sizes of its maps, as the options ask for it."""

from __future__ import annotations

import os

from tracewheel._shim import lib
from tracewheel.runtime.host.clocks import tick_ns
from tracewheel.runtime.host.errors import BpfError, UsageError
from tracewheel.runtime.host.processes import TaskId, in_pid_namespace
from tracewheel.runtime.trace.btf import tracepoint_args
from tracewheel.runtime.trace.object import delete_key, find_map, write_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.trace.object import BpfObject, Map

# enum bpf_map_type
RINGBUF = 27
HASH = 1
_PERCPU_HASH = 5

_FOLLOWED_MOST = 16384  # processes that --follow traces at a time, without --max-entries


class Configuration:
    """The configuration of every object that one session tries."""

    def __init__(self, name: str, data: bytes, request: Request) -> None:
        self._name = name
        self._data = data
        self._request = request
        self._host_ids: dict[int, int] = {}  # ids on the host, by those of this PID namespace

    def apply(self, bpf_object: BpfObject) -> None:
        """Configure an object that is not loaded yet. Raises BpfError."""
        if self._request.follow:
            from tracewheel.runtime.trace import tasks

            tasks.enable(bpf_object.handle)
        variables = {variable.name: variable for variable in bpf_object.variables()}
        values = self._values()
        for name in variables:
            if name.startswith("argc_"):
                values[name] = tracepoint_args(name.removeprefix("argc_"))
            elif name == "tick_ns":
                values[name] = tick_ns()
            elif name == "page_size":
                values[name] = os.sysconf("SC_PAGE_SIZE")
        for name, value in values.items():
            if name not in variables:
                what = name.partition("_")[2]
                raise UsageError(
                    f"{self._name} does not support {what}: leave out the option that asks for it"
                )
            bpf_object.set(variables[name], variables[name].pack(value))
        for m in bpf_object.maps():
            entries = self._entries_of(m)
            if entries:
                _resize(bpf_object, m, entries)

    def mark_processes(self, bpf_object: BpfObject) -> None:
        """Tell a loaded object which processes are wanted, if they are not just one."""
        pids = [self._host_ids.get(pid, pid) for pid in self._request.pids]
        if self._request.follow:
            from tracewheel.runtime.trace import tasks

            tasks.follow(bpf_object.handle, pids)
        elif len(pids) > 1:
            for pid in pids:
                key = pid.to_bytes(4, "little")
                error = write_map(bpf_object.handle, "followed", key, bytes(8))
                if error:
                    raise BpfError(f"cannot trace process {pid}: {os.strerror(-error)}")

    def unmark_process(self, bpf_object: BpfObject, pid: int) -> None:
        """Tell a loaded object that a process has ended, because another may get its id."""
        if len(self._request.pids) > 1 and not self._request.follow:
            key = self._host_ids.get(pid, pid).to_bytes(4, "little")
            delete_key(bpf_object.handle, "followed", key)

    def _values(self) -> dict[str, Any]:
        """Return the values of the variables, with ids of tasks as they are on the host."""
        values = self._request.variables()
        ids = [value for value in values.values() if isinstance(value, TaskId)]
        ids += self._request.pids
        if not self._host_ids and in_pid_namespace():
            from tracewheel.runtime.trace import tasks

            self._host_ids = tasks.host_ids(self._data, ids)
        for name, value in values.items():
            if isinstance(value, TaskId):
                values[name] = self._host_ids.get(value, value)
        return values

    def _entries_of(self, m: Map) -> int | None:
        """Return how many entries a map shall have, None for as many as its definition says."""
        request = self._request
        if m.name == "followed":
            if request.follow:
                return request.max_entries or _FOLLOWED_MOST
            return len(request.pids)
        entries: int | None = request.entries().get(m.name)
        if m.name == getattr(request.tool, "stacks", ""):
            entries = request.stack_storage_size  # and never that of --max-entries
        elif m.type == RINGBUF:
            entries = request.buffer_size
        elif not entries and m.type in (HASH, _PERCPU_HASH):
            entries = request.max_entries
        return entries


def _resize(bpf_object: BpfObject, m: Map, entries: int) -> None:
    error = lib.bpf_map__set_max_entries(find_map(bpf_object.handle, m.name), entries)
    if error:
        raise BpfError(f"cannot give {m.name} {entries} entries: {os.strerror(-error)}")

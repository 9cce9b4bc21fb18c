# SPDX-License-Identifier: BSD-2-Clause
"""Containers and services: what their cgroups tell, and what root has written of them."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from tracewheel.runtime.host.cgroups import cgroup_at, cgroup_root, cgroups
from tracewheel.runtime.host.errors import NotSupported, TargetGone, UsageError

_HEX = frozenset("0123456789abcdef")
_LEAST_PREFIX, _SHORT, _LONG = 6, 12, 64
_MOST_BYTES = 1 << 24
_MACHINES = (("lxc.payload.", ""), ("machine-", ".scope"), ("systemd-nspawn@", ".service"))
_FILES = (
    "var/lib/docker/containers/*/config.v2.json",
    "run/containerd/io.containerd.runtime.v2.task/*/*/config.json",
    "var/lib/containers/storage/*-containers/*containers.json",
    "run/containers/storage/*-containers/*containers.json",
)


def container_id(component: str) -> str:
    """Return the id in the name of a container's cgroup; nothing for any other cgroup.

    Docker: docker-ID.scope or ID; containerd: cri-containerd-ID.scope, nerdctl-ID.scope, ID or
    SLICE:cri-containerd:ID; Podman: libpod-ID.scope or libpod-ID; CRI-O: crio-ID.scope or crio-ID.
    """
    head, _, tail = component.removesuffix(".scope").replace(":", "-").rpartition("-")
    # What watches a container of Podman or CRI-O from outside is called conmon.
    return tail if len(tail) == _LONG and not set(tail) - _HEX and "conmon" not in head else ""


def machine_name(component: str) -> str:
    """Return the name in the name of a cgroup of LXC or of systemd's machines, or nothing."""
    for prefix, suffix in _MACHINES:
        if component.startswith(prefix) and component.endswith(suffix):
            return component[len(prefix) : len(component) - len(suffix)].replace("\\x2d", "-")
    return ""


def _read(path: str) -> Any:
    """Return the JSON that root has written; None where anybody else could have."""
    import json
    import stat

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and not (status.st_uid or status.st_mode & 0o022):
                return json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        pass
    return None


def _names_in(path: str) -> list[tuple[Any, list[Any]]]:
    """Return the ids of the containers that a file describes, with their names."""
    data = _read(path)
    if isinstance(data, list):  # of Podman or CRI-O
        return [
            (each.get("id"), each.get("names") or []) for each in data if isinstance(each, dict)
        ]
    if not isinstance(data, dict):
        return []
    names = [data.get("Name")]  # of Docker: begins with a slash
    notes = data.get("annotations")
    if isinstance(notes, dict):
        pod = notes.get("io.kubernetes.cri.sandbox-name")
        container = notes.get("io.kubernetes.cri.container-name")
        names = [notes.get("nerdctl/name"), f"{pod}/{container}" if container else pod, container]
    return [(os.path.basename(os.path.dirname(path)), names)]


def _expand(name: Any) -> list[str]:
    """Return the names by which a container may be called, the one to show first."""
    if not isinstance(name, str) or not name.strip("/"):
        return []
    parts = name.lstrip("/").split("_")
    if parts[0] == "k8s" and len(parts) == 6:  # k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
        return [f"{parts[2]}/{parts[1]}", parts[1]]
    return [name.lstrip("/")]


def container_names(root: str = "/") -> dict[str, list[str]]:
    """Return the names of the containers that files below a root tell of, by their ids."""
    import glob

    found: dict[str, list[str]] = {}
    for pattern in _FILES:
        for path in glob.glob(os.path.join(root, pattern)):
            for number, names in _names_in(path):
                if isinstance(number, str):
                    found.setdefault(number, []).extend(n for name in names for n in _expand(name))
    return found


def find_container(text: str, mount: str = "", root: str = "/") -> tuple[int, int]:
    """Return (id, depth below the root) of a cgroup by a container's name or id, or a unit's name.

    An id may be shortened to six digits. An id wins over a name, a name over the start of an id.
    ``mount`` is where the cgroups are, ``root`` where the files of container engines are.
    """
    if not text:
        raise UsageError("expected a container's name or id")
    mount = mount or cgroup_root()
    names = container_names(root)
    containers: dict[str, str] = {}  # paths, by id
    units: dict[str, str] = {}  # paths, by what is behind the mount
    for path, _ in cgroups(mount):
        component = os.path.basename(path)
        number = container_id(component)
        if number:
            containers.setdefault(number, path)
        elif text in (machine_name(component), component, component.rpartition(".")[0]):
            units[path[len(mount) :]] = path
    for found in (
        {number: path for number, path in containers.items() if number == text.lower()},
        {number: path for number, path in containers.items() if text in names.get(number, ())},
        units,
        {number: path for number, path in containers.items() if _is_short_id(text, number)},
    ):
        if len(found) > 1:
            told = [_describe_container(each, names) for each in found]
            raise UsageError(f"{text!r} may be any of: {', '.join(map(repr, told))}")
        for path in found.values():
            return cgroup_at(path, mount)
    hint = ": those of cgroup v1 are not seen, cgroup2 is needed" if _has_cgroup_v1() else ""
    raise TargetGone(f"cannot find container {text!r} below {mount}{hint}")


def _is_short_id(text: str, number: str) -> bool:
    return len(text) >= _LEAST_PREFIX and number.startswith(text.lower())


def _describe_container(number: str, names: dict[str, list[str]]) -> str:
    """Return a container's short id and name; a unit's path as it is."""
    if not container_id(number):
        return number
    return " ".join([number[:_SHORT], *names.get(number, [])[:1]])


def _has_cgroup_v1() -> bool:
    with open("/proc/self/mountinfo") as mounts:
        return any(" - cgroup " in line for line in mounts)


# Of a cgroup, by its path and by its id: the id of its innermost container's and the last part of
# that one's path; those of the root where there is no container; its own id and "?" if it is gone.
_containers: dict[str | int, tuple[int, str]] = {}
_names: dict[str, list[str]] = {}


def learn() -> None:
    """Look at the containers that there are: once one is gone it is too late."""
    with contextlib.suppress(NotSupported):
        for path, number in cgroups(cgroup_root()):
            folder, name = os.path.split(path)
            is_container = container_id(name) or machine_name(name)
            found = (number, name) if is_container else _containers.get(folder, (number, name))
            if number not in _containers:
                # One that was started again keeps the id that it had.
                _containers[number] = _containers.setdefault(path, found)
                label(number)


def container_of(cgroup: int) -> tuple[int, str]:
    """Return what all cgroups of a container share: the id of its own, and how that is called."""
    if cgroup not in _containers:
        learn()
    return _containers.setdefault(cgroup, (cgroup, "?"))


def label(cgroup: int, root: str = "/") -> str:
    """Return the name or short id of a cgroup's innermost container; "-": none, "?": it is gone."""
    _, name = container_of(cgroup)
    number = container_id(name)
    if number and number not in _names:
        _names.update(container_names(root))
    known = [*_names.get(number, []), machine_name(name), number[:_SHORT]]
    return next(filter(None, known), "?" if name == "?" else "-")

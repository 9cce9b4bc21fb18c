# SPDX-License-Identifier: BSD-2-Clause
"""Names of containers and services.

Which container a cgroup belongs to is told by the name of the cgroup. What the container is called
is told by the files of container engines, which only root can write.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

from tracewheel.runtime.host.cgroups import cgroup_at, cgroup_root, cgroups
from tracewheel.runtime.host.errors import NotSupported, TargetGone, UsageError

_HEX = frozenset("0123456789abcdef")
# Digits of a container's id: the whole id, what is shown of it, and the fewest that select it.
_ID_DIGITS = 64
_ID_DIGITS_SHOWN = 12
_ID_DIGITS_LEAST = 6
_FILE_BYTES_MOST = 1 << 24
# What is before and behind the name of a machine in the name of its cgroup.
_MACHINES = (("lxc.payload.", ""), ("machine-", ".scope"), ("systemd-nspawn@", ".service"))
_NO_CONTAINER = "-"
_GONE = "?"  # the cgroup was removed before it was looked at
_FILES = (
    "var/lib/docker/containers/*/config.v2.json",
    "run/containerd/io.containerd.runtime.v2.task/*/*/config.json",
    "var/lib/containers/storage/*-containers/*containers.json",
    "run/containers/storage/*-containers/*containers.json",
)


def container_id(component: str) -> str:
    """Return the id in the name of a container's cgroup, "" for any other cgroup.

    Docker: docker-ID.scope or ID; containerd: cri-containerd-ID.scope, nerdctl-ID.scope, ID or
    SLICE:cri-containerd:ID; Podman: libpod-ID.scope or libpod-ID; CRI-O: crio-ID.scope or crio-ID.
    """
    head, _, tail = component.removesuffix(".scope").replace(":", "-").rpartition("-")
    is_id = len(tail) == _ID_DIGITS and _HEX.issuperset(tail)
    # conmon is the monitor of a container of Podman or CRI-O, and runs outside of it.
    is_monitor = "conmon" in head
    return tail if is_id and not is_monitor else ""


def machine_name(component: str) -> str:
    """Return the name of a machine of LXC or systemd from that of its cgroup, "" for any other."""
    for prefix, suffix in _MACHINES:
        if component.startswith(prefix) and component.endswith(suffix):
            return component[len(prefix) : len(component) - len(suffix)].replace("\\x2d", "-")
    return ""


def _read(path: str) -> Any:
    """Return the JSON of a file that only root can write, None if there is no such file."""
    import json
    import stat

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            others_can_write = status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if stat.S_ISREG(status.st_mode) and not others_can_write:
                return json.loads(file.read(_FILE_BYTES_MOST))
    except (OSError, ValueError, RecursionError):
        pass
    return None


def _names_in(path: str) -> list[tuple[Any, list[Any]]]:
    """Return the ids of the containers that a file describes, with their names.

    The values are as the file has them: nothing is known of their types.
    """
    data = _read(path)
    if isinstance(data, list):  # a file of Podman or CRI-O
        return [
            (each.get("id"), each.get("names") or []) for each in data if isinstance(each, dict)
        ]
    if not isinstance(data, dict):
        return []
    names = [data.get("Name")]  # a file of Docker; the name begins with a slash
    notes = data.get("annotations")
    if isinstance(notes, dict):
        pod = notes.get("io.kubernetes.cri.sandbox-name")
        container = notes.get("io.kubernetes.cri.container-name")
        names = [notes.get("nerdctl/name"), f"{pod}/{container}" if container else pod, container]
    return [(os.path.basename(os.path.dirname(path)), names)]


def _expand(name: Any) -> list[str]:
    """Return the names by which a container may be selected; the first one is shown."""
    if not isinstance(name, str) or not name.strip("/"):
        return []
    parts = name.lstrip("/").split("_")
    if parts[0] == "k8s" and len(parts) == 6:  # k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
        return [f"{parts[2]}/{parts[1]}", parts[1]]
    return [name.lstrip("/")]


def container_names(root: str = "/") -> dict[str, list[str]]:
    """Return the names of containers by their ids, from files of container engines below ROOT."""
    import glob

    found: dict[str, list[str]] = {}
    for pattern in _FILES:
        for path in glob.glob(os.path.join(root, pattern)):
            for number, names in _names_in(path):
                if not isinstance(number, str):
                    continue
                known = found.setdefault(number, [])
                for name in names:
                    known += _expand(name)
    return found


def find_container(text: str, mount: str = "", root: str = "/") -> tuple[int, int]:
    """Return the id and depth of a cgroup, by the name or id of a container or a unit's name.

    An id may be shortened to six digits. An id wins over a name, a name over the start of an id.
    ``mount`` is where the cgroups are, ``root`` where the files of container engines are.
    Raises TargetGone if there is none, and UsageError if there are several.
    """
    if not text:
        raise UsageError("expected a container's name or id")
    mount = mount or cgroup_root()
    names = container_names(root)
    containers: dict[str, str] = {}  # paths, by id
    units: dict[str, str] = {}  # paths, by the paths below the mount
    for path, _ in cgroups(mount):
        component = os.path.basename(path)
        number = container_id(component)
        if number:
            containers.setdefault(number, path)
        elif text in (machine_name(component), component, component.rpartition(".")[0]):
            units[path[len(mount) :]] = path
    by_id = {n: path for n, path in containers.items() if n == text.lower()}
    by_name = {n: path for n, path in containers.items() if text in names.get(n, ())}
    by_short_id = {n: path for n, path in containers.items() if _is_short_id(text, n)}
    for found in (by_id, by_name, units, by_short_id):
        if len(found) > 1:
            described = [repr(_describe_container(each, names)) for each in found]
            raise UsageError(f"{text!r} may be any of {', '.join(described)}: give more of it")
        if found:
            (path,) = found.values()
            return cgroup_at(path, mount)
    hint = ": containers of cgroup v1 cannot be seen, cgroup2 is needed" if _has_cgroup_v1() else ""
    raise TargetGone(f"cannot find container {text!r} below {mount}{hint}")


def _is_short_id(text: str, number: str) -> bool:
    return len(text) >= _ID_DIGITS_LEAST and number.startswith(text.lower())


def _describe_container(number: str, names: dict[str, list[str]]) -> str:
    """Return the short id of a container and its name, if it has one; a unit's path as it is."""
    if not container_id(number):
        return number
    first_name = names.get(number, [])[:1]
    return " ".join([number[:_ID_DIGITS_SHOWN], *first_name])


def _has_cgroup_v1() -> bool:
    with open("/proc/self/mountinfo") as mounts:
        return any(" - cgroup " in line for line in mounts)


class Owner(NamedTuple):
    """The cgroup of the innermost container that a cgroup is in.

    It is the root of all cgroups for a cgroup that is in no container. ``name`` is the last part
    of its path, or "?" if the cgroup was removed before it was looked at.
    """

    cgroup: int
    name: str


_owners: dict[int, Owner] = {0: Owner(0, "")}  # by the id of a cgroup; 0 stands for none
_owners_by_path: dict[str, Owner] = {}
_names: dict[str, list[str]] = {}  # of containers, by their ids


def learn() -> None:
    """Take note of all containers that exist now, because later they may be gone."""
    with contextlib.suppress(NotSupported):
        for path, number in cgroups(cgroup_root()):
            folder, name = os.path.split(path)
            owner = Owner(number, name)
            if not container_id(name) and not machine_name(name):
                owner = _owners_by_path.get(folder, owner)
            if number not in _owners:
                # A container that was started again keeps the id that it had.
                _owners[number] = _owners_by_path.setdefault(path, owner)
                label(number)


def container_of(cgroup: int) -> Owner:
    """Return the cgroup of the container that a cgroup, given by its id, is in."""
    if cgroup not in _owners:
        learn()
    return _owners.setdefault(cgroup, Owner(cgroup, _GONE))


def label(cgroup: int, root: str = "/") -> str:
    """Return the name or short id of the innermost container that a cgroup is in.

    Returns "-" if it is in none, and "?" if it was removed before it was looked at.
    """
    name = container_of(cgroup).name
    if name == _GONE:
        return _GONE
    number = container_id(name)
    if number and number not in _names:
        _names.update(container_names(root))
    for known in (*_names.get(number, []), machine_name(name), number[:_ID_DIGITS_SHOWN]):
        if known:
            return known
    return _NO_CONTAINER

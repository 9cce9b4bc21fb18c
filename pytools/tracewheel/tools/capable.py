# SPDX-License-Identifier: BSD-2-Clause
"""Trace checks of capabilities: whose, of which one, with what verdict."""

from __future__ import annotations

import json

from tracewheel.runtime.host import capabilities
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.shapes import SHOW, TRACE, Column, Digest, Option, Stream, Top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_UNIQUE = ("off", "pid", "cgroup")  # the values of enum unique of capable.bpf.c, from 1 on


def _unique(text: str) -> str:
    if text not in _UNIQUE:
        raise UsageError(f"expected {', '.join(_UNIQUE[:-1])} or {_UNIQUE[-1]}, not {text!r}")
    return text


def _set_of_bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in set(numbers))


def _fragments(names: list[str]) -> dict[str, Any]:
    """Return what grants these capabilities, and no others, to a service or a container."""
    listed = " ".join(names)
    return {
        "systemd": [f"CapabilityBoundingSet={listed}", f"AmbientCapabilities={listed}"],
        "oci": {
            "process": {"capabilities": {"bounding": names, "effective": names, "permitted": names}}
        },
        "kubernetes": {
            "securityContext": {
                "capabilities": {
                    "drop": ["ALL"],
                    "add": [name.removeprefix("CAP_") for name in names],
                }
            }
        },
    }


def _text(told: dict[str, Any]) -> str:
    """Return the lines of what was told of one container, or of everything."""
    kubernetes = told["kubernetes"]["securityContext"]["capabilities"]
    lines = [
        "",
        *([f"# container {told['container']}"] if "container" in told else []),
        *([f"# denied, so left out: {' '.join(told['denied'])}"] if told["denied"] else []),
        "# systemd: in the section [Service]",
        *told["systemd"],
        "",
        "# OCI: in config.json",
        json.dumps(told["oci"]),
        "",
        "# Kubernetes: in a container of a pod",
        "securityContext:",
        "  capabilities:",
        *(f"    {name}: {json.dumps(listed)}" for name, listed in kubernetes.items()),
    ]
    return "".join(f"{line}\n" for line in lines)


def least_set(rows: Sequence[Any]) -> Digest:
    """Return the least set of capabilities that allows what was allowed, by container."""
    told = []
    # Without --per-container there is one group, even if nothing has happened.
    for container in sorted({row.container for row in rows} or {None}):
        group = [row for row in rows if row.container == container]
        used = sorted(row.cap for row in group if row.allowed)
        denied = sorted(row.cap for row in group if row.denied and not row.allowed)
        named = {} if container is None else {"container": container}
        told.append({**named, "capabilities": used, "denied": denied, **_fragments(used)})
    return Digest(text="".join(map(_text, told)), json={"least": told})


_SELECT = (
    Option(
        ("-v", "--verbose"),
        "trace checks that are not audited as well, and show all columns: whether each check is "
        "audited (AUDIT) or made to change a user or group id (INSETID), the inode of the user "
        "namespace in which the capability is asked for (NS), and how deep that is (LEVEL)",
        sets="with_unaudited",
        group=TRACE,
    ),
    Option(
        ("--cap",),
        "trace only checks of this capability, with or without CAP_; may be repeated",
        capabilities.parse,
        "NAME",
        sets=lambda numbers: {"wanted_capabilities": _set_of_bits(numbers)},
        repeat=True,
    ),
    Option(
        ("--denied",),
        "trace only checks that were denied",
        sets="denied_only",
        excludes=("allowed",),
    ),
    Option(("--allowed",), "trace only checks that were allowed", sets="allowed_only"),
)
_SUMMARY = Option(
    ("--summary",),
    "count checks by capability, and print at the end the least set of capabilities that was "
    "used, for systemd, OCI and Kubernetes",
    sets="summed_up",
    group=SHOW,
)
_OVERHEAD = (
    "Each check takes about 0.1 microseconds longer, and 0.3 to 0.6 if it is shown. Where\n"
    "  all checks are traced, that includes every call that maps memory. Other system calls\n"
    "  take no longer."
)
_BUILT_IN = (
    "where the compiler has built the check into its caller, it is not seen: on some kernels that "
    "is so when memory is mapped, which is not audited"
)
_WITHOUT_OPTIONS = (
    "approximate: the tracepoint does not tell which checks are audited, so all are traced, also "
    "those of CAP_SYS_ADMIN whenever memory is mapped, and equal ones are shown only once"
)
_RUNGS = {
    "check": "a check is that of the capability itself: a security module such as AppArmor or "
    "SELinux may still deny what it allows, and that is not seen",
    "check__fexit": _BUILT_IN,
    "check__kprobe": _BUILT_IN,
    "check__tp_btf": _WITHOUT_OPTIONS,
    "check__raw_tp": _WITHOUT_OPTIONS,
}
_USES = Top(
    sums="uses",
    title="capability checks",
    columns=(
        Column("CAP", "cap", 3, kind="unsigned"),
        Column("NAME", "cap", 22),
        Column("ALLOWED", "allowed", 12),
        Column("DENIED", "denied", 12),
    ),
    by=slice(None),
    digest=least_set,
    options=(*_SELECT, _SUMMARY),
    short={"uid": "-u"},
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

tool = Stream(
    ring="checks",
    columns=(
        Column("PID", "pid", 7),
        Column("TID", "tid", 7, hidden=True),
        Column("UID", "uid", 6),
        Column("COMM", "comm", 16),
        Column("CAP", "cap", 3, kind="unsigned"),
        Column("NAME", "cap", 22),
        Column("VERDICT", "ret", 7, kind="verdict"),
        Column("AUDIT", "audit", 5, hidden=True),
        Column("INSETID", "insetid", 7, hidden=True),
        Column("NS", "ns", 10, hidden=True),
        Column("LEVEL", "ns_level", 5, hidden=True),
        Column("SYSCALL", "syscall", 0),
    ),
    options=(
        *_SELECT,
        Option(
            ("--unique",),
            "show equal checks of a process only once (pid, which may be left out), or those in a "
            "cgroup (cgroup), or show all (off); without this option, equal checks of a process "
            "are shown once where it is not known which are audited",
            _unique,
            "off|pid|cgroup",
            optional="pid",
            sets=lambda value: {"unique": 1 + _UNIQUE.index(value)},
        ),
        Option(
            ("-x", "--extra"),
            "show the thread, and whether the check is made to change a user or group id "
            "(TID, INSETID)",
            shows=("TID", "INSETID"),
        ),
        Option(
            ("-K", "--kernel-stack"),
            "show the kernel stack of each check",
            sets="with_kernel_stack",
            shows=("STACK",),
        ),
        Option(
            ("-U", "--user-stack"),
            "show the user stack of each check",
            sets="with_user_stack",
            shows=("USER_STACK",),
        ),
        _SUMMARY._replace(as_shape=_USES),
    ),
    repeats="repeats",
    container=True,
    stack=True,
    short={"uid": "-u"},
    examples=(
        ("capable", "trace all checks that are audited"),
        ("capable -v", "trace all checks, and show all columns"),
        ("capable --denied --comm nginx", "trace what nginx may not do"),
        ("capable --unique -K --cap sys_admin", "show which code asks for CAP_SYS_ADMIN"),
        ("capable --summary -p 1234", "print the capabilities that a process uses"),
        ("capable --summary -- nginx -t", "print those that a command uses"),
    ),
    overhead=_OVERHEAD,
    rungs=_RUNGS,
)

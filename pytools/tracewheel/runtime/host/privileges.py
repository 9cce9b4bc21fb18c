# SPDX-License-Identifier: BSD-2-Clause
"""What this process may do, and why the kernel refuses what it refuses."""

from __future__ import annotations

import contextlib
import os

from tracewheel.runtime.host.errors import (
    BpfError,
    NotPermitted,
    NotSupported,
)
from tracewheel.runtime.host.processes import status_of

CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


def has_capability(name: str) -> bool:
    """Tell whether this process holds a capability in its effective set."""
    held = status_of("self", "CapEff") or ["0"]
    return bool(int(held[0], 16) >> CAPABILITIES[name] & 1)


def lockdown() -> str:
    """Return the kernel's lockdown mode: none, integrity or confidentiality."""
    with contextlib.suppress(OSError), open("/sys/kernel/security/lockdown") as modes:
        return modes.read().partition("[")[2].partition("]")[0] or "none"
    return "none"


def explain_failure(what: str, error: int, log: str) -> BpfError:
    """Turn a negative errno from libbpf and the facts of this machine into one error."""
    admin = has_capability("CAP_SYS_ADMIN")
    if not (admin or (has_capability("CAP_BPF") and has_capability("CAP_PERFMON"))):
        return NotPermitted(f"{what}: not permitted: run as root, or grant CAP_BPF and CAP_PERFMON")
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        return NotSupported(
            f"{what}: the kernel's types are missing (/sys/kernel/btf/vmlinux): "
            "use a kernel built with CONFIG_DEBUG_INFO_BTF"
        )
    if lockdown() == "confidentiality":
        return NotSupported(f"{what}: lockdown=confidentiality forbids to read kernel memory")
    if "tracepoint" in log and not os.path.exists("/sys/kernel/tracing/events"):
        return NotSupported(f"{what}: no tracefs: mount -t tracefs tracefs /sys/kernel/tracing")
    if "tracepoint" in log and -error == 13 and not has_capability("CAP_DAC_READ_SEARCH"):
        return NotPermitted(f"{what}: tracefs is closed: grant CAP_DAC_READ_SEARCH too")
    if ("uprobe" in log or "perf_event" in log) and -error == 13 and not admin:
        return NotPermitted(f"{what}: perf events are not permitted: grant CAP_SYS_ADMIN too")
    return NotSupported(
        f"{what}: {os.strerror(-error)}: this kernel offers no way that works "
        "(--explain tells which were tried)"
    )

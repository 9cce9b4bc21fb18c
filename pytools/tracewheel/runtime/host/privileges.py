# SPDX-License-Identifier: BSD-2-Clause
"""What this process may do, and why the kernel has refused something."""

from __future__ import annotations

import contextlib
import errno
import os

from tracewheel.runtime.host import capabilities
from tracewheel.runtime.host.errors import BpfError, NotPermitted, NotSupported
from tracewheel.runtime.host.processes import status_of

# Those that tools may need.
CAPABILITIES = ("CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF")


def has_capability(name: str) -> bool:
    """Tell whether this process holds a capability in its effective set."""
    field = status_of("self", "CapEff")
    held = int(field[0], 16) if field else 0
    return bool(held & 1 << capabilities.parse(name))


def lockdown() -> str:
    """Return the kernel's lockdown mode: none, integrity or confidentiality."""
    with contextlib.suppress(OSError), open("/sys/kernel/security/lockdown") as modes:
        # The current mode is in brackets: none [integrity] confidentiality
        return modes.read().partition("[")[2].partition("]")[0] or "none"
    return "none"


def explain_failure(what: str, error: int, log: str) -> BpfError:
    """Return an error that says why libbpf failed, and what to do about it.

    ``what`` begins the message, ``error`` is a negative errno, ``log`` is what libbpf has said.
    """
    is_admin = has_capability("CAP_SYS_ADMIN")
    may_trace = is_admin or (has_capability("CAP_BPF") and has_capability("CAP_PERFMON"))
    is_refused = -error == errno.EACCES
    if not may_trace:
        return NotPermitted(f"{what}: not permitted: run as root, or grant CAP_BPF and CAP_PERFMON")
    if not os.path.exists("/sys/kernel/btf/vmlinux"):
        return NotSupported(
            f"{what}: the kernel's types are missing (/sys/kernel/btf/vmlinux): "
            "use a kernel built with CONFIG_DEBUG_INFO_BTF"
        )
    if lockdown() == "confidentiality":
        return NotSupported(
            f"{what}: kernel memory cannot be read: boot without lockdown=confidentiality"
        )
    if "tracepoint" in log and not os.path.exists("/sys/kernel/tracing/events"):
        return NotSupported(
            f"{what}: tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing"
        )
    if "tracepoint" in log and is_refused and not has_capability("CAP_DAC_READ_SEARCH"):
        return NotPermitted(f"{what}: tracefs cannot be read: grant CAP_DAC_READ_SEARCH as well")
    if ("uprobe" in log or "perf_event" in log) and is_refused and not is_admin:
        return NotPermitted(f"{what}: perf events are not permitted: grant CAP_SYS_ADMIN as well")
    return NotSupported(
        f"{what}: {os.strerror(-error)}: no way of tracing works on this kernel "
        "(--explain shows the ways that were tried)"
    )

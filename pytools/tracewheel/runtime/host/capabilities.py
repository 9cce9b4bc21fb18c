# SPDX-License-Identifier: BSD-2-Clause
"""The names of capabilities, which Linux has as macros: no kernel's BTF tells them."""

from __future__ import annotations

from tracewheel.runtime.host.errors import UsageError

# In the order of their numbers, from 0 on. A number never changes its meaning.
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS_MOST = 64  # bits in the kernel's set of capabilities


def names() -> dict[int, str]:
    """Return the names by their numbers."""
    return dict(enumerate(NAMES))


def parse(text: str) -> int:
    """Return the number of a capability that is given by its name, with or without CAP_."""
    name = text.upper()
    if not name.startswith("CAP_"):
        name = f"CAP_{name}"
    if name in NAMES:
        return NAMES.index(name)
    if text.isascii() and text.isdigit() and len(text) <= 2 and int(text) < _NUMBERS_MOST:
        return int(text)  # one that is newer than this table
    raise UsageError(f"no capability {text!r}: try CAP_SYS_ADMIN or net_admin")

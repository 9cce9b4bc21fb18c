# SPDX-License-Identifier: BSD-2-Clause
"""Facts of this machine: privileges, clocks, cgroups, processes, CPUs and disks."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from tracewheel.runtime.errors import BpfError, NotPermitted, NotSupported, TargetGone, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITIES = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_HOST_PIDS = 0xEFFFFFFC  # inode of the first PID namespace: PROC_PID_INIT_INO of Linux


def status_of(task: int | str, field: str) -> list[str]:
    """Return the words of a field of a task's status; none where there is no such task."""
    try:
        with open(f"/proc/{task}/status", errors="surrogateescape") as lines:
            return next((line.split()[1:] for line in lines if line.startswith(f"{field}:")), [])
    except OSError:
        return []


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


def boot_time_ns() -> int:
    """Return CLOCK_BOOTTIME, the clock of ev_time."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_to_epoch_ns() -> int:
    """Return what turns CLOCK_BOOTTIME into time since 1970, by the tightest of a few readings."""
    readings = [(boot_time_ns(), time.time_ns(), boot_time_ns()) for _ in range(5)]
    before, epoch, after = min(readings, key=lambda reading: reading[2] - reading[0])
    return epoch - (before + after) // 2


def parse_count(text: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """Return a whole number within bounds."""
    # Python refuses to convert thousands of digits.
    digits = text.isascii() and text.isdigit() and len(text) < 100
    if not digits or not least <= int(text) <= most:
        raise UsageError(f"expected a whole number from {least} to {most}, not {text[:100]!r}")
    return int(text)


def parse_frequency(text: str) -> int:
    """Return a number of samples a second that the kernel allows."""
    with open("/proc/sys/kernel/perf_event_max_sample_rate") as most:
        return parse_count(text, 1, int(most.read()))


def parse_error(text: str) -> int:
    """Return the number of an error given by name or number."""
    from tracewheel.runtime.meaning import error_names

    numbers = {name: number for number, name in error_names().items()}
    return numbers[text] if text in numbers else parse_count(text, 1, 4095)


def parse_seconds(text: str) -> float:
    """Return a positive number of seconds, up to 10^9."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 1e9:
        raise UsageError(f"expected a number of seconds above 0 and up to 1e9, not {text!r}")
    return seconds


class TaskId(int):
    """The id of a process or thread as this PID namespace tells it."""


def in_pid_namespace() -> bool:
    """Tell whether ids of processes mean less here than on the host."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _HOST_PIDS
    except OSError:
        return False


def _parse_task(text: str) -> TaskId:
    number = parse_count(text, 1)
    if os.readlink("/proc/self") != str(os.getpid()):
        raise NotSupported(
            "cannot select a process: /proc shows another PID namespace: mount -t proc proc /proc"
        )
    return TaskId(number)


def parse_process(text: str) -> TaskId:
    """Return the id of a process that exists."""
    pid = str(_parse_task(text))
    group = status_of(pid, "Tgid")
    if not group:
        raise TargetGone(f"cannot trace process {pid}: there is none")
    if group != [pid]:
        raise TargetGone(f"cannot trace process {pid}: it is a thread of {group[0]}: use --tid")
    return TaskId(pid)


def watch_process(pid: int | None) -> int:
    """Return a descriptor that tells when a process ends, or -1 where there is nothing to watch."""
    try:
        return os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        raise TargetGone(f"cannot trace process {pid}: it has ended") from None
    except OSError:
        return -1


def parse_thread(text: str) -> TaskId:
    """Return the id of a thread that exists."""
    tid = _parse_task(text)
    if not os.path.exists(f"/proc/{tid}"):
        raise TargetGone(f"cannot trace thread {tid}: there is none")
    return tid


def parse_user(text: str) -> int:
    """Return the id of a user given by number or name."""
    if text.isascii() and text.isdigit():
        return parse_count(text, 0, 2**32 - 2)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise TargetGone(f"cannot find user {text!r}") from None


def parse_comm(text: str) -> bytes:
    """Return a command name as the kernel keeps it: 15 bytes at most."""
    comm = os.fsencode(text)
    if not comm or b"\0" in comm:
        raise UsageError("expected a command name, not an empty one or one with a NUL byte")
    return comm[:15].ljust(16, b"\0")


def parse_file(text: str) -> str:
    """Return the path of a file that exists."""
    if "\0" in text or not os.path.isfile(text):
        raise TargetGone(f"cannot trace file {text!r}: there is none")
    return text


def parse_cpu(text: str) -> int:
    """Return the number of a CPU that this machine may have."""
    cpu = parse_count(text)
    if not os.path.isdir(f"/sys/devices/system/cpu/cpu{cpu}"):
        raise TargetGone(f"cannot trace CPU {cpu}: there is none")
    return cpu


def online_cpus(path: str = "/sys/devices/system/cpu/online") -> list[int]:
    """Return the CPUs that run now; the file tells them as 0-2,5."""
    with open(path) as file:
        spans = [list(map(int, span.split("-"))) for span in file.read().split(",")]
    return [cpu for span in spans for cpu in range(span[0], span[-1] + 1)]


def parse_disk(text: str) -> int:
    """Return the number of a disk, major << 20 | minor, from its name."""
    name = text[5:] if text.startswith("/dev/") else text
    path = f"/sys/class/block/{name}"
    if not name or "/" in name or "\0" in name or not os.path.exists(f"{path}/dev"):
        raise TargetGone(f"cannot trace disk {text!r}: there is none")
    if os.path.exists(f"{path}/partition"):
        disk = os.path.basename(os.path.dirname(os.path.realpath(path)))
        raise UsageError(f"cannot trace partition {name}: I/O belongs to its disk: use {disk}")
    with open(f"{path}/dev") as numbers:
        major, minor = numbers.read().split(":")
    return int(major) << 20 | int(minor)


def cgroup_root() -> str:
    """Return where the unified cgroup hierarchy is mounted."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return fields.split()[4]
    raise NotSupported("cannot select a cgroup: cgroup2 is needed, and none is mounted")


def cgroups(root: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the id of each cgroup, parents first."""
    for path, _, _ in os.walk(root):
        with contextlib.suppress(FileNotFoundError):  # it has gone while we looked
            yield path, os.stat(path).st_ino


def cgroup_at(path: str, root: str) -> tuple[int, int]:
    """Return (id, depth below the root) of a cgroup."""
    return os.stat(path).st_ino, 0 if path == root else os.path.relpath(path, root).count("/") + 1


def parse_cgroup(text: str) -> tuple[int, int]:
    """Return (id, depth below the root) of a cgroup given by its path or id."""
    root = cgroup_root()
    if text.isascii() and text.isdigit():
        number = parse_count(text, 1, 2**64 - 1)
        path = next((path for path, found in cgroups(root) if found == number), "")
    else:
        path = os.path.normpath(text)
        if not f"{path}/".startswith(f"{root}/"):
            path = os.path.normpath(f"{root}/{text}")
    if "\0" in text or not f"{path}/".startswith(f"{root}/") or not os.path.isdir(path):
        raise TargetGone(f"cannot find cgroup {text!r} below {root}")
    return cgroup_at(path, root)

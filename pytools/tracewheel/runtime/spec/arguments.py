# SPDX-License-Identifier: BSD-2-Clause
"""Turn the argument of an option into a value, or raise an error that says what is wrong."""

from __future__ import annotations

import os

from tracewheel.runtime.host.cgroups import cgroup_at, cgroup_root, cgroups
from tracewheel.runtime.host.errors import NotSupported, TargetGone, UsageError
from tracewheel.runtime.host.files import replace_file
from tracewheel.runtime.host.processes import TaskId, status_of


def parse_count(text: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """Return a whole number from LEAST to MOST. Raises UsageError for anything else."""
    # Python refuses to convert thousands of digits.
    is_number = text.isascii() and text.isdigit() and len(text) < 100
    if not is_number or not least <= int(text) <= most:
        raise UsageError(f"expected a whole number from {least} to {most}, not {text[:100]!r}")
    return int(text)


def parse_frequency(text: str) -> int:
    """Return a number of samples a second, of those that the kernel allows."""
    with open("/proc/sys/kernel/perf_event_max_sample_rate") as most:
        return parse_count(text, 1, int(most.read()))


def parse_error(text: str) -> int:
    """Return the number of an error given by name or number."""
    from tracewheel.runtime.host.errnos import error_names

    numbers = {name: number for number, name in error_names().items()}
    return numbers[text] if text in numbers else parse_count(text, 1, 4095)


def parse_signals(text: str) -> tuple[int, ...]:
    """Return the numbers of signals, from a list such as KILL,SIGTERM,SIGRTMIN+1,0."""
    return tuple(_parse_signal(each) for each in text.split(","))


def _parse_signal(text: str) -> int:
    import signal

    name = text.upper().removeprefix("SIG")
    least, plus, above = name.partition("+")
    if f"SIG{name}" in signal.Signals.__members__:
        return signal.Signals[f"SIG{name}"].value
    if least == "RTMIN" and plus:
        return signal.SIGRTMIN + parse_count(above, 0, signal.SIGRTMAX - signal.SIGRTMIN)
    if text.isascii() and text.isdigit():
        return parse_count(text, 0, signal.SIGRTMAX)
    raise UsageError(f"no signal {text!r}: try SIGTERM, TERM, SIGRTMIN+1 or 15")


def parse_seconds(text: str) -> float:
    """Return a positive number of seconds, up to 10^9."""
    return _parse_positive(text, "seconds")


def parse_milliseconds(text: str) -> float:
    """Return a positive number of milliseconds, up to 10^9, as nanoseconds."""
    return _parse_positive(text, "milliseconds") * 1_000_000


def _parse_positive(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 1e9:
        raise UsageError(f"expected a number of {what} above 0 and up to 1e9, not {text!r}")
    return number


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
        raise TargetGone(f"cannot trace process {pid}: there is no such process")
    if group != [pid]:
        raise TargetGone(f"cannot trace process {pid}: it is a thread of {group[0]}: use --tid")
    return TaskId(pid)


def parse_processes(text: str) -> tuple[TaskId, ...]:
    """Return the ids of processes that exist, from a list such as 1234,1240; each once."""
    return tuple(dict.fromkeys(parse_process(each) for each in text.split(",")))


def parse_thread(text: str) -> TaskId:
    """Return the id of a thread that exists."""
    tid = _parse_task(text)
    if not os.path.exists(f"/proc/{tid}"):
        raise TargetGone(f"cannot trace thread {tid}: there is no such thread")
    return tid


def parse_user(text: str) -> int:
    """Return the id of a user given by number or name."""
    if text.isascii() and text.isdigit():
        return parse_count(text, 0, 2**32 - 2)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise TargetGone(f"cannot find user {text!r}: give the name or number of a user") from None


def parse_comm(text: str) -> bytes:
    """Return a command name as the kernel keeps it: 15 bytes, and NUL bytes behind them."""
    comm = os.fsencode(text)
    if not comm or b"\0" in comm:
        raise UsageError("expected a command name of at least one byte and without a NUL byte")
    return comm[:15].ljust(16, b"\0")


def parse_file(text: str) -> str:
    """Return the path of a file that exists."""
    if "\0" in text or not os.path.isfile(text):
        raise TargetGone(f"cannot trace file {text!r}: there is no such file")
    return text


def parse_cpu(text: str) -> int:
    """Return the number of a CPU that exists, online or offline."""
    cpu = parse_count(text)
    if not os.path.isdir(f"/sys/devices/system/cpu/cpu{cpu}"):
        raise TargetGone(f"cannot trace CPU {cpu}: there is no such CPU")
    return cpu


def parse_cgroup(text: str) -> tuple[int, int]:
    """Return the id and the depth of a cgroup, given by its path or id."""
    root = cgroup_root()
    if text.isascii() and text.isdigit():
        number = parse_count(text, 1, 2**64 - 1)
        path = next((path for path, found in cgroups(root) if found == number), "")
    else:
        path = os.path.normpath(text)
        if not _is_within(path, root):
            path = os.path.normpath(f"{root}/{text}")
    if "\0" in text or not _is_within(path, root) or not os.path.isdir(path):
        raise TargetGone(f"cannot find cgroup {text!r} below {root}")
    return cgroup_at(path, root)


def _is_within(path: str, root: str) -> bool:
    """Tell whether a path is ROOT or below it."""
    return f"{path}/".startswith(f"{root}/")


def parse_target(path: str) -> str:
    """Return the path of a file that can be written at exit, or - for standard output.

    Raises BpfError if it cannot be written.
    """
    if path != "-":
        replace_file(path, None)
    return path

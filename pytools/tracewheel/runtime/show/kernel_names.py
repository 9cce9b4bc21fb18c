# SPDX-License-Identifier: BSD-2-Clause
"""Names of the kernel's numbers: what Linux defines once for all, and what each kernel tells."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The first number of a real-time signal that programs may use: glibc keeps two for itself.
_FIRST_REAL_TIME, _LAST_REAL_TIME = 34, 64
# Of include/uapi/linux/fcntl.h, as calls that tell of a file understand them.
_AT_FLAGS = {
    0: "-",
    0x100: "AT_SYMLINK_NOFOLLOW",
    0x200: "AT_EACCESS",
    0x400: "AT_SYMLINK_FOLLOW",
    0x800: "AT_NO_AUTOMOUNT",
    0x1000: "AT_EMPTY_PATH",
    0x2000: "AT_STATX_FORCE_SYNC",
    0x4000: "AT_STATX_DONT_SYNC",
}
# enum of include/trace/events/signal.h
_SIGNAL_OUTCOMES = ("delivered", "ignored", "pending", "overflow", "lost info")
# include/uapi/asm-generic/siginfo.h: codes of any signal, and those of certain ones from 1 on.
_CODES = {
    0x80: "SI_KERNEL",
    0: "SI_USER",
    -1: "SI_QUEUE",
    -2: "SI_TIMER",
    -3: "SI_MESGQ",
    -4: "SI_ASYNCIO",
    -5: "SI_SIGIO",
    -6: "SI_TKILL",
    -7: "SI_DETHREAD",
    -60: "SI_ASYNCNL",
}
_CODES_OF = {
    "SIGILL": "ILLOPC ILLOPN ILLADR ILLTRP PRVOPC PRVREG COPROC BADSTK BADIADDR",
    "SIGFPE": "INTDIV INTOVF FLTDIV FLTOVF FLTUND FLTRES FLTINV FLTSUB "
    "DECOVF DECDIV DECERR INVASC INVDEC FLTUNK CONDTRAP",
    "SIGSEGV": "MAPERR ACCERR BNDERR PKUERR ACCADI ADIDERR ADIPERR MTEAERR MTESERR CPERR",
    "SIGBUS": "ADRALN ADRERR OBJERR MCEERR_AR MCEERR_AO",
    "SIGTRAP": "BRKPT TRACE BRANCH HWBKPT UNK PERF",
    "SIGCHLD": "EXITED KILLED DUMPED TRAPPED STOPPED CONTINUED",
    "SIGPOLL": "IN OUT MSG ERR PRI HUP",
    "SIGSYS": "SECCOMP USER_DISPATCH",
}
_CODE_PREFIXES = {"SIGCHLD": "CLD"}  # of the others: SEGV_ for SIGSEGV
# enum of include/net/tcp_states.h, from 1 on; ss and /proc/net/tcp go by these numbers, too.
_TCP_STATES = (
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
)
# The bits of a TCP header, from the lowest on; tcpdump and Wireshark use these names, too.
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")
_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # USER_NS_INIT_INO of linux/nsfs.h


def signals() -> dict[int, str]:
    """Return the names of the signals, without those for programs' own use."""
    import signal

    real_time = range(_FIRST_REAL_TIME, _LAST_REAL_TIME + 1)
    return {each.value: each.name for each in signal.Signals if each.value not in real_time}


def real_time_signal(number: int) -> str:
    """Return the name of a signal for programs' own use, such as SIGRTMIN+3; else the number."""
    if not _FIRST_REAL_TIME <= number <= _LAST_REAL_TIME:
        return str(number - (number >> 31 << 32))  # programs give it as a signed one
    above = number - _FIRST_REAL_TIME
    return f"SIGRTMIN+{above}" if above else "SIGRTMIN"


def at_flags() -> dict[int, str]:
    """Return the names of the flags of calls such as fstatat(2)."""
    return dict(_AT_FLAGS)


def signal_outcomes() -> dict[int, str]:
    """Return the names of what becomes of a signal that is sent."""
    return dict(enumerate(_SIGNAL_OUTCOMES))


def signal_code(signal_and_code: int) -> str:
    """Return the name of an ev_signal_code, such as SEGV_MAPERR; its number if it has none."""
    import signal

    number, code = divmod(signal_and_code, 1 << 32)
    code -= (code >> 31) << 32  # it is signed
    if code in _CODES:
        return _CODES[code]
    for name, codes in _CODES_OF.items():
        names = codes.split()
        if number == getattr(signal, name) and 0 < code <= len(names):
            prefix = _CODE_PREFIXES.get(name, name.removeprefix("SIG"))
            return f"{prefix}_{names[code - 1]}"
    return str(code)


def tcp_states() -> dict[int, str]:
    """Return the names of the states of a TCP socket; 0 stands for no socket."""
    return dict(enumerate(("-", *_TCP_STATES)))


def tcp_flags(flags: int) -> str:
    """Return the names of the flags of a TCP header; "-" if there is no header."""
    if flags >> len(_TCP_FLAGS):
        return "-"
    names = [name for bit, name in enumerate(_TCP_FLAGS) if flags & 1 << bit]
    return "|".join(names) or "none"


def user_namespaces() -> dict[int, str]:
    """Return the name of the initial user namespace by its inode; the others have none."""
    return {_FIRST_USER_NAMESPACE: "init"}


def names_in_enum(enum: str, prefix: str) -> Callable[[], dict[int, str]]:
    """Return a function that returns the names of an enum of the running kernel, less a prefix.

    The numbers of such enums change from kernel to kernel. What the function returns is empty if
    the kernel does not have the enum.
    """

    def names() -> dict[int, str]:
        from tracewheel.runtime.host.errors import NotSupported
        from tracewheel.runtime.host.kernel_types import kernel_enum

        try:
            values = kernel_enum(enum)
        except NotSupported:
            return {}
        return {value: name.removeprefix(prefix) for name, value in values.items()}

    return names


def writeback_reasons() -> dict[int, str]:
    """Return the names of the reasons for writeback, as the kernel's tracepoints print them."""
    names = names_in_enum("wb_reason", "WB_REASON_")()
    return {value: name.lower() for value, name in names.items()}

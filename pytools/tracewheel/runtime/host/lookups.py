# SPDX-License-Identifier: BSD-2-Clause
"""Names what the C library's functions that look up hosts are, and what they return.

The numbers are those of glibc and musl, which agree.
"""

from __future__ import annotations

from tracewheel.runtime.host.errnos import error_names

# enum function of gethostlatency.bpf.c
FUNCTIONS = (
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyname_r",
    "gethostbyname2_r",
    "gethostbyaddr",
    "gethostbyaddr_r",
)
# enum outcome of gethostlatency.bpf.c: the upper half of a result says of which kind the lower is.
_EAI_ERROR, _HOST_ERROR, _ERROR = 1, 2, 3
_OTHERS = {0: "OK", 4: "NULL", 5: "PENDING", 6: "LEFT", 7: "EXITED"}
# What getaddrinfo() returns, less its sign.
_EAI_ERRORS = {
    1: "EAI_BADFLAGS",
    2: "EAI_NONAME",
    3: "EAI_AGAIN",
    4: "EAI_FAIL",
    5: "EAI_NODATA",
    6: "EAI_FAMILY",
    7: "EAI_SOCKTYPE",
    8: "EAI_SERVICE",
    9: "EAI_ADDRFAMILY",
    10: "EAI_MEMORY",
    11: "EAI_SYSTEM",
    12: "EAI_OVERFLOW",
    101: "EAI_CANCELED",
    104: "EAI_INTR",
    105: "EAI_IDN_ENCODE",
}
# What h_errno may be, which the other functions set.
_HOST_ERRORS = {1: "HOST_NOT_FOUND", 2: "TRY_AGAIN", 3: "NO_RECOVERY", 4: "NO_DATA"}


def functions() -> dict[int, str]:
    """Return the names of the functions by their numbers."""
    return dict(enumerate(FUNCTIONS))


def results() -> dict[int, str]:
    """Return the names of the results of a lookup that have one."""
    of_kinds = {_EAI_ERROR: _EAI_ERRORS, _HOST_ERROR: _HOST_ERRORS, _ERROR: error_names()}
    names = {kind << 16: name for kind, name in _OTHERS.items()}
    for kind, errors in of_kinds.items():
        names.update({kind << 16 | error: name for error, name in errors.items()})
    return names


def other_result(result: int) -> str:
    """Return a text for a result without a name."""
    kind, number = result >> 16, result & 0xFFFF
    words = {_EAI_ERROR: "EAI", _HOST_ERROR: "h_errno", _ERROR: "errno"}
    return f"{words.get(kind, 'result')} {-number if kind == _EAI_ERROR else number}"

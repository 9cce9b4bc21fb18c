# SPDX-License-Identifier: BSD-2-Clause
"""Strings of other processes, as a terminal may show them."""

from __future__ import annotations

import os
import sys

from tracewheel._shim import ffi, lib


def speaks_ascii() -> bool:
    """Tell whether the locale asks for ASCII; Python would take C for UTF-8."""
    encoding = (sys.stdout.encoding if sys.stdout else None) or "ascii"
    chosen = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    locale = next(filter(None, chosen), "")
    return encoding.lower().replace("-", "") != "utf8" or locale in ("C", "POSIX")


def escape(text: bytes, ascii_only: bool = False) -> str:
    """Return a string of another process as a terminal may show it."""
    out = ffi.new("char[]", 4 * len(text) + 1)
    length = lib.shim_escape(text, len(text), ascii_only, out, len(out))
    return bytes(ffi.buffer(out, length)).decode()

# SPDX-License-Identifier: BSD-2-Clause
"""Make strings of other processes safe to show on a terminal."""

from __future__ import annotations

import os
import sys

from tracewheel._shim import ffi, lib


def speaks_ascii() -> bool:
    """Tell whether the output must be ASCII.

    In the locale C, Python would write UTF-8 all the same.
    """
    encoding = (sys.stdout.encoding if sys.stdout else None) or "ascii"
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    environment = os.environ
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG")
    return not is_utf8 or locale in ("C", "POSIX")


def escape(text: bytes, ascii_only: bool = False) -> str:
    """Return a string of another process with all that is unsafe on a terminal escaped."""
    out = ffi.new("char[]", 4 * len(text) + 1)
    length = lib.shim_escape(text, len(text), ascii_only, out, len(out))
    return bytes(ffi.buffer(out, length)).decode()

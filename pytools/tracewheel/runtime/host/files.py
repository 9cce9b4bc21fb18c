# SPDX-License-Identifier: BSD-2-Clause
"""Write files so that nobody ever reads a part of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from tracewheel.runtime.host.errors import BpfError


def _create(path: str) -> tuple[int, str]:
    """Open a new file in the folder of PATH; return its descriptor and name.

    A device, a pipe or a link is opened itself.
    """
    if os.path.isdir(path) or not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    name, flags = path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    if not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode):
        name = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}")
        flags |= os.O_EXCL
    return os.open(name, flags | os.O_TRUNC, 0o644), name


def replace_file(path: str, content: str | None) -> None:
    """Write a file under another name, and rename it when it is complete.

    With None as content, only try whether the file can be created. Raises BpfError.
    """
    name = path
    try:
        fd, name = _create(path)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(content or "")
        if content is not None:
            os.rename(name, path)
    except (OSError, ValueError) as error:
        raise BpfError(f"cannot write {path}: {reason_of(error)}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            if name != path:
                os.unlink(name)


def reason_of(error: Exception) -> str:
    """Return why a file could not be opened, in the words of the system."""
    return (isinstance(error, OSError) and error.strerror) or str(error)

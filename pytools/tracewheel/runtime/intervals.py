# SPDX-License-Identifier: BSD-2-Clause
"""When tools read what was traced: as it comes, at intervals, or once at the end."""

from __future__ import annotations

import errno
import math
import time
from typing import TYPE_CHECKING

from tracewheel._shim import lib
from tracewheel.runtime.errors import say
from tracewheel.runtime.output import ReaderGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracewheel.runtime.options import Request
    from tracewheel.runtime.output import Output, Stop
    from tracewheel.runtime.session import Session

TIME_OVER, TARGET_ENDED = -errno.ETIME, -errno.ESRCH
_SLICE_S = 0.5


def wait(
    session: Session, output: Output | None, stop: Stop, seconds: float, for_records: bool = True
) -> int:
    """Wait for records, a signal or the target's end; return 0, or a negative errno for the rest.

    Raises ReaderGone where the reader of the output has gone.
    """
    if stop.wake < 0:
        seconds = min(seconds, _SLICE_S)  # a signal between two waits tells of itself by no more
    left = -1 if seconds == math.inf else max(0, math.ceil(seconds * 1000))
    status: int = lib.shim_wait(
        session.ring.fd if session.ring and for_records else -1,
        stop.wake,
        output.watched if output else -1,
        session.target,
        session.patience(left),
    )
    if status == -errno.EPIPE:
        raise ReaderGone
    if status == TARGET_ENDED and output:
        say(f"{session.name}: process {session.request.pid} has ended")
    return status


def reports(
    session: Session,
    output: Output | None,
    stop: Stop,
    meanwhile: Callable[[], float] = lambda: math.inf,
) -> Iterator[int]:
    """Yield the number of each report when it is due; before the last one, end the tracing.

    ``meanwhile`` is called in between, again after as many seconds as it returns.
    """
    request = session.request
    start = time.monotonic()
    end = start + (request.duration or math.inf)
    number = 0
    last = False
    while not last:
        at = start + (number + 1) * (request.interval or math.inf)
        last = not request.interval or number + 1 == request.count
        if at >= end:
            at, last = end, True
        status = TIME_OVER
        while status == TIME_OVER and time.monotonic() < at:
            status = wait(session, output, stop, min(at - time.monotonic(), meanwhile()))
        if stop.asked or status == TARGET_ENDED:
            last = True
        if last:
            session.detach()
        yield number
        number += 1


def stamps(request: Request, start: float, now: float) -> list[str]:
    """Return the lines that a report begins with, from time.monotonic() and time.time()."""
    lines = []
    if request.time:
        lines.append(time.strftime("%H:%M:%S", time.localtime(now)))
    if request.timestamps:
        lines.append(f"{time.monotonic() - start:.3f} s")
    return lines

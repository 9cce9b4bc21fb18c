# SPDX-License-Identifier: BSD-2-Clause
"""When tools read what was traced: as it comes, at intervals, or once at the end."""

from __future__ import annotations

import errno
import math
import time

from tracewheel._shim import lib
from tracewheel.runtime.host.errors import say
from tracewheel.runtime.show.output import ReaderGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracewheel.runtime.show.output import Output, Stop
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.trace.session import Session


TIME_OVER, TARGET_ENDED = -errno.ETIME, -errno.ESRCH
_SLICE_S = 0.5
_LEARN_S = 1.0


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
        session.targets.fd,
        session.tend(left),
    )
    if status == -errno.EPIPE:
        raise ReaderGone
    if status == TARGET_ENDED:
        for pid in session.take_ended():
            if output:
                say(f"{session.name}: process {pid} has ended")
        if not session.targets.have_ended:
            return TIME_OVER
    return status


def reports(
    session: Session, output: Output | None, stop: Stop, learn: Callable[[], None] | None = None
) -> Iterator[int]:
    """Yield the number of each report when it is due; before the last one, end the tracing.

    In between, ``learn`` looks at what will be gone later, as is done for containers.
    """
    request = session.request
    learners = [learn] if learn else []
    if request.per_container:
        from tracewheel.runtime.host import containers

        learners.append(containers.learn)
    start = time.monotonic()
    due = start if learners else math.inf
    end = start + (request.duration or math.inf)
    number = 0
    last = False
    while not last:
        at = start + (number + 1) * (request.interval or math.inf)
        last = not request.interval or number + 1 == request.count
        if at >= end:
            at, last = end, True
        status = TIME_OVER
        while status == TIME_OVER and (now := time.monotonic()) < at:
            if now >= due:
                for each in learners:
                    each()
                due = now + max(_LEARN_S, 50 * (time.monotonic() - now))
            status = wait(session, output, stop, min(at, due) - time.monotonic())
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

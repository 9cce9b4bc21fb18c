# SPDX-License-Identifier: BSD-2-Clause
"""Wait for what is to be read: for records, for the end of an interval, or for the end of all."""

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


# What wait() returns.
TIME_OVER = -errno.ETIME
TARGET_ENDED = -errno.ESRCH
_SLICE_S = 0.5  # the longest wait if no descriptor tells of a signal
_LEARN_S = 1.0  # between two looks at what will be gone later, at least
_LEARN_SHARE = 50  # looking takes at most one part of so many of the time


def wait(
    session: Session, output: Output | None, stop: Stop, seconds: float, for_records: bool = True
) -> int:
    """Wait for records, for a signal, for the end of the processes of -p, or for the time given.

    Returns 0 if there are records, TIME_OVER, TARGET_ENDED if the last process has ended, or
    another negative errno. Which processes have ended is told by ``say_ended``, so that the
    caller can print their last rows first. Raises ReaderGone if the reader of the output has
    closed it.
    """
    if stop.wake < 0:
        seconds = min(seconds, _SLICE_S)  # a signal just before the wait does not end it
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
        session.note_ended()
        if not session.targets.have_ended:
            return TIME_OVER
    return status


def say_ended(session: Session, output: Output | None) -> None:
    """Say which processes of -p have ended since the last call, if a command is running."""
    for pid in session.take_ended():
        if output:
            say(f"{session.name}: process {pid} has ended")


def reports(
    session: Session, output: Output | None, stop: Stop, learn: Callable[[], None] | None = None
) -> Iterator[int]:
    """Yield the number of each report when it is due. The tracing ends before the last one.

    In between, ``learn`` is called from time to time, to look at what may be gone at the report.
    With --per-container the containers are looked at in the same way.
    """
    request = session.request
    learners = [learn] if learn else []
    if request.per_container:
        from tracewheel.runtime.host import containers

        learners.append(containers.learn)
    start = time.monotonic()
    next_look = start if learners else math.inf
    end = start + (request.duration or math.inf)
    number = 0
    last = False
    while not last:
        at = start + (number + 1) * (request.interval or math.inf)
        last = not request.interval or number + 1 == request.count
        if at >= end:
            at = end
            last = True
        status = TIME_OVER
        now = time.monotonic()
        while status == TIME_OVER and now < at:
            if now >= next_look:
                for each in learners:
                    each()
                took = time.monotonic() - now
                next_look = now + max(_LEARN_S, _LEARN_SHARE * took)
            status = wait(session, output, stop, min(at, next_look) - time.monotonic())
            if status != TARGET_ENDED:
                say_ended(session, output)  # the report may be far away
            now = time.monotonic()
        if stop.asked or status == TARGET_ENDED:
            last = True
        if last:
            session.detach()
        yield number
        number += 1
    say_ended(session, output)


def stamps(request: Request, start: float, now: float) -> list[str]:
    """Return the lines with times that a report begins with.

    ``start`` is of time.monotonic(), ``now`` of time.time().
    """
    lines = []
    if request.time:
        lines.append(time.strftime("%H:%M:%S", time.localtime(now)))
    if request.timestamps:
        lines.append(f"{time.monotonic() - start:.3f} s")
    return lines

# SPDX-License-Identifier: BSD-2-Clause
"""When tools report that do so at intervals, or once at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tracewheel._shim import lib
from tracewheel.runtime.errors import say
from tracewheel.runtime.output import ReaderGone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracewheel.runtime.output import Output, Stop
    from tracewheel.runtime.session import Session

_EPIPE, _ESRCH = -32, -3


def reports(session: Session, output: Output, stop: Stop) -> Iterator[int]:
    """Yield the number of each report when it is due; before the last one, end the tracing."""
    request = session.request
    start = time.monotonic()
    end = start + request.duration if request.duration else None
    number = 0
    last = False
    while not last:
        at = start + (number + 1) * request.interval if request.interval else end
        last = not request.interval or number + 1 == request.count
        if end is not None and at is not None and at >= end:
            at, last = end, True
        left = -1 if at is None else max(0, int((at - time.monotonic()) * 1000 + 0.999))
        status = lib.shim_wait(session.handle, stop.wake, output.watched, session.target, left)
        if status == _EPIPE:
            raise ReaderGone
        if status == _ESRCH:
            say(f"{session.name}: process {request.pid} has ended")
        if stop.asked or status == _ESRCH:
            last = True
        if last:
            session.detach()
        yield number
        number += 1

# SPDX-License-Identifier: BSD-2-Clause
"""When tools report that do so at intervals, or once at the end."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from tracewheel._shim import lib
from tracewheel.runtime.errors import say
from tracewheel.runtime.output import ReaderGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tracewheel.runtime.output import Output, Stop
    from tracewheel.runtime.session import Session

_EPIPE, _ESRCH, _ETIME = -32, -3, -62


def reports(
    session: Session, output: Output, stop: Stop, meanwhile: Callable[[], float] | None = None
) -> Iterator[int]:
    """Yield the number of each report when it is due; before the last one, end the tracing.

    ``meanwhile`` is called in between, again after as many seconds as it returns.
    """
    request = session.request
    start = time.monotonic()
    end = start + request.duration if request.duration else math.inf
    number = 0
    last = False
    while not last:
        at = start + (number + 1) * (request.interval or math.inf)
        last = not request.interval or number + 1 == request.count
        if at >= end:
            at, last = end, True
        while True:
            pause = min(at - time.monotonic(), meanwhile() if meanwhile else math.inf)
            left = -1 if pause == math.inf else max(0, int(pause * 1000 + 0.999))
            status = lib.shim_wait(session.handle, stop.wake, output.watched, session.target, left)
            if status != _ETIME or time.monotonic() >= at:
                break
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

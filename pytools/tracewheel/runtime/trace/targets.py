# SPDX-License-Identifier: BSD-2-Clause
"""Watch the processes that -p names until they end."""

from __future__ import annotations

import os
import select

from tracewheel.runtime.host.processes import watch_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Targets:
    """Processes that are watched until they end.

    ``fd`` becomes readable when one of them ends; it is -1 if there is nothing to watch. Raises
    TargetGone for a process that has ended already.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.fd = -1
        self._watched: dict[int, int] = {}  # processes, by their descriptors
        try:
            for pid in pids:
                fd = watch_process(pid)
                if fd >= 0:
                    self._watched[fd] = pid
        except BaseException:
            self.close()
            raise
        if self._watched:
            self._epoll = select.epoll()
            self.fd = self._epoll.fileno()
            for fd in self._watched:
                self._epoll.register(fd, select.EPOLLIN)

    def take_ended(self) -> list[int]:
        """Return the processes that have ended since the last call."""
        ended: list[int] = []
        if self.fd < 0:
            return ended
        for fd, _ in self._epoll.poll(0):
            self._epoll.unregister(fd)
            ended.append(self._watched.pop(fd))
            os.close(fd)
        return ended

    @property
    def have_ended(self) -> bool:
        """True once the last process that was watched has ended."""
        return self.fd >= 0 and not self._watched

    def close(self) -> None:
        """Stop watching; may be called again."""
        while self._watched:
            fd, _ = self._watched.popitem()
            os.close(fd)
        if self.fd >= 0:
            self._epoll.close()
            self.fd = -1

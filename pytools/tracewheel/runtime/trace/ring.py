# SPDX-License-Identifier: BSD-2-Clause
"""The ring buffer, mapped."""

from __future__ import annotations

import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Ring:
    """A ring buffer as lib.shim_read takes it: mapped while this lives."""

    def __init__(self, found: Any) -> None:
        import mmap

        page, size = os.sysconf("SC_PAGESIZE"), lib.bpf_map__max_entries(found)
        self.fd: int = lib.bpf_map__fd(found)
        try:
            self._areas = (
                ffi.from_buffer(mmap.mmap(self.fd, page)),
                ffi.from_buffer(mmap.mmap(self.fd, page + size, prot=mmap.PROT_READ, offset=page)),
            )
        except OSError as error:
            raise BpfError(f"cannot map the ring buffer: {error.strerror}") from None
        consumer, producer = (ffi.cast("uint64_t *", area) for area in self._areas)
        data = ffi.cast("char *", self._areas[1]) + page
        self.size = size
        self.memory = ffi.new("struct shim_ring *", (consumer, producer, data, size - 1))

    def unread(self) -> int:
        """Return how many bytes of it are waiting to be read."""
        return int(self.memory.producer[0] - self.memory.consumer[0])

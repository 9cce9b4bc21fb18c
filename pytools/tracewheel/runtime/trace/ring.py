# SPDX-License-Identifier: BSD-2-Clause
"""The ring buffer, mapped into the memory of this process."""

from __future__ import annotations

import os

from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.errors import BpfError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Ring:
    """A ring buffer as lib.shim_read takes it. It is mapped as long as the object lives."""

    def __init__(self, found: Any) -> None:
        import mmap

        page = os.sysconf("SC_PAGESIZE")
        size = lib.bpf_map__max_entries(found)
        self.fd: int = lib.bpf_map__fd(found)
        try:
            # The first page is the consumer's, the second one the producer's; then come the data.
            self._consumer = ffi.from_buffer(mmap.mmap(self.fd, page))
            self._producer = ffi.from_buffer(
                mmap.mmap(self.fd, page + size, prot=mmap.PROT_READ, offset=page)
            )
        except OSError as error:
            raise BpfError(
                f"cannot map the ring buffer: {error.strerror}: give a smaller --buffer-size"
            ) from None
        self.memory = ffi.new("struct shim_ring *")
        self.memory.consumer = ffi.cast("uint64_t *", self._consumer)
        self.memory.producer = ffi.cast("uint64_t *", self._producer)
        self.memory.data = ffi.cast("char *", self._producer) + page
        self.memory.mask = size - 1
        self.size = size

    def unread(self) -> int:
        """Return how many bytes of the ring are waiting to be read."""
        return int(self.memory.producer[0] - self.memory.consumer[0])

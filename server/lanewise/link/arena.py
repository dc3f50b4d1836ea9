"""Memory that one process writes and another reads: blocks of a file that has no name."""

from __future__ import annotations

import mmap
import os

from lanewise.errors import Overloaded

ARENA_BYTES = 16 << 30
"""Address space, not memory: pages come into being when they are written."""

LARGE_BYTES = 1 << 20
KEPT_BYTES = 256 << 20
"""Memory of free blocks of LARGE_BYTES and more that is kept: to get 38 MB of fresh pages from the
kernel takes as long as to copy them."""

_SMALLEST_BITS = 12  # a page, so that no two blocks share one


class Arena:
    """Blocks of memory that the process at the other end of a link reads.

    A block of any size up to the next power of two is used again for the next of them. The
    memory belongs to no name in the file system: it is gone with the processes that map it.
    """

    def __init__(self, nbytes: int = ARENA_BYTES) -> None:
        self.fd = os.memfd_create("lanewise")
        os.ftruncate(self.fd, nbytes)
        self._map = mmap.mmap(self.fd, nbytes)
        self._nbytes = nbytes
        self._end = 0
        self._bits: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._kept_bytes = 0
        self.memory = memoryview(self._map)

    @property
    def blocks(self) -> int:
        """How many blocks are in use."""
        return len(self._bits)

    def allocate(self, nbytes: int) -> int:
        """Get the offset of a block of at least `nbytes`, aligned to a page.

        Raises:
            Overloaded: there is no room.
        """
        bits = max(_SMALLEST_BITS, (nbytes - 1).bit_length())
        free = self._free.get(bits)
        if free:
            offset = free.pop()
            if 1 << bits >= LARGE_BYTES:
                self._kept_bytes = max(0, self._kept_bytes - (1 << bits))
        elif self._end + (1 << bits) <= self._nbytes:
            offset = self._end
            self._end += 1 << bits
        else:
            raise Overloaded(
                f"{nbytes} bytes find no room in the {self._nbytes >> 20} MiB that a front end "
                "may have under way to and from the engine; send again later"
            )
        self._bits[offset] = bits
        return offset

    def free(self, offset: int) -> None:
        """Take a block back; nobody may read or write it any more."""
        bits = self._bits.pop(offset)
        self._free.setdefault(bits, []).append(offset)
        nbytes = 1 << bits
        if nbytes < LARGE_BYTES:
            return
        if self._kept_bytes + nbytes > KEPT_BYTES:
            self._map.madvise(mmap.MADV_REMOVE, offset, nbytes)
        else:
            self._kept_bytes += nbytes

    def close_fd(self) -> None:
        """Close the file once the other end has it; the memory stays mapped."""
        os.close(self.fd)


def map_to_read(fd: int) -> memoryview:
    """Map the arena of the other end, and close the file."""
    try:
        return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))
    finally:
        os.close(fd)

"""Memory that one process writes and another reads: blocks of a file that has no name."""

from __future__ import annotations

import mmap
import os

from lanewise.errors import Overloaded

ARENA_BYTES = 16 << 30
"""How much may be in use, and how far the blocks of one size reach: address space, not memory.
Pages come into being when they are written."""

KEPT_BYTES = 256 << 20
"""Memory of free blocks that is kept: to get 38 MB of fresh pages from the kernel takes as long
as to copy them."""

_SMALLEST_BITS = 12  # a page, so that no two blocks share one


class Arena:
    """Blocks of memory that the process at the other end of a link reads.

    A block of any size up to the next power of two is used again for the next of them. Each
    power has a range of addresses of its own: blocks of one can never take all the room there
    is from the others. The memory belongs to no name in the file system: it is gone with the
    processes that map it.
    """

    def __init__(self, nbytes: int = ARENA_BYTES, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._nbytes = nbytes
        self._most_kept_bytes = kept_bytes
        size = nbytes * (nbytes.bit_length() - _SMALLEST_BITS)
        self.fd = os.memfd_create("lanewise")
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self._ends: dict[int, int] = {}
        self._bits: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}
        self._emptied: set[int] = set()
        self._used_bytes = 0
        self._kept_bytes = 0
        self.memory = memoryview(self._map)

    @property
    def blocks(self) -> int:
        return len(self._bits)

    def allocate(self, nbytes: int) -> int:
        """Get the offset of a block of at least `nbytes`, aligned to a page.

        Raises:
            Overloaded: there is no room.
        """
        bits = max(_SMALLEST_BITS, (nbytes - 1).bit_length())
        size = 1 << bits
        if self._used_bytes + size > self._nbytes:
            raise Overloaded(
                f"{nbytes} bytes find no room in the {self._nbytes >> 20} MiB that a front end "
                "may have under way to and from the engine; send again later"
            )
        free = self._free.get(bits)
        if free:
            offset = free.pop()
            if offset in self._emptied:
                self._emptied.remove(offset)
            else:
                self._kept_bytes -= size
        else:
            offset = self._ends.get(bits, (bits - _SMALLEST_BITS) * self._nbytes)
            self._ends[bits] = offset + size
        self._used_bytes += size
        self._bits[offset] = bits
        return offset

    def free(self, offset: int) -> None:
        """Take a block back; nobody may read or write it any more."""
        bits = self._bits.pop(offset)
        size = 1 << bits
        self._used_bytes -= size
        self._free.setdefault(bits, []).append(offset)
        if self._kept_bytes + size <= self._most_kept_bytes:
            self._kept_bytes += size
        else:
            self._map.madvise(mmap.MADV_REMOVE, offset, size)
            self._emptied.add(offset)

    def close_fd(self) -> None:
        """Close the file once the other end has it; the memory stays mapped."""
        os.close(self.fd)

    def close(self) -> None:
        """Unmap the memory; nothing can be allocated any more."""
        self._nbytes = 0
        self.memory.release()
        self._map.close()


def map_to_read(fd: int) -> memoryview:
    """Map the arena of the other end, and close the file."""
    try:
        return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))
    finally:
        os.close(fd)

"""Shared memory between this process and a server on the same host.

A request then carries names and offsets instead of contents. Linux alone.
"""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from collections.abc import Iterable
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lanewise_client.datatypes import Array
from lanewise_client.protos import inference_pb2 as pb

FOLDER = Path("/dev/shm")
"""Where Linux keeps the segments of shm_open."""

_ALIGNMENT = 64  # bytes: a cache line, and more than any element needs
_TRACKED_AS = "shared_memory"


class SharedMemory:
    """A segment of shared memory for the arrays of requests, and of their outputs.

    Made by the client it is for, which registers it with the server when it is first used.
    It is removed by `close`, by its client's `close`, and at the end of the process. What is
    in use by a call must not be changed before the call is over; a call that failed may still
    write its outputs.

    Attributes:
        name: of the segment, and what it is registered under.
        nbytes: its size.
    """

    def __init__(self, nbytes: int) -> None:
        """Make a segment, all zeros.

        Raises:
            ValueError: `nbytes` is not positive.
            OSError: there is too little shared memory, or this is not Linux.
        """
        if nbytes <= 0:
            raise ValueError(f"nbytes is {nbytes}, but must be a positive number of bytes")
        self.name = f"lanewise_client_{os.getpid()}_{secrets.token_hex(8)}"
        self.nbytes = nbytes
        self.is_registered = False
        mapping = _make_segment(self.name, nbytes)
        self._bytes = np.frombuffer(mapping, np.uint8)
        self._address = int(self._bytes.ctypes.data)
        self._taken = 0
        self._remove = weakref.finalize(self, _remove_segment, self.name, os.getpid())

    @property
    def is_closed(self) -> bool:
        return not self._remove.alive

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Take room for an array; it is valid for as long as it is referenced.

        Raises:
            TypeError: elements of that type are references, and cannot be shared.
            ValueError: there is too little room left.
        """
        wanted = np.dtype(dtype)
        if wanted.hasobject:
            raise TypeError(f"an array of {wanted} cannot lie in shared memory; send it as it is")
        begin = -(-self._taken // _ALIGNMENT) * _ALIGNMENT
        array: npt.NDArray[Any] = np.ndarray(shape, wanted, self._room(begin))
        self._taken = begin + array.nbytes
        return array

    def clear(self) -> None:
        """Take room from the beginning again; arrays taken before share it with later ones."""
        self._taken = 0

    def locate(self, array: Array) -> int | None:
        """Get the offset of an array that lies here as it has to be sent; None for any other."""
        offset = int(array.ctypes.data) - self._address
        is_inside = offset >= 0 and offset + array.nbytes <= self.nbytes
        is_plain = array.flags.c_contiguous and not array.dtype.hasobject
        is_little = array.dtype.newbyteorder("<") == array.dtype
        return offset if is_inside and is_plain and is_little else None

    def view(self, offset: int, nbytes: int) -> memoryview:
        return self._bytes[offset : offset + nbytes].data

    def close(self) -> None:
        """Remove the segment; arrays in it stay valid, to this process. May be called again."""
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def registration(self) -> pb.SystemSharedMemoryRegisterRequest:
        """Make the message that registers the segment under its name."""
        return pb.SystemSharedMemoryRegisterRequest(
            name=self.name, key=f"/{self.name}", byte_size=self.nbytes
        )

    def _room(self, begin: int) -> memoryview:
        if begin >= self.nbytes:
            return memoryview(b"")
        return self._bytes[begin:].data


def pooled_bytes(arrays: Iterable[Array]) -> int:
    """Count what a segment needs to take copies of `arrays`."""
    return sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)


def _make_segment(name: str, nbytes: int) -> mmap.mmap:
    path = FOLDER / name
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        # So that too little memory is an error here, and not the end of the process later.
        os.posix_fallocate(fd, 0, nbytes)
        mapping = mmap.mmap(fd, nbytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
    # A process of the standard library's removes what this one leaves behind if it is killed.
    resource_tracker.register(f"/{name}", _TRACKED_AS)
    return mapping


def _remove_segment(name: str, maker: int) -> None:
    if os.getpid() != maker:  # a fork of it, which has inherited the duty but not the segment
        return
    (FOLDER / name).unlink(missing_ok=True)
    resource_tracker.unregister(f"/{name}", _TRACKED_AS)

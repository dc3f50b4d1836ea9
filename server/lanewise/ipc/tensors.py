"""Tensors on their way through a link: small ones in the message, others in an arena."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lanewise.ipc.arena import Arena
from lanewise.model.tensors import Array, DType, Shape, element_count

INLINE_BYTES = 16384
"""Tensors of a request or a result that have no more bytes than this together travel in the
message: a block costs a message more, when it is free again, and a reference to watch. With 9 kB
of tensors, 8 and 32 in flight on one core, both ends together spent 11 to 35 us less on a request
without one, and answered 10 to 39 % more of them (Python 3.11)."""

_ALIGNMENT = 64
_NO_BLOCK = -1


class Packed(NamedTuple):
    """The tensors of one request or result, in an order that both ends know.

    Attributes:
        block: offset of the block that holds them; negative if none does.
        nbytes: of the block.
        tensors: shape and contents: the position in the block, or the bytes themselves; the
            elements of BYTES.
    """

    block: int
    nbytes: int
    tensors: tuple[tuple[Shape, int | bytes | list[bytes]], ...]


class TensorWriter:
    """Packs tensors for the other end, in an arena of its own."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def pack(self, arrays: Iterable[Array]) -> Packed:
        """Copy tensors; a block they are in is free again when `free` is called for it.

        Raises:
            Overloaded: there is no room.
        """
        arrays = tuple(arrays)
        sizes = [0 if array.dtype.hasobject else array.nbytes for array in arrays]
        if sum(sizes) <= INLINE_BYTES:
            return Packed(_NO_BLOCK, 0, tuple((a.shape, _contents(a)) for a in arrays))
        places = []
        nbytes = 0
        for size in sizes:
            places.append(nbytes)
            nbytes += -(-size // _ALIGNMENT) * _ALIGNMENT
        block = self._arena.allocate(nbytes)
        memory = self._arena.memory[block : block + nbytes]
        tensors: list[tuple[Shape, int | bytes | list[bytes]]] = []
        for array, place, size in zip(arrays, places, sizes, strict=True):
            if array.dtype.hasobject:
                tensors.append((array.shape, _contents(array)))
            else:
                memory[place : place + size] = _bytes_of(array)
                tensors.append((array.shape, place))
        return Packed(block, nbytes, tuple(tensors))

    def free(self, packed_block: int) -> None:
        self._arena.free(packed_block)

    def close(self) -> None:
        """Let go of the memory; nothing can be packed any more."""
        self._arena.close()


class TensorReader:
    """Views of the tensors that the other end has packed.

    Args:
        memory: the other end's arena.
        when_unused: told of every block, once no array refers to it any more; called on
            whatever thread let go of it last.
    """

    def __init__(self, memory: memoryview, when_unused: Callable[[int], None]) -> None:
        self._memory = memory
        self._when_unused = when_unused
        self._blocks: dict[int, weakref.ref[Array]] = {}

    def read(self, packed: Packed, dtypes: Sequence[DType]) -> list[Array]:
        """Get the tensors: read-only, without a copy where they are in a block."""
        whole = None if packed.block < 0 else self._view(packed)
        arrays = []
        for (shape, contents), dtype in zip(packed.tensors, dtypes, strict=True):
            if isinstance(contents, list):
                array: Array = np.empty(len(contents), np.object_)
                array[:] = contents
            elif isinstance(contents, bytes):
                array = np.frombuffer(contents, dtype.numpy)
            else:
                assert whole is not None
                end = contents + element_count(shape) * dtype.numpy.itemsize
                array = whole[contents:end].view(dtype.numpy)
            arrays.append(array.reshape(shape))
        return arrays

    def discard(self, packed: Packed) -> None:
        """Release the unclaimed tensors of a message."""
        if packed.block >= 0:
            self._when_unused(packed.block)

    def close(self) -> None:
        """Let go of the memory, but for what arrays refer to; nothing can be read any more."""
        self._memory = memoryview(b"")

    def _view(self, packed: Packed) -> Array:
        # Not a slice of one array over everything: views would refer to that one.
        whole = np.frombuffer(self._memory[packed.block : packed.block + packed.nbytes], np.uint8)
        when_gone = functools.partial(self._forget, packed.block)
        self._blocks[packed.block] = weakref.ref(whole, when_gone)
        return whole

    def _forget(self, block: int, _: weakref.ref[Array]) -> None:
        del self._blocks[block]
        self._when_unused(block)


def _contents(array: Array) -> bytes | list[bytes]:
    return array.ravel().tolist() if array.dtype.hasobject else array.tobytes()


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def on_loop(callback: Callable[[int], None]) -> Callable[[int], None]:
    """Make a function for any thread of one for this thread's event loop, which is running."""
    loop = asyncio.get_running_loop()
    here = threading.get_ident()

    def call(argument: int) -> None:
        if loop.is_closed():  # nobody is left to tell
            return
        if threading.get_ident() == here:
            callback(argument)
            return
        with contextlib.suppress(RuntimeError):  # it has been closed since
            loop.call_soon_threadsafe(callback, argument)

    return call

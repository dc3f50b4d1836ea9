"""Where one batch lies: pinned host memory and device memory for every tensor of a model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from lanewise.backends.inputs import fillings
from lanewise.backends.runner import Batch
from lanewise.memory.device import CudaEvent, DeviceBuffer, PinnedBuffer, Stream
from lanewise.memory.staging import pack_rows, pad_rows, place_rows
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import (
    Array,
    DeviceArray,
    Piece,
    Shape,
    TensorSpec,
    element_count,
    on_host,
)

PARALLEL_COPY_BYTES = 4 << 20
"""Inputs from this size on are copied by several threads: one moves 7 GB/s on an H200's host,
so that 128 images would take as long to stage as to infer."""
COPY_THREADS = 4

SMALL_BYTES = 1 << 20
"""Inputs up to this size are copied to the device by the graph that executes them, which saves
calls. Larger ones overlap with the batch before: at the 50 GB/s of PCIe 5, this one takes 21 us."""

_copiers = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")


class Slot:
    """Buffers for one batch on its way through the device. Used by one thread at a time.

    A batch whose inputs are small is packed with `pack`, then copied in the runner's stream with
    `copy_in`; any other is staged with `stage`, which overlaps the two in a stream for copies.

    Attributes:
        has_moved: whether a buffer lies elsewhere since this was last set to False: graphs
            that use it are stale.
        staged: marks, on the copy stream, that the inputs are on the device.
        done: marks, on the runner's stream, that the outputs are in pinned memory.
    """

    def __init__(self, index: int, spec: ModelSpec, on_host: frozenset[str]) -> None:
        self.index = index
        self.has_moved = False
        self.staged = CudaEvent()
        self.done = CudaEvent()
        self._spec = spec
        self._stacked = spec.rowwise - on_host
        self._fillings = fillings(spec)
        self._samples = spec.samples
        self._pinned = {tensor.name: PinnedBuffer() for tensor in (*spec.inputs, *spec.outputs)}
        self._device = {
            tensor.name: DeviceBuffer()
            for tensor in (*spec.inputs, *spec.outputs)
            if tensor.name not in on_host
        }

    @property
    def host_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._pinned.values())

    @property
    def device_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._device.values())

    def reserve(self, shapes: Mapping[str, Shape]) -> None:
        """Make room for tensors of these shapes.

        Raises:
            CudaError: there is too little memory; some buffers may have moved.
        """
        for tensor in (*self._spec.inputs, *self._spec.outputs):
            if tensor.name in shapes:
                nbytes = max(1, _nbytes(tensor, shapes))
                self.has_moved |= self._pinned[tensor.name].reserve(nbytes)
                if tensor.name in self._device:
                    self.has_moved |= self._device[tensor.name].reserve(nbytes)

    def hold(self, values: Mapping[str, tuple[int, ...]]) -> dict[str, bytes]:
        """Write the values of shape tensors where TensorRT reads them; return them as bytes.

        Room for them must have been made.
        """
        held = {}
        for tensor in self._spec.inputs:
            if tensor.name in values:
                array = np.array(values[tensor.name], tensor.dtype.numpy)
                np.copyto(self._pinned[tensor.name].view(array.dtype, array.shape), array)
                held[tensor.name] = array.tobytes()
        return held

    def reserve_output(self, name: str, nbytes: int) -> int:
        """Make room for an output on the device alone; return its address.

        Raises:
            CudaError: there is too little memory.
        """
        # TensorRT takes a null address for a failure, of an empty output too.
        self.has_moved |= self._device[name].reserve(max(1, nbytes))
        return self._device[name].address

    def address(self, name: str) -> int:
        """Where TensorRT finds a tensor: on the device, or in host memory for shape tensors."""
        found = self._device.get(name)
        return self._pinned[name].address if found is None else found.address

    def pack(self, batch: Batch, shapes: Mapping[str, Shape]) -> None:
        """Copy the rows of `batch` into pinned memory, once, and clear the padding.

        Args:
            batch: its pieces are only read.
            shapes: of every input, with the padded number of rows. Room for them has been made.
        """
        for tensor in self._spec.inputs:
            pinned = self._pinned[tensor.name].view(tensor.dtype.numpy, shapes[tensor.name])
            self._pack_tensor(
                tensor, [on_host(piece) for piece in batch.pieces[tensor.name]], pinned
            )

    def copy_in(self, shapes: Mapping[str, Shape], stream: Stream) -> None:
        """Start the way of packed inputs to the device; those in host memory stay there."""
        for tensor in self._spec.inputs:
            self._copy_in(tensor, _nbytes(tensor, shapes), stream)

    def stage(self, batch: Batch, shapes: Mapping[str, Shape], stream: Stream) -> None:
        """Copy the rows of `batch` into pinned memory, once, and start their way to the device.

        Args:
            batch: its pieces are only read; those that the device alone reads must stay until
                `staged` is done.
            shapes: of every input, with the padded number of rows. Room for them has been made.
            stream: does the copies to the device; `staged` is recorded in it.
        """
        for tensor in self._spec.inputs:
            pieces, shape = batch.pieces[tensor.name], shapes[tensor.name]
            if any(isinstance(piece, DeviceArray) for piece in pieces):
                self._stage_directly(tensor, pieces, shape, stream)
            else:
                self._stage_tensor(tensor, [on_host(piece) for piece in pieces], shape, stream)
        stream.record(self.staged)

    def copy_out(self, shapes: Mapping[str, Shape], stream: Stream) -> None:
        """Start the way of the outputs to pinned memory."""
        for tensor in self._spec.outputs:
            nbytes = _nbytes(tensor, shapes)
            if nbytes and tensor.name in self._device:
                target = self._pinned[tensor.name].address
                stream.copy_out(target, self._device[tensor.name].address, nbytes)

    def collect(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        """Copy the outputs out of pinned memory; `done` must have been waited for."""
        return {
            tensor.name: self._pinned[tensor.name]
            .view(tensor.dtype.numpy, shapes[tensor.name])
            .copy()
            for tensor in self._spec.outputs
        }

    def close(self) -> None:
        """Release every buffer; nothing may be using them."""
        for pinned in self._pinned.values():
            pinned.close()
        for device in self._device.values():
            device.close()
        self.staged.close()
        self.done.close()

    def _pack_tensor(self, tensor: TensorSpec, pieces: Sequence[Array], pinned: Array) -> None:
        if tensor.name in self._stacked:
            rows = pack_rows(pieces, pinned, self._fillings.get(tensor.name))
            pad_rows(pinned, rows, self._samples.get(tensor.name))
        else:
            np.copyto(pinned, pieces[0])

    def _copy_in(self, tensor: TensorSpec, nbytes: int, stream: Stream) -> None:
        if nbytes and tensor.name in self._device:
            source = self._pinned[tensor.name].address
            stream.copy_in(self._device[tensor.name].address, source, nbytes)

    def _stage_directly(
        self, tensor: TensorSpec, pieces: Sequence[Piece], shape: Shape, stream: Stream
    ) -> None:
        """Start the way of pieces to the device, from where they lie if it can read that."""
        pinned = self._pinned[tensor.name].view(tensor.dtype.numpy, shape)
        source, target = self._pinned[tensor.name].address, self._device[tensor.name].address
        offset = first = 0
        for piece in pieces:
            if isinstance(piece, DeviceArray):
                stream.copy(target + offset, piece.address, piece.nbytes)
            else:
                place_rows(piece, pinned, first)
                stream.copy_in(target + offset, source + offset, piece.nbytes)
            offset += piece.nbytes
            first += piece.shape[0]
        if offset < pinned.nbytes:
            pad_rows(pinned, first, self._samples.get(tensor.name))
            stream.copy_in(target + offset, source + offset, pinned.nbytes - offset)

    def _stage_tensor(
        self, tensor: TensorSpec, pieces: Sequence[Array], shape: Shape, stream: Stream
    ) -> None:
        pinned = self._pinned[tensor.name].view(tensor.dtype.numpy, shape)
        if pinned.nbytes < PARALLEL_COPY_BYTES or tensor.name not in self._stacked:
            self._pack_tensor(tensor, pieces, pinned)
            self._copy_in(tensor, pinned.nbytes, stream)
            return
        rows = sum(piece.shape[0] for piece in pieces)
        pad_rows(pinned, rows, self._samples.get(tensor.name))
        row_bytes = pinned.nbytes // shape[0]
        filling = self._fillings.get(tensor.name)
        source, target = self._pinned[tensor.name].address, self._device[tensor.name].address

        def copy(first: int, piece: Array) -> None:
            place_rows(piece, pinned, first, filling)
            offset = first * row_bytes
            stream.copy_in(target + offset, source + offset, piece.shape[0] * row_bytes)

        _copy_in_parallel(copy, pieces, COPY_THREADS)
        if rows < shape[0]:
            offset = rows * row_bytes
            stream.copy_in(target + offset, source + offset, pinned.nbytes - offset)


class FreeSlots:
    """The free slots, handed out in turns so that graphs get captured in all.

    Thread-safe.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = deque(slots)
        self._count = threading.Semaphore(len(slots))

    def take(self) -> Slot:
        self._count.acquire()
        return self._slots.popleft()

    def take_now(self) -> Slot | None:
        return self._slots.popleft() if self._count.acquire(blocking=False) else None

    def give_back(self, slot: Slot, *, next_again: bool = False) -> None:
        """Let others use `slot`; the next of them, if `next_again`."""
        if next_again:
            self._slots.appendleft(slot)
        else:
            self._slots.append(slot)
        self._count.release()


def count_bytes(tensors: Iterable[TensorSpec], shapes: Mapping[str, Shape]) -> int:
    """Count the bytes of tensors of these shapes."""
    return sum(_nbytes(tensor, shapes) for tensor in tensors)


def _nbytes(tensor: TensorSpec, shapes: Mapping[str, Shape]) -> int:
    return element_count(shapes[tensor.name]) * tensor.dtype.numpy.itemsize


def _copy_in_parallel(
    copy: Callable[[int, Array], None], pieces: Sequence[Array], parts: int
) -> None:
    """Call `copy` for parts of `pieces` of about equal rows, on several threads."""
    rows = sum(piece.shape[0] for piece in pieces)
    step = -(-rows // parts)
    jobs: list[Future[None]] = []
    first = 0
    for piece in pieces:
        for start in range(0, piece.shape[0], step):
            part = piece[start : start + step]
            jobs.append(_copiers.submit(copy, first + start, part))
        first += piece.shape[0]
    wait(jobs)  # all of them, also if one fails: the slot is used again after this
    for job in jobs:
        job.result()

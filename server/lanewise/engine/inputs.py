"""The arrays a runner feeds to its model: a batch's pieces stacked and padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from lanewise.engine.runner import Batch
from lanewise.memory.host import HostBuffer
from lanewise.memory.staging import pack_rows, pad_rows
from lanewise.models import ModelSpec, Profile
from lanewise.tensors import Array, DType, Shape


class InputBuffers:
    """Host buffers for the row-wise inputs of one runner, ready for its profile's maximum."""

    def __init__(self, spec: ModelSpec, profile: Profile) -> None:
        self._buffers = {
            tensor.name: HostBuffer(tensor.dtype.numpy)
            for tensor in spec.inputs
            if tensor.name in spec.rowwise and tensor.dtype is not DType.BYTES
        }
        # A buffer for strings would keep those of the largest batch alive: they get new
        # arrays, of pointers alone.
        self._stacked_anew = {
            tensor.name
            for tensor in spec.inputs
            if tensor.name in spec.rowwise and tensor.dtype is DType.BYTES
        }
        for name, buffer in self._buffers.items():
            buffer.view((profile.rows.max, *profile.ranges[name].max[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes held by all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def gather(self, batch: Batch) -> dict[str, Array]:
        """Get every input of `batch` with `padded_rows` rows, C-contiguous.

        A lone piece that needs no padding is handed on as it is, anything else is copied.
        The arrays are only to be read, and valid until the next call.
        """
        return {name: self._gather_input(name, batch) for name in batch.pieces}

    def _gather_input(self, name: str, batch: Batch) -> Array:
        pieces = batch.pieces[name]
        first = pieces[0]
        buffer = self._buffers.get(name)
        is_rowwise = buffer is not None or name in self._stacked_anew
        if not is_rowwise or (len(pieces) == 1 and batch.rows == batch.padded_rows):
            return np.asarray(first, order="C")
        shape = (batch.padded_rows, *first.shape[1:])
        stacked = np.empty(shape, np.object_) if buffer is None else buffer.view(shape)
        pad_rows(stacked, pack_rows(pieces, stacked))
        return stacked


def warm_up_batches(spec: ModelSpec, profile: Profile) -> Iterator[Batch]:
    """Make a batch of the opt and one of the max shapes of `profile`, of zeros or empty strings."""
    yield blank_batch_at(spec, profile, "opt", profile.rows.opt)
    yield blank_batch_at(spec, profile, "max", profile.rows.max)


def blank_batch_at(
    spec: ModelSpec, profile: Profile, end: Literal["opt", "max"], rows: int
) -> Batch:
    """Make a blank batch of `rows` rows with the other dimensions at one end of `profile`.

    Shape tensors hold the profile's values of the same end.
    """
    shapes = {name: getattr(limits, end) for name, limits in profile.ranges.items()}
    values = {name: getattr(limits, end) for name, limits in profile.values.items()}
    return blank_batch(spec, shapes, rows, values)


def blank_batch(
    spec: ModelSpec,
    shapes: Mapping[str, Shape],
    rows: int,
    values: Mapping[str, tuple[int, ...]] | None = None,
) -> Batch:
    """Make a batch of zeros or empty strings.

    Args:
        spec: of the model.
        shapes: by input name; of row-wise inputs, dimension 0 is replaced by `rows`.
        rows: of the batch.
        values: what shape tensors hold instead of zeros, row-major.
    """
    pieces = {}
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if tensor.name in spec.rowwise:
            shape = (rows, *shape[1:])
        if values and tensor.name in values:
            held = np.array(values[tensor.name], tensor.dtype.numpy).reshape(shape)
        else:
            held = _blank(tensor.dtype, shape)
        pieces[tensor.name] = [held]
    return Batch(pieces, rows, rows)


def _blank(dtype: DType, shape: Shape) -> Array:
    if dtype is DType.BYTES:
        return np.full(shape, b"", dtype.numpy)
    return np.zeros(shape, dtype.numpy)

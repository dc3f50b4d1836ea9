"""Datatypes, shapes and tensor descriptions, for every layer."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from lanewise_client.datatypes import ML_DTYPES, NUMPY_TYPES

Shape = tuple[int, ...]

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
"""An array in host memory, of any shape and any datatype below."""

DYNAMIC = -1
"""A dimension of a TensorSpec that may have any size."""

NO_LIMIT = 2**31 - 1
"""The maximum of a dimension that has none: larger than any that a message could carry.

Nothing is allocated or executed by it; the wire has -1 for it.
"""


class DType(enum.Enum):
    """An element type, by its name on the wire.

    Attributes:
        numpy: the type of an array of these; `object` (of bytes) for BYTES.
    """

    numpy: np.dtype[np.generic]

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"
    FP8_E4M3FN = "FP8_E4M3FN"
    FP8_E5M2 = "FP8_E5M2"

    def __init__(self, datatype: str) -> None:
        foreign = ML_DTYPES.get(datatype)
        self.numpy = np.dtype(getattr(ml_dtypes, foreign)) if foreign else NUMPY_TYPES[datatype]


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A C-contiguous array that the device copies by itself; the host must not touch its memory.

    Attributes:
        address: of the first element, on the device.
        owner: the memory stays valid for as long as this is referenced.
    """

    address: int
    dtype: np.dtype[np.generic]
    shape: Shape
    owner: object = field(repr=False)

    @property
    def nbytes(self) -> int:
        return element_count(self.shape) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> DeviceArray:
        """View some rows; the slice has no step."""
        first, end, _ = rows.indices(self.shape[0])
        row_bytes = element_count(self.shape[1:]) * self.dtype.itemsize
        shape = (max(0, end - first), *self.shape[1:])
        return DeviceArray(self.address + first * row_bytes, self.dtype, shape, self.owner)


Piece = Array | DeviceArray
"""A part of a batch."""


def on_host(piece: Piece) -> Array:
    """Get a piece as an array.

    Raises:
        TypeError: it is for the device.
    """
    if isinstance(piece, DeviceArray):
        raise TypeError("this piece is for the device alone")
    return piece


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output as the model declares it; a DYNAMIC dimension may have any size.

    Attributes:
        rows_name: what the model calls its dynamic dimension 0; empty if it has no name.
    """

    name: str
    dtype: DType
    shape: Shape
    rows_name: str = field(default="", compare=False)

    @property
    def has_dynamic_rows(self) -> bool:
        """Whether dimension 0 exists and is dynamic."""
        return bool(self.shape) and self.shape[0] == DYNAMIC

    @property
    def dynamic_dims(self) -> tuple[int, ...]:
        return tuple(i for i, size in enumerate(self.shape) if size == DYNAMIC)


def merge_sizes(shape: Shape, observed: Iterable[Shape]) -> Shape:
    """Make those dimensions of `shape` dynamic in which the shapes observed differ.

    All have the rank of `shape`; without any, it stays as it is.
    """
    return tuple(
        size if len(set(seen)) <= 1 else DYNAMIC
        for size, *seen in zip(shape, *observed, strict=True)
    )


def element_count(shape: Shape) -> int:
    """The number of elements of an array of `shape`; 1 for a scalar, whose shape is ()."""
    return math.prod(shape)


def format_shape(shape: Shape) -> str:
    """`shape` as it is written in model.toml: [1, 3, 28, 28]; "any" where it has no limit."""
    return "[" + ", ".join("any" if size == NO_LIMIT else str(size) for size in shape) + "]"


def open_sizes(shape: Shape) -> Shape:
    """Get a maximum as the wire has it: DYNAMIC where there is no limit."""
    return tuple(DYNAMIC if size == NO_LIMIT else size for size in shape)

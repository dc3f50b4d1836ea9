"""Raw contents of a tensor: little-endian, row-major bytes, in messages and in shared memory."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np

from lanewise.model.tensors import Array, DType, Shape, element_count, format_shape
from lanewise_client.contents import join_elements, object_array, split_elements

_LENGTH_BYTES = 4


def array_from_raw(raw: bytes | memoryview, dtype: DType, shape: Shape) -> Array:
    """View `raw` as an array of `shape`: read-only, no copy. BYTES elements are copied.

    Args:
        raw: little-endian, row-major, a byte an item; BYTES elements each follow their 4-byte
            length.
        dtype: what the bytes are elements of.
        shape: no negative dimension.

    Raises:
        ValueError: the bytes do not make up the shape, or a BOOL is not 0 or 1; the message
            does not name the tensor.
    """
    if dtype is DType.BYTES:
        elements = _take_elements(bytes(raw), element_count(shape))
        return object_array(elements).reshape(shape)
    wanted = math.prod(shape) * dtype.numpy.itemsize
    if len(raw) != wanted:
        raise ValueError(
            f"{len(raw)} raw bytes, but shape {format_shape(shape)} of {dtype.value} takes {wanted}"
        )
    array: Array = np.ndarray(shape, dtype.numpy, raw)
    # Any other byte in a bool is undefined behaviour in the backends.
    if dtype is DType.BOOL and array.size and array.view(np.uint8).max() > 1:
        raise ValueError("a raw BOOL must be a byte 0 or 1")
    return array


def raw_from_array(array: Array, dtype: DType) -> bytes:
    """Copy an array of `dtype` into raw contents."""
    if dtype is DType.BYTES:
        return join_elements(array.ravel().tolist())
    return array.tobytes()


def view_raw(array: Array, dtype: DType) -> memoryview:
    """Get the raw contents of an array of `dtype`; a view of it where that is possible."""
    if dtype is DType.BYTES:
        return memoryview(raw_from_array(array, dtype))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _take_elements(raw: bytes, count: int) -> list[bytes]:
    if len(raw) < count * _LENGTH_BYTES:
        raise ValueError(
            f"{len(raw)} bytes are too few for the {count} BYTES elements that the shape takes; "
            "each begins with a 4-byte length"
        )
    elements = list(islice(split_elements(raw), count))
    if len(elements) < count:
        raise ValueError(f"{len(elements)} BYTES elements, but the shape takes {count}")
    left = len(raw) - sum(map(len, elements)) - count * _LENGTH_BYTES
    if left:
        raise ValueError(
            f"{left} bytes are left after the {count} BYTES elements that the shape takes"
        )
    return elements

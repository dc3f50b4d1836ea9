"""Raw contents of a tensor: little-endian, row-major bytes, in messages and in shared memory."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from lanewise.errors import MalformedContents
from lanewise.model.tensors import Array, DType, Shape, element_count, format_shape

_LENGTH = struct.Struct("<I")


def array_from_raw(raw: bytes | memoryview, dtype: DType, shape: Shape, title: str) -> Array:
    """View `raw` as an array of `shape`: read-only, no copy. BYTES elements are copied.

    Args:
        raw: little-endian, row-major, a byte an item; BYTES elements each follow their 4-byte
            length.
        dtype: what the bytes are elements of.
        shape: no negative dimension.
        title: begins the text of an error.

    Raises:
        MalformedContents: the bytes do not make up the shape, or a BOOL is not 0 or 1.
    """
    if dtype is DType.BYTES:
        return object_array(_split_elements(bytes(raw), element_count(shape), title), shape)
    wanted = element_count(shape) * dtype.numpy.itemsize
    if len(raw) != wanted:
        raise MalformedContents(
            f"{title}: {len(raw)} raw bytes, but shape {format_shape(shape)} "
            f"of {dtype.value} takes {wanted}"
        )
    array: Array = np.frombuffer(raw, dtype.numpy).reshape(shape)
    # Any other byte in a bool is undefined behaviour in the backends.
    if dtype is DType.BOOL and array.size and array.view(np.uint8).max() > 1:
        raise MalformedContents(f"{title}: a raw BOOL must be a byte 0 or 1")
    return array


def raw_from_array(array: Array, dtype: DType) -> bytes:
    """Copy an array of `dtype` into raw contents."""
    if dtype is not DType.BYTES:
        return array.tobytes()
    parts: list[bytes] = []
    elements: list[bytes] = array.ravel().tolist()
    for element in elements:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def view_raw(array: Array, dtype: DType) -> memoryview:
    """Get the raw contents of an array of `dtype`; a view of it where that is possible."""
    if dtype is DType.BYTES:
        return memoryview(raw_from_array(array, dtype))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def object_array(elements: Iterable[object], shape: Shape) -> Array:
    """Make an array of BYTES elements of `shape`; there are as many as it takes."""
    listed = list(elements)
    array = np.empty(len(listed), np.object_)
    array[:] = listed
    return array.reshape(shape)


def _split_elements(raw: bytes, count: int, title: str) -> list[bytes]:
    """Take length-prefixed elements apart; there must be `count` of them."""
    if len(raw) < count * _LENGTH.size:
        raise MalformedContents(
            f"{title}: {len(raw)} bytes are too few for the {count} BYTES elements that the "
            f"shape takes; each begins with a 4-byte length"
        )
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) < count:
        start = position + _LENGTH.size
        if start > len(raw):
            raise MalformedContents(
                f"{title}: BYTES element {len(elements)} begins with a 4-byte length, "
                f"but only {len(raw) - position} bytes are left"
            )
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise MalformedContents(
                f"{title}: BYTES element {len(elements)} claims {length} bytes, "
                f"but only {len(raw) - start} are left"
            )
        elements.append(raw[start:position])
    if len(elements) < count:
        raise MalformedContents(
            f"{title}: {len(elements)} BYTES elements, but the shape takes {count}"
        )
    if position < len(raw):
        raise MalformedContents(
            f"{title}: {len(raw) - position} bytes are left after the {count} BYTES elements "
            "that the shape takes"
        )
    return elements

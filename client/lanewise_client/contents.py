"""Contents of tensors, for client and server: BYTES to raw bytes and back, typed lists to arrays.

Errors are ValueErrors that tell what is wrong; callers add which tensor it is.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from lanewise_client.datatypes import NUMPY_TYPES, TYPED_LISTS, Array

_LENGTH = struct.Struct("<I")

# The elements of lists that narrower datatypes travel in, too.
_LIST_TYPES = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def join_elements(elements: Iterable[bytes]) -> bytes:
    """Make raw contents of BYTES: each element follows its 4-byte little-endian length."""
    parts: list[bytes] = []
    for element in elements:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def split_elements(raw: bytes) -> Iterator[bytes]:
    """Yield the BYTES elements of raw contents.

    Raises:
        ValueError: the contents end inside an element.
    """
    index = position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        if start > len(raw):
            raise ValueError(
                f"BYTES element {index} begins with a 4-byte length, "
                f"but only {len(raw) - position} bytes are left"
            )
        (length,) = _LENGTH.unpack_from(raw, position)
        position = start + length
        if position > len(raw):
            raise ValueError(
                f"BYTES element {index} claims {length} bytes, but only {len(raw) - start} are left"
            )
        yield raw[start:position]
        index += 1


def object_array(elements: Iterable[object]) -> Array:
    """Make an array of BYTES, in one dimension."""
    listed = list(elements)
    array = np.empty(len(listed), np.object_)
    array[:] = listed
    return array


def read_typed(contents: Any, datatype: str) -> Array:  # noqa: ANN401
    """Copy the list of `datatype`, which has one, into an array of one dimension.

    Args:
        contents: an InferTensorContents.
        datatype: a key of TYPED_LISTS.

    Raises:
        ValueError: an element is out of the range of `datatype`.
    """
    field, dtype = TYPED_LISTS[datatype], NUMPY_TYPES[datatype]
    elements: Collection[Any] = getattr(contents, field)
    if datatype == "BYTES":
        return object_array(elements)
    sent = np.fromiter(elements, _LIST_TYPES.get(field, dtype), len(elements))
    array = sent.astype(dtype, copy=False)
    if sent.dtype != dtype and (outside := sent[array != sent]).size:
        allowed = np.iinfo(dtype)
        raise ValueError(
            f"element {outside[0]} is not an {datatype}; allowed are {allowed.min} to {allowed.max}"
        )
    return array

"""Typed contents of one tensor: lists on the wire, an array in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from lanewise.errors import MalformedContents, Unsupported
from lanewise.model.raw_contents import object_array
from lanewise.model.tensors import Array, DType, Shape, element_count, format_shape
from lanewise_client.protos.inference_pb2 import InferTensorContents

# FP16, BF16 and the FP8 types have no list in the protocol.
_TYPED_LISTS: dict[DType, str] = {
    DType.BOOL: "bool_contents",
    DType.INT8: "int_contents",
    DType.INT16: "int_contents",
    DType.INT32: "int_contents",
    DType.INT64: "int64_contents",
    DType.UINT8: "uint_contents",
    DType.UINT16: "uint_contents",
    DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents",
    DType.FP32: "fp32_contents",
    DType.FP64: "fp64_contents",
    DType.BYTES: "bytes_contents",
}

# Types narrower than the elements of the list they travel in.
_WIRE_TYPES: dict[DType, type[np.integer]] = {
    DType.INT8: np.int32,
    DType.INT16: np.int32,
    DType.UINT8: np.uint32,
    DType.UINT16: np.uint32,
}


def has_typed_list(dtype: DType) -> bool:
    """Whether the protocol can carry `dtype` as typed contents."""
    return dtype in _TYPED_LISTS


def array_from_typed(
    contents: InferTensorContents, dtype: DType, shape: Shape, title: str
) -> Array:
    """Copy typed contents into a new array of `shape`.

    Args:
        contents: exactly the list of `dtype` filled, row-major.
        dtype: the elements of the new array.
        shape: no negative dimension.
        title: begins the text of an error.

    Raises:
        Unsupported: the protocol has no list for `dtype`.
        MalformedContents: another list is filled, the count does not make up the shape,
            or an element is out of the range of `dtype`.
    """
    list_name = _TYPED_LISTS.get(dtype)
    if list_name is None:
        raise Unsupported(f"{title}: {dtype.value} has no typed contents; send it raw")
    for field, _ in contents.ListFields():
        if field.name != list_name:
            raise MalformedContents(
                f"{title}: {field.name} is filled, but {dtype.value} belongs into {list_name}"
            )
    elements: Collection[bytes | float] = getattr(contents, list_name)
    if len(elements) != element_count(shape):
        raise MalformedContents(
            f"{title}: {len(elements)} elements in {list_name}, but shape "
            f"{format_shape(shape)} takes {element_count(shape)}"
        )
    if dtype is DType.BYTES:
        return object_array(elements, shape)
    wire = np.fromiter(elements, _WIRE_TYPES.get(dtype, dtype.numpy), len(elements))
    if dtype in _WIRE_TYPES:
        _check_range(wire, dtype, title)
    return wire.astype(dtype.numpy, copy=False).reshape(shape)


def fill_typed(contents: InferTensorContents, array: Array, dtype: DType) -> None:
    """Copy an array of `dtype`, for which `has_typed_list` holds, into typed contents."""
    getattr(contents, _TYPED_LISTS[dtype]).extend(array.ravel().tolist())


def _check_range(wire: np.ndarray[Any, np.dtype[Any]], dtype: DType, title: str) -> None:
    info = np.iinfo(dtype.numpy.name)
    outside = wire[(wire < info.min) | (wire > info.max)]
    if outside.size:
        raise MalformedContents(
            f"{title}: element {outside[0]} is not an {dtype.value}; "
            f"allowed are {info.min} to {info.max}"
        )

"""numpy arrays to KServe v2 tensors and back.

Arrays are sent as raw contents: little-endian, row-major; BYTES elements each follow their
4-byte length. Answers may have typed contents instead, as some servers send them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lanewise_client.contents import join_elements, object_array, read_typed, split_elements
from lanewise_client.datatypes import ML_DTYPES, NUMPY_TYPES, TYPED_LISTS, Array
from lanewise_client.errors import ServingError
from lanewise_client.protos import inference_pb2 as pb

# By dtype.name: it names the types of ml_dtypes without importing it. BYTES are recognised by
# the kind of their dtype.
_DATATYPES = {
    dtype.name: datatype for datatype, dtype in NUMPY_TYPES.items() if datatype != "BYTES"
} | {name: datatype for datatype, name in ML_DTYPES.items()}

# BF16 is widened afterwards, FP8 stays the bits it is.
_RAW_TYPES = NUMPY_TYPES | {
    "BF16": np.dtype("<u2"),
    "FP8_E4M3FN": np.dtype("u1"),
    "FP8_E5M2": np.dtype("u1"),
}

_TEXT_KINDS = "SUOT"  # bytes, str, objects, numpy's variable-width strings
_BYTE_SIZE = "shared_memory_byte_size"
_NO_ROOM: Mapping[str, memoryview] = {}


def datatype_of(name: str, array: Array) -> str:
    """Get the KServe datatype that `array` is sent as.

    Raises:
        TypeError: not a numpy array, or of a dtype that cannot be sent; the message says that
            it is the input `name`.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"input '{name}' is a {type(array).__name__}, not a numpy array; "
            "make one of it with np.asarray(value, dtype=...)"
        )
    if array.dtype.kind in _TEXT_KINDS:
        return "BYTES"
    datatype = _DATATYPES.get(array.dtype.name)
    if datatype is None:
        raise TypeError(
            f"input '{name}' has dtype {array.dtype}, but what can be sent is "
            f"{', '.join(_DATATYPES)}, and bytes or str; convert it with astype"
        )
    return datatype


def describe(name: str, array: Array) -> pb.ModelInferRequest.InferInputTensor:
    """Describe `array` as the input `name`, without its contents.

    Raises:
        TypeError: see `datatype_of`.
    """
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype_of(name, array), shape=array.shape
    )


def encode(name: str, array: Array) -> tuple[pb.ModelInferRequest.InferInputTensor, bytes]:
    """Describe `array` as the input `name`, and copy its elements into raw contents.

    Any byte order and memory layout is accepted. Elements of str are sent as UTF-8.

    Raises:
        TypeError: see `datatype_of`; or an element of an object array is neither bytes nor str.
    """
    tensor = describe(name, array)
    if tensor.datatype == "BYTES":
        return tensor, join_elements(_elements(name, array))
    return tensor, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def decode(
    response: pb.ModelInferResponse, room: Mapping[str, memoryview] = _NO_ROOM
) -> dict[str, Array]:
    """Get the outputs of an answer by name, whether sent as raw or as typed contents.

    Args:
        response: the answer.
        room: the shared memory that outputs were to be written to, by name.

    Returns:
        Arrays of the numpy type of each datatype, in the shapes the server gave, with three
        exceptions: BYTES gives an object array of bytes; BF16 is widened to float32, which
        holds every value exactly; FP8 gives its bits in uint8, to be viewed as
        `.view(ml_dtypes.float8_e4m3fn)`. Arrays may be read-only views of the message.

    Raises:
        ServingError: the answer contradicts itself; the server is at fault.
    """
    raw = response.raw_output_contents
    if not raw:
        return {
            output.name: _decode_raw(output, _written(output, room[output.name]))
            if output.name in room
            else _decode_typed(output)
            for output in response.outputs
        }
    if len(raw) != len(response.outputs):
        raise ServingError(
            f"the answer describes {len(response.outputs)} outputs but holds contents of "
            f"{len(raw)}; the server is at fault"
        )
    return {
        output.name: _decode_raw(
            output, _written(output, room[output.name]) if output.name in room else contents
        )
        for output, contents in zip(response.outputs, raw, strict=True)
    }


def _elements(name: str, array: Array) -> Iterator[bytes]:
    for index, element in enumerate(array.flat):
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise TypeError(
                f"input '{name}': element {index} is a {type(element).__name__}, but an object "
                "array can be sent only if every element is bytes or str"
            )
        yield data


def _written(output: pb.ModelInferResponse.InferOutputTensor, room: memoryview) -> memoryview:
    """Get the part of `room` that the server says it has written."""
    told = output.parameters
    nbytes = told[_BYTE_SIZE].int64_param if _BYTE_SIZE in told else -1
    if not 0 <= nbytes <= len(room):
        raise _malformed(output, f"{nbytes} bytes of shared memory, where {len(room)} were given")
    return room[:nbytes]


def _decode_raw(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes | memoryview) -> Array:
    if output.datatype == "BYTES":
        try:
            elements = object_array(split_elements(bytes(raw)))
        except ValueError as error:
            raise _malformed(output, f"an element that ends past its {len(raw)} bytes") from error
        return _shaped(output, elements)
    dtype = _RAW_TYPES.get(output.datatype)
    if dtype is None:
        raise _malformed(output, "a datatype this client does not know")
    if len(raw) % dtype.itemsize:
        raise _malformed(output, f"{len(raw)} bytes of raw contents")
    elements = np.frombuffer(raw, dtype)
    return _shaped(output, _widen(elements) if output.datatype == "BF16" else elements)


def _decode_typed(output: pb.ModelInferResponse.InferOutputTensor) -> Array:
    if output.datatype not in TYPED_LISTS:
        raise _malformed(output, "no raw contents, and typed contents cannot hold it")
    try:
        elements = read_typed(output.contents, output.datatype)
    except ValueError as error:
        raise _malformed(output, "elements out of its range") from error
    return _shaped(output, elements)


def _widen(bfloat16_bits: Array) -> Array:
    # A bfloat16 is the upper half of the float32 of the same value.
    return (bfloat16_bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _shaped(output: pb.ModelInferResponse.InferOutputTensor, elements: Array) -> Array:
    shape: Sequence[int] = tuple(output.shape)
    if any(size < 0 for size in shape) or math.prod(shape) != elements.size:
        raise _malformed(output, f"{elements.size} elements")
    try:
        return elements.reshape(shape)
    except ValueError as error:  # more dimensions, or beside a 0 larger ones, than numpy takes
        raise _malformed(output, f"a shape no array can have ({error})") from error


def _malformed(output: pb.ModelInferResponse.InferOutputTensor, what: str) -> ServingError:
    return ServingError(
        f"output '{output.name}' is declared as {output.datatype} {list(output.shape)} but came "
        f"as {what}; the server is at fault"
    )

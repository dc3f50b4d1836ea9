"""Reads from an ONNX file what its shapes are, what mixes rows, and where its weights lie.

ONNX Runtime and TensorRT tell neither the operators of a model nor whether the rank of a tensor
is known, so the few fields that do are read off the file itself, which is a protobuf message;
weights are skipped:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE = 1, 5, 11, 12, 13
_FUNCTION_NODE = 7
_NODE_OP_TYPE, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_I, _ATTRIBUTE_G, _ATTRIBUTE_GRAPHS = 1, 3, 6, 11
_GRAPH_SPARSE, _SPARSE_TENSORS = 15, (1, 2)
_ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (5, 10), (22, 23)
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM = 1, 2, 1
_DIM_VALUE, _DIM_PARAM = 1, 2
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_NAME_KEY, _DENOTATION_KEY = _DIM_PARAM << 3 | _LEN, 3 << 3 | _LEN
"""What a dimension begins with that has a name, or a note on its meaning that nobody reads."""

Dims = tuple[int | str, ...] | None
"""Sizes, or the names of dimensions that may have any, "" for one without; None: rank unknown."""


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """What a model declares.

    Attributes:
        inputs: dimensions by name, constants left out.
        outputs: dimensions by name.
        operators: their types, in the whole graph and in the functions it calls.
        trains: whether a normalisation takes its statistics from the batch at hand.
    """

    inputs: dict[str, Dims]
    outputs: dict[str, Dims]
    operators: frozenset[str]
    trains: bool


def read_graph(file: Path) -> OnnxGraph | None:
    """Read the ONNX model in `file`; None if it is none, which its backend says better."""
    try:
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return _read_model(memoryview(mapped))  # unmapped with the last view of it
    except (OSError, ValueError, IndexError):
        return None


def without_false_names(file: Path) -> bytes | None:
    """Get the ONNX model in `file` with those dimensions nameless whose names are no identifiers.

    Exporters call several dimensions `?` or `-1` that have different sizes; TensorRT takes equal
    names for equal sizes. None if there are none.
    """
    graph = read_graph(file)
    declared = (*graph.inputs.values(), *graph.outputs.values()) if graph else ()
    if not any(
        isinstance(d, str) and d and not d.isidentifier() for ds in declared for d in ds or ()
    ):
        return None
    data = bytearray(file.read_bytes())
    for number, content in _messages(memoryview(data)):
        if number == _MODEL_GRAPH:
            for part, value in _messages(content):
                if part in (_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE):
                    for dim in _shape(value) or ():
                        # In place, so that no length of a message around it changes.
                        if dim[:1] == bytes([_NAME_KEY]) and not str(_read_dim(dim)).isidentifier():
                            dim[0] = _DENOTATION_KEY
    return bytes(data)


def external_files(model: bytes) -> tuple[str, ...]:
    """List the files that an ONNX model, as it is on disk, names for the data of its tensors.

    None is listed if it is no model, which its backend says better.
    """
    found: dict[str, None] = {}
    try:
        for number, content in _messages(memoryview(model)):
            if number == _MODEL_GRAPH:
                found.update(dict.fromkeys(_locations(content, _GRAPH_NODE)))
            elif number == _MODEL_FUNCTIONS:
                found.update(dict.fromkeys(_locations(content, _FUNCTION_NODE)))
    except (ValueError, IndexError):
        return ()
    return tuple(found)


def _locations(message: memoryview, node_field: int) -> Iterator[str]:
    """Iterate over the files of the tensors in a graph or function, inner graphs included."""
    is_graph = node_field == _GRAPH_NODE
    for number, content in _messages(message):
        if number == node_field:
            for field, attribute in _messages(content):
                if field == _NODE_ATTRIBUTE:
                    yield from _locations_in_attribute(attribute)
        elif is_graph and number == _GRAPH_INITIALIZER:
            yield from _location(content)
        elif is_graph and number == _GRAPH_SPARSE:
            yield from _locations_in_sparse(content)


def _locations_in_attribute(attribute: memoryview) -> Iterator[str]:
    for part, value in _messages(attribute):
        if part in (_ATTRIBUTE_G, _ATTRIBUTE_GRAPHS):
            yield from _locations(value, _GRAPH_NODE)
        elif part in _ATTRIBUTE_TENSORS:
            yield from _location(value)
        elif part in _ATTRIBUTE_SPARSE:
            yield from _locations_in_sparse(value)


def _locations_in_sparse(sparse: memoryview) -> Iterator[str]:
    for part, tensor in _messages(sparse):
        if part in _SPARSE_TENSORS:
            yield from _location(tensor)


def _location(tensor: memoryview) -> Iterator[str]:
    for number, content in _messages(tensor):
        if number == _TENSOR_EXTERNAL:
            entry = {field: bytes(value) for field, value in _messages(content)}
            if entry.get(_ENTRY_KEY) == b"location":
                yield entry.get(_ENTRY_VALUE, b"").decode(errors="surrogateescape")


def _read_model(message: memoryview) -> OnnxGraph:
    inputs: dict[str, Dims] = {}
    outputs: dict[str, Dims] = {}
    constants: set[str] = set()
    operators: set[str] = set()
    for number, value in _fields(message):
        if number == _MODEL_GRAPH:
            for part, content in _messages(value):
                if part == _GRAPH_INPUT:
                    inputs.update([_read_value(content)])
                elif part == _GRAPH_OUTPUT:
                    outputs.update([_read_value(content)])
                elif part == _GRAPH_INITIALIZER:
                    constants.add(_text(content, _TENSOR_NAME))
            operators.update(_operators(value, _GRAPH_NODE))
        elif number == _MODEL_FUNCTIONS:
            operators.update(_operators(value, _FUNCTION_NODE))
    trains = _TRAINING in operators
    named = {name: dims for name, dims in inputs.items() if name not in constants}
    return OnnxGraph(named, outputs, frozenset(operators - {_TRAINING}), trains)


_TRAINING = "training_mode=1"


def _operators(message: int | memoryview, node_field: int) -> Iterator[str]:
    """Iterate over the types of the nodes in a graph or function, inner graphs included."""
    for number, node in _messages(message):
        if number != node_field:
            continue
        operator = _text(node, _NODE_OP_TYPE)
        yield operator
        for field, attribute in _messages(node):
            if field != _NODE_ATTRIBUTE:
                continue
            for part, value in _fields(attribute):
                if part in (_ATTRIBUTE_G, _ATTRIBUTE_GRAPHS):
                    yield from _operators(value, _GRAPH_NODE)
                elif part == _ATTRIBUTE_I and value and _is_training(operator, attribute):
                    yield _TRAINING


def _is_training(operator: str, attribute: memoryview) -> bool:
    name = _text(attribute, _ATTRIBUTE_NAME)
    return operator == "BatchNormalization" and name == "training_mode"


def _read_value(message: memoryview) -> tuple[str, Dims]:
    shape = _shape(message)
    return _text(message, _VALUE_NAME), None if shape is None else tuple(map(_read_dim, shape))


def _shape(message: memoryview) -> list[memoryview] | None:
    """Get the dimensions of an input or output; None if it has no shape."""
    for step in (_VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE):
        found = [value for number, value in _messages(message) if number == step]
        if not found:
            return None
        message = found[-1]
    return [dim for number, dim in _messages(message) if number == _SHAPE_DIM]


def _read_dim(message: memoryview) -> int | str:
    dim: int | str = ""
    for number, value in _fields(message):
        if number == _DIM_VALUE and isinstance(value, int) and value > 0:
            dim = value  # 0 and -1, by some exporters, are any size
        elif number == _DIM_PARAM and isinstance(value, memoryview):
            dim = bytes(value).decode()
    return dim


def _text(message: memoryview, field: int) -> str:
    found = [value for number, value in _messages(message) if number == field]
    return bytes(found[-1]).decode() if found else ""


def _messages(message: int | memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _fields(message: int | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Iterate over numbers and values; what has a fixed size is left out.

    Raises:
        ValueError, IndexError: it is no message.
    """
    if isinstance(message, int):
        raise ValueError("a number is no message")  # noqa: TRY004 - the file is wrong, no caller
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value if value < 1 << 63 else value - (1 << 64)
        elif kind == _LEN:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise ValueError("the message is cut off")
            yield number, message[position : position + size]
            position += size
        elif kind in (_I64, _I32):
            position += 8 if kind == _I64 else 4
        else:
            raise ValueError(f"{kind} is no wire type")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")

"""Inference messages to arrays and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lanewise.errors import (
    DTypeMismatch,
    InvalidRegion,
    InvalidRequest,
    MalformedContents,
    ShapeMismatch,
    UnknownTensor,
    Unsupported,
)
from lanewise.model.raw_contents import array_from_raw, raw_from_array
from lanewise.model.regions import NO_PLACEMENTS, RegionSlice, RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, DType, Shape, TensorSpec, element_count, format_shape
from lanewise.rpc.inference.parameters import refuse_output_parameters
from lanewise.rpc.inference.region_parameters import REGION, read_slice, write_slice
from lanewise.scheduler.results import InferResult
from lanewise_client.contents import read_typed
from lanewise_client.datatypes import TYPED_LISTS
from lanewise_client.protos.inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)

MAX_RANK = 32
"""The most dimensions an array of numpy 1 can have."""

# Far above what a message holds, far below where sizes in bytes overflow 64 bits. Without
# it a few bytes of shape could ask numpy, or Python's integers, for the impossible.
_MAX_ELEMENTS = 2**48

_DTYPES = {dtype.value: dtype for dtype in DType}


@dataclass(frozen=True, slots=True)
class OutputSelection:
    """The outputs a request wants, in the order of the response, and how they travel.

    Attributes:
        raw: whether as raw contents, or else as typed.
        placements: those that go to shared memory instead, by name.
    """

    tensors: tuple[TensorSpec, ...]
    raw: bool
    placements: Mapping[str, RegionSlice] = field(default_factory=dict)


def decode_inputs(request: ModelInferRequest, spec: ModelSpec) -> dict[str, Array | RegionTensor]:
    """Get an array, or what names one in shared memory, for every input of the model.

    Shapes are checked against the contents, not against the model: that is routing's task.

    Returns:
        By input name, host memory, datatypes of the model. Raw contents become read-only
        views; arrays of BYTES are arrays of `bytes` objects. Raw contents come in the order of
        the inputs that are not in shared memory.

    Raises:
        UnknownTensor: an input the model lacks, or one of its inputs is missing.
        DTypeMismatch: a datatype other than the model's.
        ShapeMismatch: a shape no array can have.
        MalformedContents: contents that do not make up the shape.
        InvalidRequest: an input is sent twice.
        InvalidRegion: a slice of shared memory of another size than the tensor has.
        Unsupported: typed contents for a datatype without typed list.
    """
    raw_contents = request.raw_input_contents
    if raw_contents:
        _check_raw_entries(request, spec)
    next_raw = iter(raw_contents)
    known = {tensor.name: tensor for tensor in spec.inputs}
    arrays: dict[str, Array | RegionTensor] = {}
    for sent in request.inputs:
        title = f"model '{spec.name}', input '{sent.name}'"
        tensor = known.get(sent.name)
        if tensor is None:
            raise UnknownTensor(f"{title}: no such input; the model has {_listed(spec.inputs)}")
        if sent.name in arrays:
            raise InvalidRequest(f"{title}: sent twice; send each input once")
        where = read_slice(sent.parameters, title) if sent.parameters else None
        _check_dtype(sent.datatype, tensor.dtype, title)
        shape = tuple(sent.shape)
        _check_shape(shape, title)
        if where is not None:
            if sent.contents.ListFields():
                raise MalformedContents(
                    f"{title}: typed contents beside shared memory; send one of them"
                )
            arrays[sent.name] = _lying_at(where, tensor.dtype, shape, title)
        elif raw_contents:
            try:
                arrays[sent.name] = array_from_raw(next(next_raw), tensor.dtype, shape)
            except ValueError as error:
                raise MalformedContents(f"{title}: {error}") from error
        else:
            arrays[sent.name] = _array_from_typed(sent.contents, tensor.dtype.value, shape, title)
    if len(arrays) != len(known):
        missing = [tensor for tensor in spec.inputs if tensor.name not in arrays]
        raise UnknownTensor(
            f"model '{spec.name}': {_listed(missing)} missing among the inputs; "
            f"send all of {_listed(spec.inputs)}"
        )
    return arrays


def select_outputs(request: ModelInferRequest, spec: ModelSpec, *, raw: bool) -> OutputSelection:
    """Get the outputs a request wants, before it is run; all, in model order, if it names none.

    Args:
        request: only its requested outputs are read.
        spec: the model it is for.
        raw: whether outputs shall travel as raw contents, or else as typed.

    Raises:
        UnknownTensor: an output the model lacks.
        InvalidRequest: an output is asked for twice.
        Unsupported: classification, or a datatype without typed list.
    """
    if not request.outputs:
        tensors, placements = spec.outputs, NO_PLACEMENTS
    else:
        tensors, placements = _named_outputs(request, spec)
    if not raw:
        for tensor in tensors:
            if tensor.dtype.value not in TYPED_LISTS and tensor.name not in placements:
                raise Unsupported(
                    f"model '{spec.name}', output '{tensor.name}': {tensor.dtype.value} has no "
                    "typed contents; leave out the request parameter 'binary_data_output'"
                )
    return OutputSelection(tensors, raw, placements)


def encode_response(
    request_id: str, spec: ModelSpec, selection: OutputSelection, result: InferResult
) -> ModelInferResponse:
    """Build the response of a request that was run.

    Its parameters tell how: `profile` (names in launch order, joined by commas), and over
    all its launches `padded_rows`, `batch_rows` and their number, `launches`;
    `cold` is there if it had to wait for a shape to be compiled for. Among raw contents, an
    output in shared memory has an empty entry, as in Triton's responses: clients count on it.
    """
    response = ModelInferResponse(model_name=spec.name, model_version=spec.version, id=request_id)
    for tensor in selection.tensors:
        placed = result.placed.get(tensor.name)
        found = result.outputs[tensor.name] if placed is None else placed
        output = response.outputs.add(
            name=tensor.name, datatype=tensor.dtype.value, shape=found.shape
        )
        if isinstance(found, RegionTensor):
            write_slice(output.parameters, found.where)
            raw = b""
        elif selection.raw:
            raw = raw_from_array(found, tensor.dtype)
        else:
            elements = getattr(output.contents, TYPED_LISTS[tensor.dtype.value])
            elements.extend(found.ravel().tolist())
        if selection.raw:
            response.raw_output_contents.append(raw)
    launches = result.launches
    parameters = response.parameters
    parameters["profile"].string_param = profile_names(result)
    parameters["padded_rows"].int64_param = sum(launch.padded_rows for launch in launches)
    parameters["batch_rows"].int64_param = sum(launch.batch_rows for launch in launches)
    parameters["launches"].int64_param = len(launches)
    if result.was_cold:
        parameters["cold"].bool_param = True
    return response


def profile_names(result: InferResult) -> str:
    """Name the profiles that served a request: each once, in launch order, joined by commas."""
    return ",".join(dict.fromkeys(launch.profile.name for launch in result.launches))


def _named_outputs(
    request: ModelInferRequest, spec: ModelSpec
) -> tuple[tuple[TensorSpec, ...], Mapping[str, RegionSlice]]:
    """Get the outputs that are asked for, and which of them go to shared memory."""
    placements = {}
    known = {tensor.name: tensor for tensor in spec.outputs}
    chosen: dict[str, TensorSpec] = {}
    for wanted in request.outputs:
        title = f"model '{spec.name}', output '{wanted.name}'"
        if wanted.name not in known:
            raise UnknownTensor(f"{title}: no such output; the model has {_listed(spec.outputs)}")
        if wanted.name in chosen:
            raise InvalidRequest(f"{title}: requested twice; name each output once")
        if wanted.parameters:
            refuse_output_parameters(wanted.parameters, title)
            where = read_slice(wanted.parameters, title)
            if where is not None:
                placements[wanted.name] = where
        chosen[wanted.name] = known[wanted.name]
    return tuple(chosen.values()), placements


def _lying_at(where: RegionSlice, dtype: DType, shape: Shape, title: str) -> RegionTensor:
    """Get an input in shared memory, whose slice is as long as its contents must be."""
    if dtype is not DType.BYTES:
        wanted = element_count(shape) * dtype.numpy.itemsize
        if where.byte_size != wanted:
            raise InvalidRegion(
                f"{title}: {where.byte_size} bytes of shared memory, but shape "
                f"{format_shape(shape)} of {dtype.value} takes {wanted}"
            )
    return RegionTensor(where, dtype, shape)


def _array_from_typed(
    contents: InferTensorContents, datatype: str, shape: Shape, title: str
) -> Array:
    """Copy typed contents, exactly the list of `datatype` filled, into a new array of `shape`."""
    wanted = TYPED_LISTS.get(datatype)
    if wanted is None:
        raise Unsupported(f"{title}: {datatype} has no typed contents; send it raw")
    for filled, _ in contents.ListFields():
        if filled.name != wanted:
            raise MalformedContents(
                f"{title}: {filled.name} is filled, but {datatype} belongs into {wanted}"
            )
    try:
        elements = read_typed(contents, datatype)
    except ValueError as error:
        raise MalformedContents(f"{title}: {error}") from error
    if elements.size != element_count(shape):
        raise MalformedContents(
            f"{title}: {elements.size} elements in {wanted}, but shape "
            f"{format_shape(shape)} takes {element_count(shape)}"
        )
    return elements.reshape(shape)


def _check_raw_entries(request: ModelInferRequest, spec: ModelSpec) -> None:
    """Refuse typed contents beside raw ones, and raw ones that belong to no input.

    Inputs in shared memory have no entry.
    """
    for sent in request.inputs:
        if sent.HasField("contents") and sent.contents.ListFields():
            raise MalformedContents(
                f"model '{spec.name}', input '{sent.name}': typed contents beside "
                "raw_input_contents; send all inputs raw or all typed"
            )
    wanted = sum(REGION not in sent.parameters for sent in request.inputs)
    if len(request.raw_input_contents) != wanted:
        raise MalformedContents(
            f"model '{spec.name}': {len(request.raw_input_contents)} entries in "
            f"raw_input_contents for {wanted} inputs that are not in shared memory; "
            "send one for each"
        )


def _check_dtype(sent: str, wanted: DType, title: str) -> None:
    if sent == wanted.value:
        return
    if sent not in _DTYPES:
        raise DTypeMismatch(
            f"{title}: unknown datatype '{sent}'; the model takes {wanted.value} here"
        )
    raise DTypeMismatch(f"{title}: datatype {sent}, but the model takes {wanted.value}")


def _check_shape(shape: Shape, title: str) -> None:
    """Refuse shapes that no array can have, without computing with them first."""
    if len(shape) > MAX_RANK:
        raise ShapeMismatch(f"{title}: {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    if min(shape, default=0) < 0:
        raise ShapeMismatch(
            f"{title}: shape {list(shape)} has a negative dimension; send the actual sizes"
        )
    # A zero does not make the rest harmless: numpy multiplies the other dimensions.
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise ShapeMismatch(f"{title}: shape {list(shape)} is larger than any message")


def _listed(tensors: Iterable[TensorSpec]) -> str:
    return ", ".join(f"'{tensor.name}'" for tensor in tensors)

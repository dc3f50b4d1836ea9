"""Inference messages to arrays and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lanewise.errors import (
    DTypeMismatch,
    InvalidRequest,
    MalformedContents,
    ShapeMismatch,
    UnknownTensor,
    Unsupported,
)
from lanewise.models import ModelSpec
from lanewise.rpc.contents import (
    array_from_raw,
    array_from_typed,
    fill_typed,
    has_typed_list,
    raw_from_array,
)
from lanewise.rpc.parameters import refuse_output_parameters, refuse_tensor_parameters
from lanewise.scheduler.results import InferResult
from lanewise.tensors import Array, DType, Shape, TensorSpec
from lanewise_client.protos.inference_pb2 import ModelInferRequest, ModelInferResponse

MAX_RANK = 32
"""The most dimensions an array of numpy 1 can have."""

# Far above what a message holds, far below where sizes in bytes overflow 64 bits. Without
# it a few bytes of shape could ask numpy, or Python's integers, for the impossible.
_MAX_ELEMENTS = 2**48

_DTYPES = {dtype.value: dtype for dtype in DType}


@dataclass(frozen=True, slots=True)
class OutputSelection:
    """The outputs a request wants, in the order of the response, and how they travel."""

    tensors: tuple[TensorSpec, ...]
    raw: bool


def decode_inputs(request: ModelInferRequest, spec: ModelSpec) -> dict[str, Array]:
    """Get an array for every input of the model.

    Shapes are checked against the contents, not against the model: that is routing's task.

    Returns:
        By input name, host memory, datatypes of the model. Raw contents become read-only
        views; arrays of BYTES are arrays of `bytes` objects.

    Raises:
        UnknownTensor: an input the model lacks, or one of its inputs is missing.
        DTypeMismatch: a datatype other than the model's.
        ShapeMismatch: a shape no array can have.
        MalformedContents: contents that do not make up the shape.
        InvalidRequest: an input is sent twice.
        Unsupported: shared memory; typed contents for a datatype without typed list.
    """
    raw_contents = request.raw_input_contents
    if raw_contents:
        _check_raw_entries(request, spec)
    known = {tensor.name: tensor for tensor in spec.inputs}
    arrays: dict[str, Array] = {}
    for position, sent in enumerate(request.inputs):
        title = f"model '{spec.name}', input '{sent.name}'"
        tensor = known.get(sent.name)
        if tensor is None:
            raise UnknownTensor(f"{title}: no such input; the model has {_listed(spec.inputs)}")
        if sent.name in arrays:
            raise InvalidRequest(f"{title}: sent twice; send each input once")
        if sent.parameters:
            refuse_tensor_parameters(sent.parameters, title)
        _check_dtype(sent.datatype, tensor.dtype, title)
        shape = tuple(sent.shape)
        _check_shape(shape, title)
        arrays[sent.name] = (
            array_from_raw(raw_contents[position], tensor.dtype, shape, title)
            if raw_contents
            else array_from_typed(sent.contents, tensor.dtype, shape, title)
        )
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
        Unsupported: classification, shared memory, or a datatype without typed list.
    """
    tensors = _named_outputs(request, spec) if request.outputs else spec.outputs
    if not raw:
        for tensor in tensors:
            if not has_typed_list(tensor.dtype):
                raise Unsupported(
                    f"model '{spec.name}', output '{tensor.name}': {tensor.dtype.value} has no "
                    "typed contents; leave out the request parameter 'binary_data_output'"
                )
    return OutputSelection(tensors, raw)


def encode_response(
    request_id: str, spec: ModelSpec, selection: OutputSelection, result: InferResult
) -> ModelInferResponse:
    """Build the response of a request that was run.

    Its parameters tell how: `profile` (names in launch order, joined by commas), and over
    all its launches `padded_rows`, `batch_rows` and their number, `launches`;
    `cold` is there if it had to wait for a shape to be compiled for.
    """
    response = ModelInferResponse(model_name=spec.name, model_version=spec.version, id=request_id)
    for tensor in selection.tensors:
        array = result.outputs[tensor.name]
        output = response.outputs.add(
            name=tensor.name, datatype=tensor.dtype.value, shape=array.shape
        )
        if selection.raw:
            response.raw_output_contents.append(raw_from_array(array, tensor.dtype))
        else:
            fill_typed(output.contents, array, tensor.dtype)
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


def _named_outputs(request: ModelInferRequest, spec: ModelSpec) -> tuple[TensorSpec, ...]:
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
        chosen[wanted.name] = known[wanted.name]
    return tuple(chosen.values())


def _check_raw_entries(request: ModelInferRequest, spec: ModelSpec) -> None:
    """Refuse typed contents beside raw ones, and raw ones that belong to no input."""
    for sent in request.inputs:
        if sent.HasField("contents") and sent.contents.ListFields():
            raise MalformedContents(
                f"model '{spec.name}', input '{sent.name}': typed contents beside "
                "raw_input_contents; send all inputs raw or all typed"
            )
    if len(request.raw_input_contents) != len(request.inputs):
        raise MalformedContents(
            f"model '{spec.name}': {len(request.raw_input_contents)} entries in "
            f"raw_input_contents for {len(request.inputs)} inputs; send one for each"
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

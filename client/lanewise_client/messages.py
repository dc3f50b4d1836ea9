"""Inference requests to protobuf messages, and responses to results."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import grpc

from lanewise_client import codec
from lanewise_client.datatypes import Array
from lanewise_client.errors import REASON, MessageTooLarge, ServingError, from_stream
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.results import InferResult

US_PER_S = 1_000_000

# protobuf serialises no message of 2 GiB or more.
_MAX_MESSAGE_BYTES = 2**31 - 1


Outputs = Sequence[str] | Mapping[str, Array | None] | None
"""The outputs wanted: None for all; a mapping gives the array each is to be written to."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some bytes of a registered shared-memory region."""

    region: str
    offset: int
    nbytes: int


_NO_SLICES: Mapping[str, Slice] = {}
_NO_ROOM: Mapping[str, memoryview] = {}


@dataclass(frozen=True, eq=False, slots=True)
class InferRequest:
    """One request of a stream.

    Attributes:
        inputs: by name; only read.
        outputs: names of the outputs wanted; None: all. A mapping to arrays in shared memory
            is for `Client.infer` alone.
        profile: name or index of the only profile allowed; None: any.
        request_id: returned in the result or the error.
        priority: 1 for the most important; None, 0, or one the model does not have: the
            model's default.
        latency_target_s: seconds it should take if nothing sets a deadline; None: the
            model's. It orders waiting requests; none is refused for it.
        timeout_s: seconds it may take from its arrival at the server, within the deadline of
            its stream; None: limited by that alone.
    """

    inputs: Mapping[str, Array]
    outputs: Outputs = None
    profile: str | int | None = None
    request_id: str = ""
    priority: int | None = None
    latency_target_s: float | None = None
    timeout_s: float | None = None


def build_infer(
    model: str,
    version: str,
    request: InferRequest,
    inputs_at: Mapping[str, Slice] = _NO_SLICES,
    outputs_at: Mapping[str, Slice] = _NO_SLICES,
) -> pb.ModelInferRequest:
    """Build the message of `request`; the arrays are copied into it.

    Args:
        model: its name.
        version: of the model; empty for the default.
        request: only read.
        inputs_at: inputs in shared memory, which are not copied, by name.
        outputs_at: outputs that are to be written there, by name.

    Raises:
        TypeError: an input cannot be sent, see `codec.encode`, or the priority is no integer.
        ValueError: an empty list of outputs, a negative priority, or a latency target that is
            not positive.
        MessageTooLarge: the inputs are more than one message can carry.
    """
    _require_sendable({n: array for n, array in request.inputs.items() if n not in inputs_at})
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=request.request_id)
    if request.profile is not None:
        message.parameters["profile"].CopyFrom(_profile_parameter(request.profile))
    _add_urgency(message, request)
    for name, array in request.inputs.items():
        if name in inputs_at:
            tensor = codec.describe(name, array)
            _add_slice(tensor.parameters, inputs_at[name])
        else:
            tensor, raw = codec.encode(name, array)
            message.raw_input_contents.append(raw)
        message.inputs.append(tensor)
    if request.outputs is not None:
        if isinstance(request.outputs, str) or not request.outputs:
            raise ValueError(
                f"outputs is {request.outputs!r}, but must be a list of one or more names; "
                "leave it out to get every output"
            )
        for name in request.outputs:
            wanted = message.outputs.add(name=name)
            if name in outputs_at:
                _add_slice(wanted.parameters, outputs_at[name])
    return message


def parse_infer(
    response: pb.ModelInferResponse, room: Mapping[str, memoryview] = _NO_ROOM
) -> InferResult:
    """Read the answer to one request.

    Args:
        response: the answer.
        room: where outputs were to be written, by name.

    Raises:
        ServingError: it contradicts itself, see `codec.decode`.
    """
    told = response.parameters
    return InferResult(
        model=response.model_name,
        model_version=response.model_version,
        request_id=response.id,
        outputs=codec.decode(response, room),
        profile=told["profile"].string_param if "profile" in told else "",
        padded_rows=_count(told, "padded_rows"),
        batch_rows=_count(told, "batch_rows"),
        launches=_count(told, "launches"),
    )


def parse_stream(response: pb.ModelStreamInferResponse) -> InferResult | ServingError:
    """Read the answer to one request of a stream; a failure is returned, not raised."""
    answer = response.infer_response
    if not response.error_message:
        return parse_infer(answer)
    told = answer.parameters
    reason = told[REASON].string_param if REASON in told else ""
    return from_stream(response.error_message, reason, answer.id)


def _require_sendable(inputs: Mapping[str, Array]) -> None:
    # Summed before anything is copied. BYTES are left to protobuf: their size is known only
    # once they are encoded.
    total = sum(
        array.nbytes for name, array in inputs.items() if codec.datatype_of(name, array) != "BYTES"
    )
    if total > _MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the inputs take {total} bytes, but one message carries at most "
            f"{_MAX_MESSAGE_BYTES}; send fewer rows at a time",
            code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        )


def _add_slice(parameters: MutableMapping[str, pb.InferParameter], where: Slice) -> None:
    parameters["shared_memory_region"].string_param = where.region
    parameters["shared_memory_byte_size"].int64_param = where.nbytes
    if where.offset:
        parameters["shared_memory_offset"].int64_param = where.offset


def _profile_parameter(profile: str | int) -> pb.InferParameter:
    if isinstance(profile, str):
        return pb.InferParameter(string_param=profile)
    return pb.InferParameter(int64_param=profile)


def _add_urgency(message: pb.ModelInferRequest, request: InferRequest) -> None:
    priority = _checked_priority(request.priority)
    target_s, timeout_s = request.latency_target_s, request.timeout_s
    if target_s is not None and not target_s > 0:  # so that NaN is refused, too
        raise ValueError(f"latency_target_s is {target_s}, but must be a positive number")
    if priority:
        message.parameters["priority"].uint64_param = priority
    if target_s is not None:
        message.parameters["latency_target_us"].int64_param = _microseconds(target_s)
    if timeout_s is not None:
        message.parameters["timeout"].int64_param = _microseconds(timeout_s)


def _checked_priority(priority: int | None) -> int:
    # 0 stands for none.
    if priority is None:
        return 0
    try:
        number = operator.index(priority)  # takes NumPy's integers, too
    except TypeError:
        raise TypeError(f"priority is {priority!r}, but must be an integer") from None
    if number < 0:
        raise ValueError(f"priority is {number}, but 1 is the most important")
    return number


def _microseconds(seconds: float) -> int:
    # At least 1: 0 would stand for no limit where no time is left of a budget.
    return max(1, math.ceil(seconds * US_PER_S))


def _count(told: Mapping[str, pb.InferParameter], key: str) -> int:
    if key not in told:
        return 0
    parameter = told[key]
    return parameter.int64_param or parameter.uint64_param

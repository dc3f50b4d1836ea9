"""Request and tensor parameters that this server knows, and what each of them means.

Others are ignored, as the protocol demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lanewise.errors import InvalidRegion, InvalidRequest, Unsupported
from lanewise.model.regions import RegionSlice
from lanewise_client.protos.inference_pb2 import InferParameter

NS_PER_US = 1_000

REGION = "shared_memory_region"
OFFSET = "shared_memory_offset"
BYTE_SIZE = "shared_memory_byte_size"

FINAL_RESPONSE = "triton_final_response"
"""The parameter that marks the last response to a request of a stream."""

_MARKS_FINAL = "triton_enable_empty_final_response"

_INTEGER = ("int64_param", "uint64_param")
_TEXT = ("string_param",)
_BOOL = ("bool_param",)

_Parameters = Mapping[str, InferParameter]


@dataclass(frozen=True, slots=True)
class RequestParameters:
    """The parameters of a request.

    Attributes:
        profile: name or index of the only profile allowed; None: any.
        timeout_ns: from the arrival of the request; None: limited by the call's deadline alone.
        priority: 1 for the most important; 0: the model's default.
        target_ns: how long the request should take if it has no deadline; None: the model's.
        raw_outputs: whether outputs travel as raw contents, or else as typed ones.
    """

    profile: str | int | None = None
    timeout_ns: int | None = None
    priority: int = 0
    target_ns: int | None = None
    raw_outputs: bool = True


_DEFAULTS = RequestParameters()


def read_parameters(parameters: _Parameters) -> RequestParameters:
    """Read the parameters of a request.

    Raises:
        InvalidRequest: a value of the wrong type or out of range; a reserved name.
        Unsupported: sequences.
    """
    if not parameters:
        return _DEFAULTS
    read: dict[str, Any] = {}
    for name, parameter in parameters.items():
        match name:
            case "profile":
                read["profile"] = _value(name, parameter, _TEXT + _INTEGER)
            case "priority":  # 0 stands for the model's default, as in Triton
                read["priority"] = _non_negative(name, parameter)
            case "timeout":  # 0 stands for none, as in Triton
                read["timeout_ns"] = _non_negative(name, parameter) * NS_PER_US or None
            case "latency_target_us":
                read["target_ns"] = _non_negative(name, parameter) * NS_PER_US or None
            case "binary_data_output":
                read["raw_outputs"] = bool(_value(name, parameter, _BOOL))
            case "sequence_id" | "sequence_start" | "sequence_end":
                allowed = _INTEGER + _TEXT if name == "sequence_id" else _BOOL
                if _value(name, parameter, allowed):  # 0, "" and false stand for no sequence
                    raise Unsupported(
                        f"request parameter '{name}': sequences are not offered; send requests "
                        "that do not depend on each other"
                    )
            case _ if name == _MARKS_FINAL:
                _value(name, parameter, _BOOL)
            case _ if name.startswith("triton_"):
                raise InvalidRequest(
                    f"request parameter '{name}': names with 'triton_' are reserved, and "
                    f"'{_MARKS_FINAL}' is the only one known"
                )
    return RequestParameters(**read)


def refuse_output_parameters(parameters: _Parameters, title: str) -> None:
    """Check the parameters of a requested output.

    Raises:
        Unsupported: classification.
    """
    if "classification" in parameters:
        raise Unsupported(
            f"{title}: classification is not offered; leave out the parameter and take the "
            "largest elements of the output"
        )


def _value(name: str, parameter: InferParameter, allowed: tuple[str, ...]) -> Any:  # noqa: ANN401
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in allowed:
        raise InvalidRequest(
            f"request parameter '{name}': {kind or 'no value'}, but it takes {' or '.join(allowed)}"
        )
    return getattr(parameter, kind)


def _non_negative(name: str, parameter: InferParameter) -> int:
    value: int = _value(name, parameter, _INTEGER)
    if value < 0:
        raise InvalidRequest(f"request parameter '{name}': {value}, but it cannot be negative")
    return value


def read_slice(parameters: _Parameters, title: str) -> RegionSlice | None:
    """Get the slice of shared memory that the parameters of a tensor name; None if they name none.

    Args:
        parameters: of an input or of a requested output.
        title: begins the text of an error.

    Raises:
        InvalidRequest: a parameter is of the wrong type, or missing beside another.
        InvalidRegion: an offset or a size below 0.
    """
    if REGION not in parameters:
        for name in (OFFSET, BYTE_SIZE):
            if name in parameters:
                raise InvalidRequest(f"{title}: '{name}' without '{REGION}'; name the region, too")
        return None
    kind = parameters[REGION].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidRequest(f"{title}: '{REGION}' is {kind}, but it takes string_param")
    if BYTE_SIZE not in parameters:
        raise InvalidRequest(f"{title}: '{REGION}' without '{BYTE_SIZE}'; say how many bytes it is")
    offset = _slice_integer(parameters, OFFSET, title) if OFFSET in parameters else 0
    byte_size = _slice_integer(parameters, BYTE_SIZE, title)
    return RegionSlice(parameters[REGION].string_param, offset, byte_size)


def write_slice(parameters: _Parameters, where: RegionSlice) -> None:
    """Name a slice in the parameters of an output of a response."""
    parameters[REGION].string_param = where.region
    parameters[BYTE_SIZE].int64_param = where.byte_size
    if where.offset:
        parameters[OFFSET].int64_param = where.offset


def _slice_integer(parameters: _Parameters, name: str, title: str) -> int:
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in _INTEGER:
        raise InvalidRequest(
            f"{title}: '{name}' is {kind or 'no value'}, but it takes {' or '.join(_INTEGER)}"
        )
    value = int(getattr(parameters[name], kind))
    if value < 0:
        raise InvalidRegion(f"{title}: '{name}' is {value}, but it cannot be negative")
    return value

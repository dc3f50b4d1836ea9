"""The tensor parameters that name a slice of shared memory instead of carrying contents."""

from __future__ import annotations

from collections.abc import Mapping

from lanewise.errors import InvalidRegion, InvalidRequest
from lanewise.model.regions import RegionSlice
from lanewise_client.protos.inference_pb2 import InferParameter

REGION = "shared_memory_region"
OFFSET = "shared_memory_offset"
BYTE_SIZE = "shared_memory_byte_size"

_INTEGERS = ("int64_param", "uint64_param")


def read_slice(parameters: Mapping[str, InferParameter], title: str) -> RegionSlice | None:
    """Get the slice that the parameters of a tensor name; None if they name none.

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
    offset = _integer(parameters, OFFSET, title) if OFFSET in parameters else 0
    return RegionSlice(
        parameters[REGION].string_param, offset, _integer(parameters, BYTE_SIZE, title)
    )


def write_slice(parameters: Mapping[str, InferParameter], where: RegionSlice) -> None:
    """Name a slice in the parameters of an output of a response."""
    parameters[REGION].string_param = where.region
    parameters[BYTE_SIZE].int64_param = where.byte_size
    if where.offset:
        parameters[OFFSET].int64_param = where.offset


def _integer(parameters: Mapping[str, InferParameter], name: str, title: str) -> int:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in _INTEGERS:
        raise InvalidRequest(
            f"{title}: '{name}' is {kind or 'no value'}, but it takes {' or '.join(_INTEGERS)}"
        )
    value = int(getattr(parameter, kind))
    if value < 0:
        raise InvalidRegion(f"{title}: '{name}' is {value}, but it cannot be negative")
    return value

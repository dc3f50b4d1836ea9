"""Request and tensor parameters that this server knows, and what each of them means.

Others are ignored, as the protocol demands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from lanewise.errors import InvalidRequest, Unsupported
from lanewise_client.protos.inference_pb2 import InferParameter

NS_PER_US = 1_000

FINAL_RESPONSE = "triton_final_response"
"""The parameter that marks the last response to a request of a stream."""

_MARKS_FINAL = "triton_enable_empty_final_response"

_INTEGER = ("int64_param", "uint64_param")
_TEXT = ("string_param",)
_BOOL = ("bool_param",)

_Value = str | int | bool | float
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
    options = _DEFAULTS
    if not parameters:
        return options
    for name, parameter in parameters.items():
        read = _READERS.get(name)
        if read is not None:
            options = read(options, name, parameter)
        elif name.startswith("triton_"):
            raise InvalidRequest(
                f"request parameter '{name}': names with 'triton_' are reserved, and "
                f"'{_MARKS_FINAL}' is the only one known"
            )
    return options


def wants_final_mark(parameters: _Parameters) -> bool:
    """Whether the last response to a streamed request must be marked as the last."""
    return _MARKS_FINAL in parameters and parameters[_MARKS_FINAL].bool_param


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


def _value(name: str, parameter: InferParameter, allowed: tuple[str, ...]) -> _Value:
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in allowed:
        raise InvalidRequest(
            f"request parameter '{name}': {kind or 'no value'}, but it takes {' or '.join(allowed)}"
        )
    return cast(_Value, getattr(parameter, kind))


def _profile(options: RequestParameters, name: str, parameter: InferParameter) -> RequestParameters:
    value = cast(str | int, _value(name, parameter, _TEXT + _INTEGER))
    return replace(options, profile=value)


def _timeout(options: RequestParameters, name: str, parameter: InferParameter) -> RequestParameters:
    # 0 stands for no timeout, as in Triton.
    timeout_us = _non_negative(name, parameter)
    return replace(options, timeout_ns=timeout_us * NS_PER_US if timeout_us else None)


def _priority(
    options: RequestParameters, name: str, parameter: InferParameter
) -> RequestParameters:
    # 0 stands for the model's default, as in Triton.
    return replace(options, priority=_non_negative(name, parameter))


def _target(options: RequestParameters, name: str, parameter: InferParameter) -> RequestParameters:
    # 0 stands for the model's target, as in the parameters above.
    target_us = _non_negative(name, parameter)
    return replace(options, target_ns=target_us * NS_PER_US if target_us else None)


def _typed_outputs(
    options: RequestParameters, name: str, parameter: InferParameter
) -> RequestParameters:
    return replace(options, raw_outputs=bool(_value(name, parameter, _BOOL)))


def _bool_only(
    options: RequestParameters, name: str, parameter: InferParameter
) -> RequestParameters:
    _value(name, parameter, _BOOL)
    return options


def _sequence_id(
    options: RequestParameters, name: str, parameter: InferParameter
) -> RequestParameters:
    return _refuse_sequence(options, name, _value(name, parameter, _INTEGER + _TEXT))


def _sequence_flag(
    options: RequestParameters, name: str, parameter: InferParameter
) -> RequestParameters:
    return _refuse_sequence(options, name, _value(name, parameter, _BOOL))


def _refuse_sequence(options: RequestParameters, name: str, value: _Value) -> RequestParameters:
    # Zero, the empty text and false stand for no sequence.
    if value:
        raise Unsupported(
            f"request parameter '{name}': sequences are not offered; send requests that do "
            "not depend on each other"
        )
    return options


def _non_negative(name: str, parameter: InferParameter) -> int:
    value = cast(int, _value(name, parameter, _INTEGER))
    if value < 0:
        raise InvalidRequest(f"request parameter '{name}': {value}, but it cannot be negative")
    return value


_READERS: dict[str, Callable[[RequestParameters, str, InferParameter], RequestParameters]] = {
    "profile": _profile,
    "timeout": _timeout,
    "priority": _priority,
    "latency_target_us": _target,
    "binary_data_output": _typed_outputs,
    "sequence_id": _sequence_id,
    "sequence_start": _sequence_flag,
    "sequence_end": _sequence_flag,
    _MARKS_FINAL: _bool_only,
}

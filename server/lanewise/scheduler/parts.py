"""What launches give to a request, put together at its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lanewise.errors import ExecutionFailed, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array
from lanewise.scheduler.results import InferResult, LaunchReport

Outputs = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Part:
    """What one launch gave to a request."""

    first_row: int
    outputs: Outputs
    report: LaunchReport


def take_rows(outputs: Outputs, rows: slice, spec: ModelSpec, length: int) -> Outputs:
    """Get a request's part of the outputs of a launch, as views.

    Args:
        outputs: of the launch.
        rows: those of the request.
        spec: of the model.
        length: of the request, to which outputs are cut back that its padding names.
    """
    if not spec.batching:
        return outputs
    if spec.padding is None or not spec.padding.outputs:
        return {name: array[rows] for name, array in outputs.items()}
    taken = {}
    for name, array in outputs.items():
        dim = spec.padding.outputs.get(name, 0)
        cut = (slice(None),) * (dim - 1) + (slice(length),) if dim else ()
        taken[name] = array[(rows, *cut)]
    return taken


def own_error(error: BaseException, spec: ModelSpec, profile: str) -> BaseException:
    """Make an exception for one request from the one that failed its launch."""
    if isinstance(error, ServingError):
        own: BaseException = type(error)(error.message)
    else:
        own = ExecutionFailed(
            f"model '{spec.name}', profile '{profile}': the launch failed unexpectedly "
            f"({type(error).__name__}); the server's log has the details"
        )
    own.__cause__ = error
    return own


def join(parts: list[Part], spec: ModelSpec, *, was_cold: bool = False) -> InferResult:
    """Put the parts of a request together in the order of its rows.

    Raises:
        ExecutionFailed: the launches gave outputs of different shapes.
    """
    parts.sort(key=lambda part: part.first_row)
    reports = tuple(part.report for part in parts)
    if len(parts) == 1:
        return InferResult(parts[0].outputs, reports, was_cold)
    outputs: Outputs = {}
    for name in parts[0].outputs:
        pieces = [part.outputs[name] for part in parts]
        if len({piece.shape[1:] for piece in pieces}) > 1:
            raise ExecutionFailed(
                f"model '{spec.name}': the request was split over {len(parts)} launches, whose "
                f"outputs '{name}' differ in shape and cannot be joined; send fewer rows"
            )
        outputs[name] = np.concatenate(pieces)
    return InferResult(outputs, reports, was_cold)

"""What launches give to a request, put together at its end."""

from __future__ import annotations

import operator

import numpy as np

from lanewise.errors import ExecutionFailed, ServingError
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array
from lanewise.scheduler.results import InferResult, LaunchReport

Outputs = dict[str, Array]


RowsRun = tuple[int, Outputs, LaunchReport]
"""What one launch gave to a request: the first row, its outputs, and how they came about."""


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
        taken = {}
        for name, array in outputs.items():
            taken[name] = array[rows]
        return taken
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


def join(runs: list[RowsRun], spec: ModelSpec, *, was_cold: bool = False) -> InferResult:
    """Put what launches gave to a request together, in the order of its rows.

    Raises:
        ExecutionFailed: the launches gave outputs of different shapes.
    """
    if len(runs) == 1:
        _, outputs, report = runs[0]
        return InferResult(outputs, (report,), was_cold)
    runs.sort(key=operator.itemgetter(0))
    reports = tuple(report for _, _, report in runs)
    joined: Outputs = {}
    for name in runs[0][1]:
        pieces = [outputs[name] for _, outputs, _ in runs]
        if len({piece.shape[1:] for piece in pieces}) > 1:
            raise ExecutionFailed(
                f"model '{spec.name}': the request was split over {len(runs)} launches, whose "
                f"outputs '{name}' differ in shape and cannot be joined; send fewer rows"
            )
        joined[name] = np.concatenate(pieces)
    return InferResult(joined, reports, was_cold)

"""Whether requests may be stacked: what a model declares, and what a trial at load shows.

A model whose answer for a row depends on the other rows of its launch would give one caller the
products of another's data. No declaration rules that out, so the same row is executed alone and
among others, on every backend alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lanewise.backends.inputs import corner_shapes, trial_inputs, tuned_corner
from lanewise.backends.onnx_graph import OnnxGraph, read_graph
from lanewise.backends.runner import Batch, Runner
from lanewise.backends.self_check import difference_of
from lanewise.errors import ExecutionFailed, InvalidRequest, UnsoundOutputs
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, DType

ROWS = 3
"""Of a launch in which the row is among others: before, after and between them."""

OUTLIER = 1e4
"""How many times larger the neighbours are that must not matter.

Beside a neighbour that large, a scale, a mean or a norm that is taken over rows leaves next to
nothing of the row; FP16 still holds it.
"""

SMALLEST = 1e-3
"""Outputs all below it are compared as if this were their largest element: a probability of 1e-6
differs by tens of percent where the logit behind it differs by rounding alone."""

_BATCH_SCALED = frozenset({
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
})  # fmt: skip
_DATA_SIZED = frozenset({"NonZero", "NonMaxSuppression", "Compress", "Unique"})


_REFUSALS = (ExecutionFailed, InvalidRequest)
"""What a runner raises that serves on; shape tensors may contradict shapes, for one."""


def find_mixing(file: Path) -> str:
    """Say what in an ONNX file makes rows depend on each other; "" if nothing is seen."""
    graph = read_graph(file) if file.suffix == ".onnx" else None
    return "" if graph is None else _mixing(graph)


def _mixing(graph: OnnxGraph) -> str:
    tensors = (*graph.inputs.values(), *graph.outputs.values())
    rows = {dims[0] for dims in tensors if dims and isinstance(dims[0], str)}
    for output, dims in graph.outputs.items():
        for dim, name in enumerate(dims or ()):
            if dim and name in rows and isinstance(name, str) and name.isidentifier():
                return f"dimension {dim} of output '{output}' is '{name}', which counts rows"
    if scaled := sorted(graph.operators & _BATCH_SCALED):
        return f"it holds {scaled[0]}, whose scale depends on every row of a launch"
    if graph.trains:
        return "it holds a BatchNormalization in training mode, which depends on every row"
    if len(rows - {""}) > 1 and (sized := sorted(graph.operators & _DATA_SIZED)):
        names = ", ".join(sorted(f"'{name}'" for name in rows if name))
        return f"it holds {sized[0]}, and its dimensions 0 are called {names}"
    return ""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of executing the same row alone and among others.

    Attributes:
        independent: whether its answer was the same; None if it could not be tried.
        found: what differed, or why it could not be tried.
    """

    independent: bool | None
    found: str = ""


def try_rows(spec: ModelSpec, runners: Iterable[Runner]) -> Trial:
    """Execute the same row alone and among others, random ones and outliers.

    Blocks, for five launches of few rows. For a model with batching; its runners need not be
    warmed up, and are called from this thread alone.
    """
    runner = max(runners, key=lambda each: each.profile.rows.max)
    rows = _row_count(runner)
    if rows < 2:
        return Trial(None, "no profile admits two rows")
    shapes = {
        name: (1, *shape[1:]) if name in spec.rowwise else shape
        for name, shape in corner_shapes(
            spec, runner.profile, tuned_corner(spec, runner.profile)
        ).items()
    }
    values = {name: limits.opt for name, limits in runner.profile.values.items()}
    row = trial_inputs(spec, shapes, values)
    more = {
        name: (rows - 1, *shape[1:]) if name in spec.rowwise else shape
        for name, shape in shapes.items()
    }
    others = trial_inputs(spec, more, values, seed=1)
    try:  # twice: a model that draws random numbers proves nothing
        alone = _launch(spec, runner, row, 0, 1)
        again = _launch(spec, runner, row, 0, 1)
    except UnsoundOutputs as error:
        return Trial(False, error.message)
    except _REFUSALS as error:
        return Trial(None, f"it cannot run made-up inputs: {error.message}")
    if differs := _difference(spec, alone, again):
        return Trial(None, f"it gives the same row another answer each time: {differs}")
    outliers = {
        tensor.name: _outlier(others[tensor.name]) if tensor.name in spec.rowwise else array
        for tensor, array in ((each, others[each.name]) for each in spec.inputs)
    }
    if not any(_differs(row[n], each[n]) for each in (others, outliers) for n in spec.rowwise):
        return Trial(None, "made-up inputs have the same values in every row")
    trials = [("random rows", others, 0), ("random rows", others, rows - 1)]
    trials.append((f"rows {OUTLIER:g} times larger", outliers, rows // 2))
    for what, beside, position in trials:
        try:
            among = _launch(spec, runner, _join(spec, row, beside, position), position, rows)
        except _REFUSALS as error:
            if beside is outliers:
                break  # values that large may be refused, which mixes nothing
            return Trial(False, f"it runs one row, but not {rows}: {error.message}")
        if differs := _difference(spec, alone, among):
            return Trial(False, f"beside {what} the same row has another answer: {differs}")
    return Trial(True)


def _differs(row: Array, others: Array) -> bool:
    return bool(np.any(others != row))


def _row_count(runner: Runner) -> int:
    rows = runner.profile.rows
    wanted = min(max(ROWS, rows.min), rows.max)
    return next((count for count in runner.row_counts if count >= wanted), wanted)


def _launch(
    spec: ModelSpec, runner: Runner, inputs: Mapping[str, Array], position: int, rows: int
) -> dict[str, Array]:
    """Execute `rows` rows, padded as far as the runner needs; get the one at `position`."""
    least = max(rows, runner.profile.rows.min)
    padded = next((count for count in runner.row_counts if count >= least), least)
    outputs = runner.run(Batch({name: [each] for name, each in inputs.items()}, rows, padded))
    return {name: array[position : position + 1] for name, array in outputs.items()}


def _join(
    spec: ModelSpec, row: Mapping[str, Array], others: Mapping[str, Array], position: int
) -> dict[str, Array]:
    """Put `row` between the `others`, at `position`; inputs without rows stay as they are."""
    joined = dict(row)
    for name in spec.rowwise:
        rest = others[name]
        joined[name] = np.concatenate([rest[:position], row[name], rest[position:]])
    return joined


def _outlier(array: Array) -> Array:
    """Make numbers large, of both signs; integers and strings may be indices, and stay."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:  # a picture: ONNX has no indices of a byte
        return np.full_like(array, 255)
    if kind in "biuO":
        return array
    wide = array.astype(np.float64) * OUTLIER
    if array.dtype.itemsize == 1:  # FP8 ends at 448
        wide = np.clip(wide, 0, 240)
    wide.reshape(-1)[::2] *= -1
    return wide.astype(array.dtype)


_COUNTS = (DType.INT8, DType.UINT8)


def _difference(spec: ModelSpec, alone: Mapping[str, Array], among: Mapping[str, Array]) -> str:
    for tensor in spec.outputs:
        a, b = alone[tensor.name], among[tensor.name]
        found = difference_of(tensor.dtype, a, b, SMALLEST) or _exact_difference(tensor.dtype, a, b)
        if found:
            return f"output '{tensor.name}': {found}"
    return ""


def _exact_difference(dtype: DType, a: Array, b: Array) -> str:
    """Compare what is not a floating-point number.

    One element of a hundred may differ: of two candidates as good as equal, another row count
    may prefer the other. Quantized numbers may round the other way.
    """
    if a.dtype.kind not in "biuO" or not a.size:
        return ""
    apart = a != b
    if dtype in _COUNTS:
        apart = np.abs(a.astype(np.int16) - b.astype(np.int16)) > 1
    if np.mean(apart) <= 0.01:
        return ""
    first = np.flatnonzero(apart.reshape(-1))[0]
    return f"such as {a.reshape(-1)[first]} and {b.reshape(-1)[first]}"

"""Whether the runners of a model agree with each other where their profiles overlap.

Each profile of a plan is compiled apart, and plugins may carry state from one context to
another: a plan with one context per profile has given wrong outputs without any error
(TensorRT 8.5 with a plugin, https://github.com/NVIDIA/TensorRT/issues/2648).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lanewise.backends.inputs import Corner, blank_batch_at, trial_inputs
from lanewise.backends.runner import Batch, Runner, find_misfit
from lanewise.errors import UnsoundOutputs
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, DType, Shape

_TOLERANCES = {
    # TF32 and FP16 keep 10 bits, BF16 7, E4M3 3, E5M2 2; sums of many terms lose some more.
    DType.FP64: 1e-6,
    DType.FP32: 2e-2,
    DType.FP16: 2e-2,
    DType.BF16: 1e-1,
    DType.FP8_E4M3FN: 0.5,
    DType.FP8_E5M2: 0.5,
}
"""By datatype of the output, in units of the reference's largest element.

Of outputs of other types only the shape is compared: a label or an index may well change when two
candidates are as good as equal.
"""


def require_agreement(spec: ModelSpec, runners: Sequence[Runner]) -> None:
    """Run the same row on every runner and compare it with the first that admits its shapes.

    Blocks; for runners that have been warmed up, from a thread that may call all of them.

    Raises:
        UnsoundOutputs: two of them disagree; the message has the profiles and the
            difference.
    """
    for position, runner in enumerate(runners):
        for reference in runners[:position]:
            shapes = _common_shapes(reference.profile, runner.profile, spec)
            values = _common_values(reference.profile, runner.profile)
            if shapes is not None and values is not None:
                _compare(spec, reference, runner, trial_inputs(spec, shapes, values))
                break


def require_padding(spec: ModelSpec, runners: Sequence[Runner]) -> None:
    """Execute the first runner's least and greatest length, and see which outputs grow with it.

    Blocks, as `require_agreement` does; for models with padding.

    Raises:
        UnsoundOutputs: an output grows that the padding does not name, or one that it does
            name has another size than was executed.
    """
    assert spec.padding is not None, "only models with padding are checked"
    runner = runners[0]
    shapes: dict[str, Shape] = {}
    for length in sorted({runner.profile.lengths[0], runner.profile.lengths[-1]}):
        rows = runner.row_counts[0] if runner.row_counts else runner.profile.rows.min
        batch = blank_batch_at(spec, runner.profile, Corner("opt", length), rows)
        outputs = runner.run(batch)
        if problem := find_misfit(spec, outputs, length):
            raise UnsoundOutputs(problem)
        for name in outputs.keys() - spec.padding.outputs.keys():
            shape = outputs[name].shape
            before = shapes.setdefault(name, shape)
            if shape != before:
                raise UnsoundOutputs(
                    f"model '{spec.name}': output '{name}' is {list(before)} or {list(shape)}, "
                    f"depending on {spec.padding.dimension}; say in padding.outputs which "
                    "dimension is to be cut back"
                )


def _common_shapes(one: Profile, other: Profile, spec: ModelSpec) -> Mapping[str, Shape] | None:
    """Find shapes of one row that both admit, near the opt of `other`; None if there are none.

    With shape tensors they are the opt itself, the only shapes sure to go with its values.
    """
    shapes: dict[str, Shape] = {}
    for name, limits in other.ranges.items():
        theirs = one.ranges[name]
        low = tuple(map(max, limits.min, theirs.min))
        high = tuple(map(min, limits.max, theirs.max))
        shape = tuple(map(max, low, map(min, high, limits.opt)))
        first = 1 if name in spec.rowwise else 0
        if any(a > b for a, b in zip(low[first:], high[first:], strict=True)):
            return None
        if other.values and shape[first:] != limits.opt[first:]:
            return None
        shapes[name] = (1, *shape[1:]) if first else shape
    return shapes


def _common_values(one: Profile, other: Profile) -> Mapping[str, tuple[int, ...]] | None:
    """Get the opt values of `other` if `one` admits them, too; else None."""
    for name, limits in other.values.items():
        theirs = one.values[name]
        places = zip(theirs.min, limits.opt, theirs.max, strict=True)
        if not all(low <= value <= high for low, value, high in places):
            return None
    return {name: limits.opt for name, limits in other.values.items()}


def _run_row(spec: ModelSpec, runner: Runner, inputs: Mapping[str, Array]) -> dict[str, Array]:
    smallest = runner.row_counts[0] if runner.row_counts else runner.profile.rows.min
    outputs = runner.run(Batch({name: [each] for name, each in inputs.items()}, 1, smallest))
    return {name: array[:1] for name, array in outputs.items()} if spec.batching else outputs


def _compare(
    spec: ModelSpec, reference: Runner, runner: Runner, inputs: Mapping[str, Array]
) -> None:
    expected, got = (_run_row(spec, each, inputs) for each in (reference, runner))
    names = f"profiles '{reference.profile.name}' and '{runner.profile.name}'"
    for tensor in spec.outputs:
        difference = difference_of(tensor.dtype, expected[tensor.name], got[tensor.name])
        if not difference:
            continue
        raise UnsoundOutputs(
            f"model '{spec.name}': {names} disagree on output '{tensor.name}' for the same row: "
            f"{difference}; build the plan again, leave one of the profiles out, or set "
            "`self_check = false` under [tensorrt] if the outputs are meant to differ"
        )


def difference_of(dtype: DType, a: Array, b: Array, least: float = 0.0) -> str:
    """Say how two answers to the same row differ beyond what rounding explains; "" if they do not.

    Args:
        dtype: of both.
        a: the reference.
        b: what is compared with it.
        least: taken for the reference's largest element if that is smaller.
    """
    tolerance = _TOLERANCES.get(dtype)
    if a.shape != b.shape:
        return f"shapes {list(a.shape)} and {list(b.shape)}"
    if tolerance is None or _is_close(a, b, tolerance, least):
        return ""
    apart = np.flatnonzero(a.reshape(-1) != b.reshape(-1))[:4]
    return f"such as {a.reshape(-1)[apart]} and {b.reshape(-1)[apart]}"


def _is_close(a: Array, b: Array, tolerance: float, least: float) -> bool:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    largest = float(np.max(np.abs(wide_a), initial=least, where=np.isfinite(wide_a)))
    return bool(np.allclose(wide_a, wide_b, rtol=0, atol=tolerance * largest, equal_nan=True))

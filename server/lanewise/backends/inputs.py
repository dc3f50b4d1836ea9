"""Inputs to run a model with that no request has sent; how rows and short pieces are completed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from lanewise.backends.runner import Batch
from lanewise.memory.staging import Filling
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, DType, Shape, TensorSpec

End = Literal["opt", "max"]


def fillings(spec: ModelSpec) -> dict[str, Filling]:
    """Get how inputs are completed whose pieces may be shorter than the launch, by name."""
    if spec.padding is None:
        return {}
    return {
        name: Filling(dim, spec.padding.values[name]) for name, dim in spec.padding.inputs.items()
    }


class Corner(NamedTuple):
    """Sizes of the dimensions besides rows that are executed before the first request comes.

    Attributes:
        end: of the profile, for every dimension that is not padded.
        length: of the profile's, for the one that is; 0 without padding.
    """

    end: End
    length: int = 0


def warm_corners(spec: ModelSpec, profile: Profile) -> tuple[Corner, ...]:
    """List the corners of `profile` to warm up; the tuned sizes, with every length, first.

    A profile without limits has but one corner.
    """
    if profile.is_open:
        return (Corner("opt"),)
    if spec.padding is None:
        return Corner("opt"), Corner("max")
    tuned = (Corner("opt", length) for length in profile.lengths)
    return *tuned, Corner("max", profile.lengths[-1])


def tuned_corner(spec: ModelSpec, profile: Profile) -> Corner:
    """Get the corner that `profile` is tuned for: its opt, at the next length it executes."""
    if spec.padding is None:
        return Corner("opt")
    opt = min(profile.ranges[name].opt[dim] for name, dim in spec.padding.inputs.items())
    return Corner("opt", profile.padded_length(opt))


def corner_shapes(spec: ModelSpec, profile: Profile, corner: Corner) -> dict[str, Shape]:
    """Get the shapes of every input at `corner`, with rows as at its end of `profile`."""
    shapes = {name: getattr(limits, corner.end) for name, limits in profile.ranges.items()}
    if spec.padding is not None:
        for name in spec.padding.inputs:
            rows, *item = shapes[name]
            shapes[name] = (rows, *spec.padding.item_shape(name, tuple(item), corner.length))
    return shapes


def warm_up_batches(spec: ModelSpec, profile: Profile) -> Iterator[Batch]:
    """Make a batch of made-up inputs for each of the profile's `warm_corners`."""
    for corner in warm_corners(spec, profile):
        rows = profile.rows.opt if corner.end == "opt" else profile.rows.max
        yield blank_batch_at(spec, profile, corner, rows)


def blank_batch_at(spec: ModelSpec, profile: Profile, corner: Corner, rows: int) -> Batch:
    """Make a batch of `rows` made-up rows with the other dimensions at one corner of `profile`.

    Shape tensors hold the profile's values of the same end.
    """
    values = {name: getattr(limits, corner.end) for name, limits in profile.values.items()}
    return blank_batch(spec, corner_shapes(spec, profile, corner), rows, values)


def blank_batch(
    spec: ModelSpec,
    shapes: Mapping[str, Shape],
    rows: int,
    values: Mapping[str, tuple[int, ...]] | None = None,
) -> Batch:
    """Make a batch of the model's samples; of zeros or empty strings where it has none.

    Args:
        spec: of the model.
        shapes: by input name; of row-wise inputs, dimension 0 is replaced by `rows`.
        rows: of the batch.
        values: what shape tensors hold instead, row-major.
    """
    pieces = {}
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if tensor.name in spec.rowwise:
            shape = (rows, *shape[1:])
        pieces[tensor.name] = [_make(spec, tensor, shape, values or {})]
    return Batch(pieces, rows, rows)


def trial_inputs(
    spec: ModelSpec,
    shapes: Mapping[str, Shape],
    values: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Make inputs that tell outputs apart: the model's samples; where it has none, random numbers.

    They are 0 or 1 where they may be indices, and harmless to most models.

    Args:
        spec: of the model.
        shapes: of every input, rows included.
        values: what shape tensors hold, row-major.
        seed: of the random numbers; samples do not depend on it.
    """
    draw = np.random.default_rng(seed)
    values = values or {}
    inputs: dict[str, Array] = {}
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if tensor.name in {*values, *spec.samples} or tensor.dtype is DType.BYTES:
            inputs[tensor.name] = _make(spec, tensor, shape, values)
        elif tensor.dtype.numpy.kind in "iub":
            inputs[tensor.name] = draw.integers(0, 2, shape).astype(tensor.dtype.numpy)
        else:
            inputs[tensor.name] = draw.random(shape).astype(tensor.dtype.numpy)
    return inputs


def _make(
    spec: ModelSpec, tensor: TensorSpec, shape: Shape, values: Mapping[str, tuple[int, ...]]
) -> Array:
    """Make the given values of a shape tensor, or else the input's sample, or else blanks."""
    if tensor.name in values:
        return np.array(values[tensor.name], tensor.dtype.numpy).reshape(shape)
    if sample := spec.samples.get(tensor.name):
        return sample.make(shape)
    if tensor.dtype is DType.BYTES:
        return np.full(shape, b"", tensor.dtype.numpy)
    return np.zeros(shape, tensor.dtype.numpy)

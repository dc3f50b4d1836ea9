"""Checks the shapes of a profile against the inputs of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from lanewise.model.spec import RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, Shape, TensorSpec, format_shape
from lanewise.settings.model import ProfileSettings, ShapeRangeSettings, quote_key


def resolve_ranges(
    entry: ProfileSettings, inputs: Sequence[TensorSpec], rowwise: Collection[str], key: str
) -> tuple[dict[str, ShapeRange], list[str]]:
    """Get a range for every input, and what is wrong with those of `entry`.

    Inputs without dynamic dimensions may be left out: they have one shape. Dimension 0 of
    the `rowwise` inputs must be 1 or more. Every problem begins with `key`, where the
    ranges stand in their file.

    Returns:
        The ranges are complete only if the list of problems is empty.
    """
    known = {tensor.name for tensor in inputs}
    listed = ", ".join(f"{tensor.name} {format_shape(tensor.shape)}" for tensor in inputs)
    problems = [
        f"{key}.{quote_key(name)}: the model has no such input; it has {listed}"
        for name in entry.tensors
        if name not in known
    ]
    ranges = {}
    for tensor in inputs:
        shapes = entry.tensors.get(tensor.name)
        tensor_key = f"{key}.{quote_key(tensor.name)}"
        if shapes is not None:
            problems += _range_problems(shapes, tensor, tensor.name in rowwise, tensor_key)
            ranges[tensor.name] = ShapeRange(shapes.min, shapes.opt, shapes.max)
        elif not tensor.dynamic_dims:
            ranges[tensor.name] = ShapeRange(tensor.shape, tensor.shape, tensor.shape)
        else:
            problems.append(
                f"{tensor_key}: is missing; input '{tensor.name}' "
                f"{format_shape(tensor.shape)} has dynamic dimensions and needs min, opt and max"
            )
    return ranges, problems


def common_rows(ranges: Mapping[str, ShapeRange], rowwise: Collection[str]) -> RowRange:
    """Get the rows that all `rowwise` inputs admit; min > max if there are none."""
    shapes = [ranges[name] for name in rowwise]
    low = max(range_.min[0] for range_ in shapes)
    high = min(range_.max[0] for range_ in shapes)
    opt = min(range_.opt[0] for range_ in shapes)
    return RowRange(low, max(low, min(opt, high)), high)


def _range_problems(
    shapes: ShapeRangeSettings, tensor: TensorSpec, counts_rows: bool, key: str
) -> Iterator[str]:
    corners = {"min": shapes.min, "opt": shapes.opt, "max": shapes.max}
    sound = True
    for corner, shape in corners.items():
        for problem in _shape_problems(shape, tensor, counts_rows):
            sound = False
            yield f"{key}.{corner}: {format_shape(shape)} {problem}"
    if not sound:
        return
    for dim, (low, opt, high) in enumerate(zip(*corners.values(), strict=True)):
        if not low <= opt <= high:
            yield (
                f"{key}: min <= opt <= max is required in every dimension, "
                f"but dimension {dim} has {low}, {opt}, {high}"
            )


def _shape_problems(shape: Shape, tensor: TensorSpec, counts_rows: bool) -> Iterator[str]:
    title = f"input '{tensor.name}' {format_shape(tensor.shape)}"
    if len(shape) != len(tensor.shape):
        yield f"has {len(shape)} dimensions, but {title} has {len(tensor.shape)}"
        return
    for dim, (size, known) in enumerate(zip(shape, tensor.shape, strict=True)):
        least = 1 if counts_rows and dim == 0 else 0
        if known not in (DYNAMIC, size):
            yield f"has {size} in dimension {dim}, which is always {known} in {title}"
        elif size < least:
            what = "rows" if least else "a size"
            yield f"has {size} in dimension {dim}; {what} must be {least} or more"

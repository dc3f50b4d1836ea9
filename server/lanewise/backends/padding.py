"""Checks what the settings say about padding against a model and its profiles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from lanewise.model.spec import Padding, Profile
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec, format_shape
from lanewise.settings.model import PaddingSettings, quote_key, settings_error

MAX_BUCKETS = 16
"""Each is warmed up with many numbers of rows, and weighed at every launch."""

SPAN = 16
"""Buckets that are chosen begin at the largest divided by this: shorter ones would save little
of a launch, and every one is warmed up."""


def plan_padding(  # noqa: PLR0917 - the settings, and the model they are for
    settings: PaddingSettings,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    rowwise: frozenset[str] | None,
    profiles: Sequence[Profile],
    settings_file: Path,
) -> tuple[Padding, tuple[Profile, ...]]:
    """Get the padding of a model, and its profiles with the lengths that each executes.

    Args:
        settings: the table [padding].
        inputs: of the model.
        outputs: of the model.
        rowwise: names of the inputs that count rows; None without batching.
        profiles: of the model.
        settings_file: where `settings` come from; named in messages.

    Raises:
        ConfigError: the settings contradict the model or themselves; the message lists every
            problem with its key.
    """
    if rowwise is None:
        problem = "padding: needs batching, but requests of this model never share a launch"
        raise settings_error(settings_file, [problem])
    problems = [
        *_dim_problems(settings.inputs, inputs, "inputs"),
        *_dim_problems(settings.outputs, outputs, "outputs"),
        *(
            f"padding.inputs.{quote_key(name)}: is shared by all rows of a launch, so that it "
            "cannot be longer for some of them"
            for name in settings.inputs
            if name not in rowwise and any(tensor.name == name for tensor in inputs)
        ),
        *_value_problems(settings, inputs),
    ]
    if not problems:
        ranges = [_lengths(profile, settings.inputs) for profile in profiles]
        problems += _range_problems(settings, profiles, ranges)
        problems += _bucket_problems(settings.buckets, profiles, ranges)
    if problems:
        raise settings_error(settings_file, problems)
    types = {tensor.name: tensor.dtype for tensor in inputs}
    padding = Padding(
        settings.dimension,
        dict(settings.inputs),
        {name: fill_value(settings.values.get(name), types[name]) for name in settings.inputs},
        dict(settings.outputs),
    )
    planned = tuple(
        dataclasses.replace(profile, lengths=_choose_lengths(settings.buckets, *limits))
        for profile, limits in zip(profiles, ranges, strict=True)
    )
    return padding, planned


def _lengths(profile: Profile, dims: Mapping[str, int]) -> tuple[int, int, int]:
    """Get the least, the tuned and the greatest length that all the inputs admit."""
    ranges = [(profile.ranges[name], dim) for name, dim in dims.items()]
    low = max(limits.min[dim] for limits, dim in ranges)
    high = min(limits.max[dim] for limits, dim in ranges)
    opt = min(limits.opt[dim] for limits, dim in ranges)
    return low, max(low, min(opt, high)), high


def _choose_lengths(
    buckets: Sequence[int] | None, low: int, opt: int, high: int
) -> tuple[int, ...]:
    """Choose the lengths that a profile executes: the buckets it admits, and its greatest."""
    if buckets is not None:
        return tuple(sorted({high} | {size for size in buckets if low <= size <= high}))
    least = max(low, high // SPAN, 1)
    powers = {1 << bit for bit in range(high.bit_length()) if least <= 1 << bit <= high}
    return tuple(sorted(powers | {opt, high}))


def _dim_problems(
    dims: Mapping[str, int], tensors: Sequence[TensorSpec], role: str
) -> Iterator[str]:
    known = {tensor.name: tensor for tensor in tensors}
    for name, dim in dims.items():
        key = f"padding.{role}.{quote_key(name)}"
        tensor = known.get(name)
        if tensor is None:
            listed = ", ".join(f"{each.name} {format_shape(each.shape)}" for each in tensors)
            yield f"{key}: the model has no such {role[:-1]}; it has {listed}"
        elif len(tensor.shape) < 2:
            shape = format_shape(tensor.shape)
            yield f"{key}: is {dim}, but {shape} has no dimension that does not count rows"
        elif not 1 <= dim < len(tensor.shape):
            last = len(tensor.shape) - 1
            allowed = "1" if last == 1 else f"1 to {last}"
            shape = format_shape(tensor.shape)
            yield f"{key}: is {dim}, but in {shape} must be {allowed} (0 counts rows)"
        elif tensor.shape[dim] != DYNAMIC:
            yield (
                f"{key}: dimension {dim} is always {tensor.shape[dim]} in "
                f"{format_shape(tensor.shape)}; only a dynamic one can be padded"
            )


def _value_problems(settings: PaddingSettings, inputs: Sequence[TensorSpec]) -> Iterator[str]:
    types = {tensor.name: tensor.dtype for tensor in inputs}
    for name, value in settings.values.items():
        key = f"padding.values.{quote_key(name)}"
        if name not in settings.inputs:
            yield f"{key}: is no key of padding.inputs, which are {', '.join(settings.inputs)}"
        elif name in types and (wanted := wanted_instead(value, types[name])):
            yield f"{key}: is {value!r}, but {types[name].value} needs {wanted}"


def wanted_instead(value: object, dtype: DType) -> str:
    """Say what a value of `dtype` must be, if `value` is something else; else ""."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype is DType.BYTES:
        return "" if isinstance(value, str) else "a string"
    if dtype is DType.BOOL:
        return "" if isinstance(value, bool) else "true or false"
    if dtype.numpy.kind not in "iu":
        return "" if is_number and _fits(cast(float, value), dtype) else "a number that it can hold"
    limits = np.iinfo(str(dtype.numpy))
    if isinstance(value, int) and is_number and limits.min <= value <= limits.max:
        return ""
    return f"an integer from {limits.min} to {limits.max}"


def _fits(value: float, dtype: DType) -> bool:
    """Whether a floating-point `dtype` holds `value`, rounded, as what it is."""
    try:
        with np.errstate(over="ignore"):
            held = float(np.array(value).astype(dtype.numpy))
    except OverflowError:
        return False
    return math.isfinite(held) or not math.isfinite(value)


def fill_value(value: object, dtype: DType) -> bytes | bool | int | float:
    """Get a value of the settings as an element of `dtype`; None is blank."""
    if value is None:
        return b"" if dtype is DType.BYTES else 0
    if isinstance(value, str):
        return value.encode()
    assert isinstance(value, bool | int | float), "it was checked"
    return value


def _range_problems(
    settings: PaddingSettings, profiles: Sequence[Profile], ranges: Sequence[tuple[int, int, int]]
) -> Iterator[str]:
    for profile, (low, _, high) in zip(profiles, ranges, strict=True):
        if low > high or high < 1:
            limits = ", ".join(
                f"{name} {profile.ranges[name].min[dim]} to {profile.ranges[name].max[dim]}"
                for name, dim in settings.inputs.items()
            )
            yield (
                f"padding.inputs: profile '{profile.name}' admits no number of "
                f"{settings.dimension} in all of them: {limits}"
            )


def _bucket_problems(
    buckets: Sequence[int] | None,
    profiles: Sequence[Profile],
    ranges: Sequence[tuple[int, int, int]],
) -> Iterator[str]:
    if buckets is None:
        return
    if list(buckets) != sorted(set(buckets)):
        yield f"padding.buckets: is {list(buckets)}, but must ascend"
    if len(buckets) > MAX_BUCKETS:
        yield f"padding.buckets: has {len(buckets)} sizes, but {MAX_BUCKETS} are the most"
    admitted = ", ".join(
        f"'{profile.name}' {low} to {high}"
        for profile, (low, _, high) in zip(profiles, ranges, strict=True)
    )
    for size in buckets:
        if size < 1 or not any(low <= size <= high for low, _, high in ranges):
            yield f"padding.buckets: no profile admits {size}; admitted are: {admitted}"

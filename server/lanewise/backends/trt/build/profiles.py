"""The optimization profiles that a plan is built with, complete and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lanewise.backends.default_profiles import derive_profiles
from lanewise.backends.profiles import plan_profiles
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DYNAMIC, TensorSpec, element_count, format_shape
from lanewise.settings.model import (
    ModelSettings,
    ProfileSettings,
    ShapeRangeSettings,
    quote_key,
    settings_error,
)

DEFAULT_SIZE = 1
"""Of a dynamic dimension, and of a value, that is not given; as in Polygraphy."""


@dataclass(frozen=True, slots=True)
class NetworkTensors:
    """The inputs and outputs of a network before it is built.

    Attributes:
        shape_tensors: names of the inputs whose values, not shapes, a profile has to give.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shape_tensors: frozenset[str]


@dataclass(frozen=True, slots=True)
class BuildProfile:
    """One profile to build.

    Attributes:
        shapes: the shapes of every input that is no shape tensor.
        values: the values of every shape tensor, row-major.
    """

    name: str
    shapes: Mapping[str, ShapeRange]
    values: Mapping[str, ShapeRange]


@dataclass(frozen=True, slots=True)
class BuildProfiles:
    """All profiles of a plan.

    Attributes:
        assumptions: what was filled in because it was not given, for people.
    """

    profiles: tuple[BuildProfile, ...]
    assumptions: tuple[str, ...]


def resolve_profiles(
    tensors: NetworkTensors, settings: ModelSettings, settings_file: Path
) -> BuildProfiles:
    """Make the profiles that `settings` ask for, or without any those that follow by themselves.

    The entries of the settings hold shapes, but values for shape tensors. An input that an
    entry leaves out has its static shape, with DEFAULT_SIZE for dynamic dimensions and for
    the values of shape tensors.

    Raises:
        ConfigError: see `plan_profiles`; `settings_file` is what the message names.
    """
    entries = settings.profiles
    if entries is None:
        executed = [each for each in tensors.inputs if each.name not in tensors.shape_tensors]
        batching = settings.batching is not False
        entries = derive_profiles(executed, settings_file, batching=batching)
    filled, assumptions = _fill_defaults(entries, tensors)
    problems = list(_value_problems(filled, tensors))
    if problems:
        raise settings_error(settings_file, problems)
    plan = plan_profiles(
        tensors.inputs,
        tensors.outputs,
        settings.model_copy(
            update={"profiles": tuple(_without_values(entry, tensors) for entry in filled)}
        ),
        settings_file,
    )
    profiles = [
        BuildProfile(
            profile.name,
            {n: r for n, r in profile.ranges.items() if n not in tensors.shape_tensors},
            {n: _range(entry.tensors[n]) for n in sorted(tensors.shape_tensors)},
        )
        for entry, profile in zip(filled, plan.profiles, strict=True)
    ]
    return BuildProfiles(tuple(profiles), assumptions)


def _fill_defaults(
    entries: Sequence[ProfileSettings], tensors: NetworkTensors
) -> tuple[list[ProfileSettings], tuple[str, ...]]:
    """Get `entries` with every input in them, and what was assumed for that."""
    assumptions: dict[str, None] = {}
    filled = []
    for entry in entries:
        ranges = dict(entry.tensors)
        for tensor in tensors.inputs:
            if tensor.name in ranges:
                continue
            is_values = tensor.name in tensors.shape_tensors
            if is_values:
                sizes: tuple[int, ...] = (DEFAULT_SIZE,) * element_count(tensor.shape)
            else:
                sizes = tuple(DEFAULT_SIZE if s == DYNAMIC else s for s in tensor.shape)
            ranges[tensor.name] = ShapeRangeSettings(min=sizes, opt=sizes, max=sizes)
            if is_values or tensor.dynamic_dims:
                assumptions[_assumption(tensor, sizes, is_values=is_values)] = None
        filled.append(entry.model_copy(update={"tensors": ranges}))
    return filled, tuple(assumptions)


def _assumption(tensor: TensorSpec, sizes: tuple[int, ...], *, is_values: bool) -> str:
    kind = "shape tensor" if is_values else "input"
    what = "the values" if is_values else "the shape"
    return (
        f"{kind} '{tensor.name}' {format_shape(tensor.shape)}: a profile leaves it out and is "
        f"built for {what} {format_shape(sizes)} alone; give it min, opt and max if it varies"
    )


def _without_values(entry: ProfileSettings, tensors: NetworkTensors) -> ProfileSettings:
    shapes = {n: each for n, each in entry.tensors.items() if n not in tensors.shape_tensors}
    return entry.model_copy(update={"tensors": shapes})


def _value_problems(entries: Sequence[ProfileSettings], tensors: NetworkTensors) -> Iterator[str]:
    for index, entry in enumerate(entries):
        for tensor in tensors.inputs:
            if tensor.name in tensors.shape_tensors:
                key = f"profiles[{index}].tensors.{quote_key(tensor.name)}"
                yield from _problems_of_values(entry.tensors[tensor.name], tensor, key)


def _problems_of_values(values: ShapeRangeSettings, tensor: TensorSpec, key: str) -> Iterator[str]:
    count = element_count(tensor.shape)
    corners = {"min": values.min, "opt": values.opt, "max": values.max}
    wrong = [corner for corner, listed in corners.items() if len(listed) != count]
    for corner in wrong:
        yield (
            f"{key}.{corner}: {format_shape(corners[corner])} has {len(corners[corner])} values, "
            f"but shape tensor '{tensor.name}' {format_shape(tensor.shape)} has {count}"
        )
    if wrong:
        return
    for position, (low, opt, high) in enumerate(zip(*corners.values(), strict=True)):
        if not low <= opt <= high:
            yield (
                f"{key}: min <= opt <= max is required for every value of a shape tensor, "
                f"but value {position} has {low}, {opt}, {high}"
            )


def _range(settings: ShapeRangeSettings) -> ShapeRange:
    return ShapeRange(settings.min, settings.opt, settings.max)

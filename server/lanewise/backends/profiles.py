"""Turns what a model and its settings say into the profiles that are served."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lanewise.backends.default_profiles import derive_profiles
from lanewise.backends.padding import plan_padding
from lanewise.backends.ranges import common_rows, resolve_ranges
from lanewise.backends.rows import decide_rowwise
from lanewise.clock import NS_PER_MS
from lanewise.model.spec import Padding, Profile, RowRange, ShapeRange
from lanewise.model.tensors import TensorSpec, format_shape
from lanewise.settings.model import ModelSettings, ProfileSettings, quote_key, settings_error


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """How a model is served; the fields are those of ModelSpec."""

    batching: bool
    rowwise: frozenset[str]
    profiles: tuple[Profile, ...]
    padding: Padding | None = None


@dataclass(frozen=True, slots=True)
class CarriedProfiles:
    """The profiles that were built into an engine; `file` holds the engine."""

    entries: tuple[ProfileSettings, ...]
    file: Path


def plan_profiles(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    settings: ModelSettings,
    settings_file: Path,
    carried: CarriedProfiles | None = None,
) -> ProfilePlan:
    """Decide on batching and make the profiles of a model.

    All `carried` profiles are used, in order; the settings' entries match them by position
    and may rename them and change their queue delay, not their shapes. Without carried
    profiles the settings' are used, and without any those that follow from the inputs.

    Args:
        inputs: of the model, in its order.
        outputs: of the model, in its order.
        settings: the model's model.toml.
        settings_file: where `settings` come from, or would; named in messages.
        carried: profiles of the engine itself; None if it has none.

    Raises:
        ConfigError: the settings contradict the model, the engine or themselves; the
            message lists every problem with its file and key.
    """
    rowwise = decide_rowwise(inputs, outputs, settings.batching, settings_file)
    default_delay_ms = settings.max_queue_delay_ms
    if carried is None:
        entries = settings.profiles or derive_profiles(
            inputs, settings_file, batching=rowwise is not None
        )
        profiles = _make_profiles(entries, inputs, rowwise, default_delay_ms, settings_file)
    else:
        profiles = _make_profiles(carried.entries, inputs, rowwise, default_delay_ms, carried.file)
        if settings.profiles is not None:
            profiles = _override(profiles, settings.profiles, settings_file)
    padding = None
    if settings.padding is not None:
        padding, profiles = plan_padding(
            settings.padding, inputs, outputs, rowwise, profiles, settings_file
        )
    return ProfilePlan(rowwise is not None, rowwise or frozenset(), profiles, padding)


def _make_profiles(
    entries: Sequence[ProfileSettings],
    inputs: Sequence[TensorSpec],
    rowwise: frozenset[str] | None,
    default_delay_ms: float,
    file: Path,
) -> tuple[Profile, ...]:
    names = [entry.name if entry.name is not None else f"p{i}" for i, entry in enumerate(entries)]
    problems = _name_problems(names)
    profiles = []
    for index, entry in enumerate(entries):
        key = f"profiles[{index}].tensors"
        ranges, range_problems = resolve_ranges(entry, inputs, rowwise or frozenset(), key)
        problems += range_problems
        if range_problems:
            continue
        rows = RowRange(1, 1, 1)
        if rowwise is not None:
            rows = common_rows(ranges, rowwise)
            if rows.min > rows.max:
                problems.append(_no_common_rows(ranges, rowwise, key))
        delay_ms = entry.max_queue_delay_ms
        delay_ns = _to_ns(default_delay_ms if delay_ms is None else delay_ms)
        profiles.append(Profile(index, names[index], ranges, rows, delay_ns))
    if problems:
        raise settings_error(file, problems)
    return tuple(profiles)


def _override(
    profiles: Sequence[Profile], entries: Sequence[ProfileSettings], settings_file: Path
) -> tuple[Profile, ...]:
    """Rename `profiles` and change their queue delay as the entries of the settings say."""
    if len(entries) > len(profiles):
        raise settings_error(
            settings_file,
            [
                f"profiles: has {len(entries)} entries, but the engine was built with "
                f"{len(profiles)}, which the entries match in order; remove the others"
            ],
        )
    problems = []
    overridden = list(profiles)
    for index, (profile, entry) in enumerate(zip(profiles, entries, strict=False)):
        problems += _shape_problems(profile, entry, f"profiles[{index}].tensors")
        if entry.name is not None:
            overridden[index] = dataclasses.replace(overridden[index], name=entry.name)
        if entry.max_queue_delay_ms is not None:
            overridden[index] = dataclasses.replace(
                overridden[index], max_queue_delay_ns=_to_ns(entry.max_queue_delay_ms)
            )
    problems += _name_problems([profile.name for profile in overridden])
    if problems:
        raise settings_error(settings_file, problems)
    return tuple(overridden)


def _shape_problems(profile: Profile, entry: ProfileSettings, key: str) -> list[str]:
    """Tell where `entry` contradicts the shapes that the engine was built with."""
    problems = []
    for name, wanted in entry.tensors.items():
        built = profile.ranges.get(name)
        if built is None:
            known = ", ".join(profile.ranges)
            problems.append(f"{key}.{quote_key(name)}: the model's inputs are {known}")
        elif (wanted.min, wanted.opt, wanted.max) != (built.min, built.opt, built.max):
            problems.append(
                f"{key}.{quote_key(name)}: differs from the engine, which was built with "
                f"min {format_shape(built.min)}, opt {format_shape(built.opt)}, "
                f"max {format_shape(built.max)}; leave it out or rebuild the engine"
            )
    return problems


def _name_problems(names: Sequence[str]) -> list[str]:
    problems = []
    for index, name in enumerate(names):
        key = f"profiles[{index}].name"
        if not name:
            problems.append(f"{key}: is empty; leave it out for 'p{index}'")
        elif name.isdigit():
            problems.append(f"{key}: '{name}' would be taken for an index; add a letter")
        elif "," in name:
            problems.append(f"{key}: '{name}' has a comma, which separates names in responses")
        elif name in names[:index]:
            first = names.index(name)
            problems.append(f"{key}: '{name}' is the name of profiles[{first}] too")
    return problems


def _no_common_rows(ranges: Mapping[str, ShapeRange], rowwise: frozenset[str], key: str) -> str:
    listed = ", ".join(
        f"{name} {shapes.min[0]}-{shapes.max[0]}"
        for name, shapes in ranges.items()
        if name in rowwise
    )
    return f"{key}: no number of rows (dimension 0) suits all inputs: {listed}"


def _to_ns(delay_ms: float) -> int:
    return round(delay_ms * NS_PER_MS)

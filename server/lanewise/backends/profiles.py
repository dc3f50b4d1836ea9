"""Turns what a model and its settings say into the profiles that are served."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lanewise.backends.default_profiles import derive_profiles
from lanewise.backends.padding import plan_padding
from lanewise.backends.row_names import is_given_name, rows_names
from lanewise.backends.runner import ModelSource
from lanewise.backends.samples import plan_samples
from lanewise.clock import NS_PER_MS
from lanewise.errors import ConfigError
from lanewise.model.samples import Sample
from lanewise.model.spec import ModelSpec, Padding, Profile, RowRange, ShapeRange
from lanewise.model.tensors import DYNAMIC, Shape, TensorSpec, format_shape
from lanewise.settings.model import (
    ModelSettings,
    ProfileSettings,
    ShapeRangeSettings,
    quote_key,
    settings_error,
)

_Tensors = Sequence[TensorSpec]


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What is decided about a model from its tensors and settings; see `ModelSpec`."""

    batching: bool
    rowwise: frozenset[str]
    profiles: tuple[Profile, ...]
    padding: Padding | None = None
    samples: Mapping[str, Sample] = field(default_factory=dict)
    batching_reason: str = ""

    def make_spec(
        self,
        source: ModelSource,
        backend: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        text_inputs: frozenset[str] = frozenset(),
    ) -> ModelSpec:
        """Make the spec of the model that was planned, with the tensors it was planned for."""
        return ModelSpec(
            name=source.name,
            version=source.version,
            backend=backend,
            inputs=inputs,
            outputs=outputs,
            batching=self.batching,
            rowwise=self.rowwise,
            profiles=self.profiles,
            text_inputs=text_inputs,
            padding=self.padding,
            samples=self.samples,
            batching_reason=self.batching_reason,
        )


@dataclass(frozen=True, slots=True)
class CarriedProfiles:
    """The profiles built into a plan, or a simulated model; `file` holds it."""

    entries: tuple[ProfileSettings, ...]
    file: Path


def plan_profiles(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    settings: ModelSettings,
    settings_file: Path,
    carried: CarriedProfiles | None = None,
    *,
    needs_limits: bool = True,
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
        carried: profiles built into the model file; None if it has none.
        needs_limits: whether the backend has to know the largest shapes; padding always has.

    Raises:
        ConfigError: the settings contradict the model, the plan or themselves; the
            message lists every problem with its file and key.
    """
    reason = _reason_to_run_alone(inputs, outputs, settings.batching)
    rowwise = None if reason else _find_rowwise(inputs, outputs, settings_file)
    default_delay_ms = settings.max_queue_delay_ms
    if carried is None:
        entries = settings.profiles or derive_profiles(
            inputs,
            settings_file,
            batching=rowwise is not None,
            needs_limits=needs_limits or settings.padding is not None,
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
    samples = plan_samples(settings.samples, inputs, settings_file)
    return ProfilePlan(
        rowwise is not None, rowwise or frozenset(), profiles, padding, samples, reason
    )


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
        ranges, range_problems = _resolve_ranges(entry, inputs, rowwise or frozenset(), key)
        problems += range_problems
        if range_problems:
            continue
        rows = RowRange(1, 1, 1)
        if rowwise is not None:
            rows, row_problems = _common_rows(ranges, rowwise, key)
            problems += row_problems
        delay_ms = entry.max_queue_delay_ms
        delay_ns = _to_ns(default_delay_ms if delay_ms is None else delay_ms)
        profiles.append(Profile(index, names[index], ranges, rows, delay_ns))
    if problems:
        raise settings_error(file, problems)
    return tuple(profiles)


def _override(
    profiles: Sequence[Profile], entries: Sequence[ProfileSettings], settings_file: Path
) -> tuple[Profile, ...]:
    """Apply the names and queue delays in the settings to `profiles`."""
    if len(entries) > len(profiles):
        raise settings_error(
            settings_file,
            [
                f"profiles: has {len(entries)} entries, but the plan was built with "
                f"{len(profiles)}, which the entries match in order; remove the others"
            ],
        )
    problems = []
    overridden = list(profiles)
    for index, (profile, entry) in enumerate(zip(profiles, entries, strict=False)):
        problems += _contradictions(profile, entry, f"profiles[{index}].tensors")
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


def _contradictions(profile: Profile, entry: ProfileSettings, key: str) -> list[str]:
    """List where `entry` contradicts the shapes that the plan was built with."""
    problems = []
    for name, wanted in entry.tensors.items():
        built = profile.ranges.get(name)
        if built is None:
            known = ", ".join(profile.ranges)
            problems.append(f"{key}.{quote_key(name)}: the model's inputs are {known}")
        elif (wanted.min, wanted.opt, wanted.max) != (built.min, built.opt, built.max):
            problems.append(
                f"{key}.{quote_key(name)}: differs from the plan, which was built with "
                f"min {format_shape(built.min)}, opt {format_shape(built.opt)}, "
                f"max {format_shape(built.max)}; leave it out or rebuild the plan"
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


def _to_ns(delay_ms: float) -> int:
    return round(delay_ms * NS_PER_MS)


def _resolve_ranges(
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


def _common_rows(
    ranges: Mapping[str, ShapeRange], rowwise: Collection[str], key: str
) -> tuple[RowRange, list[str]]:
    """Get the rows that all `rowwise` inputs admit, and what is wrong if there are none."""
    shapes = {name: ranges[name] for name in ranges if name in rowwise}
    low = max(range_.min[0] for range_ in shapes.values())
    high = min(range_.max[0] for range_ in shapes.values())
    opt = min(range_.opt[0] for range_ in shapes.values())
    rows = RowRange(low, max(low, min(opt, high)), high)
    if low <= high:
        return rows, []
    listed = ", ".join(f"{name} {each.min[0]}-{each.max[0]}" for name, each in shapes.items())
    return rows, [f"{key}: no number of rows (dimension 0) suits all inputs: {listed}"]


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


def _reason_to_run_alone(inputs: _Tensors, outputs: _Tensors, batching: bool | None) -> str:
    """Say why requests are not stacked; "" if they may be.

    If `batching` is None they may where dimension 0 of at least one input and of every output is
    dynamic, and where the names given to them do not say that they count different things.
    """
    if batching is not None:
        return "" if batching else "`batching` is false"
    if not any(tensor.has_dynamic_rows for tensor in inputs):
        return "dimension 0 of no input is dynamic"
    for output in outputs:
        if not output.has_dynamic_rows:
            return f"dimension 0 of output {_describe(output)} is not dynamic"
    names = sorted(filter(is_given_name, rows_names((*inputs, *outputs))))
    if len(names) > 1:
        return f"the model calls dimension 0 by different names: {', '.join(names)}"
    return ""


def _find_rowwise(inputs: _Tensors, outputs: _Tensors, settings_file: Path) -> frozenset[str]:
    """Get the names of the inputs whose dimension 0 counts rows, of a model with batching.

    These are the inputs whose dimension 0 is dynamic. If there are none, the model executes
    a fixed number of rows, and every input that has a dimension 0 counts them.
    `settings_file` is what messages name.

    Raises:
        ConfigError: rows of the outputs could not be told apart.
    """
    dynamic = frozenset(tensor.name for tensor in inputs if tensor.has_dynamic_rows)
    if dynamic:
        _require_rows(outputs, DYNAMIC, settings_file)
        return dynamic
    _require_rows(outputs, _fixed_rows(inputs, settings_file), settings_file)
    return frozenset(tensor.name for tensor in inputs if tensor.shape)


def _fixed_rows(inputs: _Tensors, settings_file: Path) -> int:
    """Get the number of rows that all inputs of a model without dynamic rows have."""
    counted = [tensor for tensor in inputs if tensor.shape]
    if not counted:
        raise _refuse("no input has a dimension along which rows could be stacked", settings_file)
    if len({tensor.shape[0] for tensor in counted}) > 1:
        shapes = ", ".join(_describe(tensor) for tensor in counted)
        raise _refuse(f"the inputs differ in dimension 0: {shapes}", settings_file)
    return counted[0].shape[0]


def _require_rows(outputs: _Tensors, rows: int, settings_file: Path) -> None:
    """Check that dimension 0 of every output is dynamic or `rows`."""
    for output in outputs:
        if not output.has_dynamic_rows and output.shape[:1] != (rows,):
            wanted = "not dynamic" if rows == DYNAMIC else f"not the inputs' {rows}"
            raise _refuse(
                f"dimension 0 of output {_describe(output)} is {wanted}, "
                "so its rows cannot be told apart",
                settings_file,
            )


def _refuse(reason: str, settings_file: Path) -> ConfigError:
    return settings_error(
        settings_file,
        [
            f"batching: is true, but {reason}; set it to false, "
            "or export the model with a dynamic dimension 0 in its inputs and outputs"
        ],
    )


def _describe(tensor: TensorSpec) -> str:
    return f"'{tensor.name}' {format_shape(tensor.shape)}"

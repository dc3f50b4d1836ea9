"""Reads what a loaded plan is off its ICudaEngine, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lanewise.backends.profiles import CarriedProfiles, ProfilePlan, plan_profiles
from lanewise.backends.trt.binding import Binding, TrtObject
from lanewise.model.spec import ShapeRange
from lanewise.model.tensors import DType, TensorSpec, format_shape, merge_sizes
from lanewise.settings.model import (
    ModelSettings,
    ProfileSettings,
    ShapeRangeSettings,
    quote_key,
    settings_error,
)

# https://github.com/NVIDIA/TensorRT/issues/4302: a call that ends the process.
_NO_MEMORY_PER_PROFILE = ("10.7.",)


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """An optimization profile as it was built into a plan.

    Attributes:
        shapes: by input, shape tensors left out.
        values: by shape tensor among the inputs.
        device_memory_bytes: what one execution context needs besides the weights and its
            inputs and outputs.
    """

    shapes: Mapping[str, ShapeRangeSettings]
    values: Mapping[str, ShapeRange]
    device_memory_bytes: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a loaded plan is.

    Attributes:
        inputs: in the plan's order.
        outputs: in the plan's order; the size of a DYNAMIC dimension follows from the
            inputs' shapes, or from what they hold.
        shape_tensors: inputs and outputs whose values are, or depend on, shapes.
        host_tensors: inputs and outputs whose address is in host memory.
        profiles: in the plan's order; at least one.
        aux_streams: streams besides the caller's on which an execution runs.
        streamable_weight_bytes: weights that may be kept in host memory; 0 for a plan
            built without weight streaming.
        rowless: outputs whose dimension 0 does not count the rows of the inputs, as far as
            has been observed.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shape_tensors: frozenset[str]
    host_tensors: frozenset[str]
    profiles: tuple[EngineProfile, ...]
    aux_streams: int
    streamable_weight_bytes: int
    rowless: frozenset[str] = frozenset()

    @property
    def precision(self) -> frozenset[DType]:
        """The datatypes of the inputs and outputs that are on the device.

        In a strongly typed plan the layers between may have others; TensorRT does not
        tell which without a detailed profile.
        """
        tensors = (*self.inputs, *self.outputs)
        return frozenset(t.dtype for t in tensors if t.name not in self.host_tensors)


def describe_engine(binding: Binding, engine: TrtObject) -> EngineFacts:
    """Read off `engine` what serving needs to know; `observe_outputs` completes it.

    Raises:
        ConfigError: an input or output has a datatype that cannot be served.
    """
    module = binding.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    tensors = {name: _tensor(binding, engine, name) for name in names}
    inputs = [n for n in names if engine.get_tensor_mode(n) == module.TensorIOMode.INPUT]
    shape_tensors = frozenset(name for name in names if engine.is_shape_inference_io(name))
    streamable = int(engine.streamable_weights_size)
    profiles = tuple(
        EngineProfile(
            {n: _shapes(engine, n, index) for n in inputs if n not in shape_tensors},
            {n: _values(engine, n, index) for n in inputs if n in shape_tensors},
            _device_memory(binding, engine, index, streams_weights=streamable > 0),
        )
        for index in range(engine.num_optimization_profiles)
    )
    return EngineFacts(
        inputs=tuple(_widen(tensors[name], profiles) for name in inputs),
        outputs=tuple(tensors[name] for name in names if name not in inputs),
        shape_tensors=shape_tensors,
        host_tensors=frozenset(
            name for name in names if engine.get_tensor_location(name) == module.TensorLocation.HOST
        ),
        profiles=profiles,
        aux_streams=int(engine.num_aux_streams),
        streamable_weight_bytes=streamable,
    )


def _widen(tensor: TensorSpec, profiles: Sequence[EngineProfile]) -> TensorSpec:
    """Make dimensions dynamic in which profiles admit different sizes.

    TensorRT-RTX 1.6 tells the sizes of a first profile that admits but one as if they were
    the plan's.
    """
    ranges = [profile.shapes[tensor.name] for profile in profiles if tensor.name in profile.shapes]
    observed = [shape for limits in ranges for shape in (limits.min, limits.max)]
    return replace(tensor, shape=merge_sizes(tensor.shape, observed))


def plan_engine_profiles(
    facts: EngineFacts, plan_file: Path, settings: ModelSettings, settings_file: Path
) -> ProfilePlan:
    """Make the profiles of a loaded plan as they are served. See `plan_profiles`.

    A shape tensor has the one shape it always has, and its dimension 0 counts no rows; the
    settings give its values, which must be those the plan was built with. Requests are not
    stacked where an output is `rowless`, unless the settings insist.

    Raises:
        ConfigError: the settings contradict the plan or themselves.
    """
    problems = []
    if settings.padding is not None and facts.shape_tensors:
        listed = ", ".join(sorted(facts.shape_tensors))
        problems.append(
            f"padding: the values of {listed} decide shapes, which padding would change"
        )
    entries = None
    if settings.profiles is not None:
        entries = []
        for index, entry in enumerate(settings.profiles):
            built = facts.profiles[index].values if index < len(facts.profiles) else {}
            problems += _value_problems(entry, built, f"profiles[{index}].tensors")
            shapes = {n: r for n, r in entry.tensors.items() if n not in facts.shape_tensors}
            entries.append(entry.model_copy(update={"tensors": shapes}))
    if problems:
        raise settings_error(settings_file, problems)
    carried = tuple(ProfileSettings(tensors=dict(each.shapes)) for each in facts.profiles)
    changes: dict[str, object] = {"profiles": None if entries is None else tuple(entries)}
    if facts.rowless and settings.batching is None:
        changes["batching"] = False
    plan = plan_profiles(
        facts.inputs,
        facts.outputs,
        settings.model_copy(update=changes),
        settings_file,
        CarriedProfiles(carried, plan_file),
    )
    reason = plan.batching_reason
    if "batching" in changes:
        listed = ", ".join(sorted(facts.rowless))
        reason = f"dimension 0 of output {listed} is not the rows of the inputs"
    return replace(
        plan,
        batching_reason=reason,
        rowwise=plan.rowwise - facts.shape_tensors,
        profiles=tuple(
            replace(profile, values=built.values)
            for profile, built in zip(plan.profiles, facts.profiles, strict=True)
        ),
    )


def _value_problems(entry: ProfileSettings, built: Mapping[str, ShapeRange], key: str) -> list[str]:
    return [
        f"{key}.{quote_key(name)}: differs from the plan, in which the values of this shape "
        f"tensor have min {format_shape(values.min)}, opt {format_shape(values.opt)}, "
        f"max {format_shape(values.max)}; leave it out or rebuild the plan"
        for name, values in built.items()
        if (wanted := entry.tensors.get(name)) is not None
        and (wanted.min, wanted.opt, wanted.max) != (values.min, values.opt, values.max)
    ]


def _tensor(binding: Binding, engine: TrtObject, name: str) -> TensorSpec:
    dtype = binding.dtype(engine.get_tensor_dtype(name), name)
    return TensorSpec(name, dtype, _ints(engine.get_tensor_shape(name)))


def _shapes(engine: TrtObject, name: str, profile: int) -> ShapeRangeSettings:
    low, opt, high = (_ints(each) for each in engine.get_tensor_profile_shape(name, profile))
    return ShapeRangeSettings(min=low, opt=opt, max=high)


def _values(engine: TrtObject, name: str, profile: int) -> ShapeRange:
    # The parameters are in the other order than get_tensor_profile_shape's by their names
    # in the documentation, but not by their meaning.
    low, opt, high = (_ints(each) for each in engine.get_tensor_profile_values(profile, name))
    return ShapeRange(low, opt, high)


def _device_memory(
    binding: Binding,
    engine: TrtObject,
    profile: int,
    *,
    streams_weights: bool,
) -> int:
    unsafe = not binding.is_rtx and binding.version.startswith(_NO_MEMORY_PER_PROFILE)
    if unsafe and not streams_weights:
        return int(engine.device_memory_size_v2)
    return int(engine.get_device_memory_size_for_profile_v2(profile))


def _ints(values: TrtObject) -> tuple[int, ...]:
    return tuple(int(value) for value in values)

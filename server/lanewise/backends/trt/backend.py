"""Backends "tensorrt" and "tensorrt-rtx": plans, and ONNX models whose plan is built once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import structlog

from lanewise.backends.default_profiles import derive_profiles
from lanewise.backends.runner import LoadedModel, ModelSource, PlanReport, ProfileNeeds
from lanewise.backends.trt.binding import Binding, TrtBackend, bind
from lanewise.backends.trt.build.builder import build_plan, require_builder
from lanewise.backends.trt.build.plan_cache import cached_plan, runtime_cache_file
from lanewise.backends.trt.build.plan_header import PlanHeader
from lanewise.backends.trt.context import ProfileContext
from lanewise.backends.trt.introspect import (
    EngineFacts,
    EngineProfile,
    describe_engine,
    plan_engine_profiles,
)
from lanewise.backends.trt.lane_plan import LanePlan, plan_lanes
from lanewise.backends.trt.loader import LoadedEngine, load_engine
from lanewise.backends.trt.messages import Severity
from lanewise.backends.trt.observe import EngineShapes, observe_outputs
from lanewise.backends.trt.runner import DEPTH, GRAPH_BUDGET_BYTES, RunnerOptions, TrtRunner
from lanewise.backends.trt.runtime_cache import RuntimeCache
from lanewise.backends.trt.scratch import Scratch
from lanewise.clock import Clock
from lanewise.errors import ConfigError
from lanewise.memory import device
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import DType, element_count
from lanewise.settings.model import ModelSettings, ProfileSettings

_log = structlog.get_logger(__name__)

PLAN_SUFFIX = ".plan"


def _load(
    backend: TrtBackend, source: ModelSource, settings: ModelSettings, _clock: Clock
) -> LoadedModel:
    binding = bind(backend)
    facts_of_device = device.require_device()
    plan = _find_plan(binding, source, settings, facts_of_device.title)
    loaded = load_engine(binding, plan, allow_host_code=settings.tensorrt.allow_host_code)
    facts = describe_engine(binding, loaded.engine)
    with EngineShapes(binding, loaded.engine, facts) as shapes:
        facts = observe_outputs(facts, shapes)
    if settings.profiles is None and source.file.suffix != PLAN_SUFFIX:
        # The plan has the profiles that were derived when it was built, but not their names.
        derived = derive_profiles(
            [each for each in facts.inputs if each.name not in facts.shape_tensors],
            source.settings_file,
            batching=settings.batching is not False,
        )
        names = tuple(ProfileSettings(name=each.name) for each in derived)
        settings = settings.model_copy(update={"profiles": names})
    profiles = plan_engine_profiles(facts, plan, settings, source.settings_file)
    spec = profiles.make_spec(source, backend, facts.inputs, facts.outputs)
    lanes = plan_lanes(spec, settings, source.settings_file)
    report = report_plan(loaded.header, facts)
    _require_memory(lanes.device_bytes(report), source.file)
    kernels = RuntimeCache(binding, loaded.engine, runtime_cache_file(plan, facts_of_device.title))
    make_runner = functools.partial(
        _make_runner, binding, loaded, facts, kernels, settings.tensorrt.poll
    )
    arenas = _make_arenas(lanes, report)
    runners: list[TrtRunner] = []
    try:
        for profile in spec.profiles:
            arena = arenas.get(profile.name)
            runners += (
                make_runner(spec, profile, arena) for _ in range(lanes.runners[profile.name])
            )
    except BaseException as error:
        for runner in runners:
            runner.close()
        if isinstance(error, device.CudaError) and error.is_out_of_memory:
            raise ConfigError(
                f"{source.file}: too little device memory: {error}; build it with smaller maximum "
                "shapes or fewer profiles, or serve it from another device"
            ) from error
        raise
    return LoadedModel(
        spec,
        tuple(runners),
        is_compiled=settings.tensorrt.self_check,
        plan=report,
        direct_inputs=_direct_inputs(spec, facts),
    )


load_tensorrt = functools.partial(_load, "tensorrt")
load_rtx = functools.partial(_load, "tensorrt-rtx")


def report_plan(header: PlanHeader, facts: EngineFacts) -> PlanReport:
    """Report who built a plan, its precision, and what a lane of each profile needs."""
    return PlanReport(
        builder=f"{header.backend} {header.version}",
        precision=facts.precision,
        profiles=tuple(_needs(facts, profile) for profile in facts.profiles),
    )


def _needs(facts: EngineFacts, profile: EngineProfile) -> ProfileNeeds:
    one_buffer = sum(
        element_count(profile.shapes[tensor.name].max) * tensor.dtype.numpy.itemsize
        for tensor in facts.inputs
        if tensor.name in profile.shapes
    )
    return ProfileNeeds(DEPTH * one_buffer, profile.device_memory_bytes, profile.values)


def _find_plan(
    binding: Binding, source: ModelSource, settings: ModelSettings, device_title: str
) -> Path:
    if source.file.suffix == PLAN_SUFFIX:
        return source.file
    require_builder(binding)
    return cached_plan(
        binding,
        source.file,
        settings,
        device_title,
        lambda: build_plan(binding, source.file, settings, source.settings_file).data,
    )


def _direct_inputs(spec: ModelSpec, facts: EngineFacts) -> frozenset[str]:
    """Name the inputs that need not be read on the host before they are on the device.

    Not those that TensorRT reads on the host, that requests must have in common to be stacked,
    that are completed to a length, or whose bytes have to be checked.
    """
    padded = spec.padding.inputs if spec.padding else {}
    return frozenset(
        tensor.name
        for tensor in spec.inputs
        if tensor.name not in facts.host_tensors
        and tensor.name not in padded
        and tensor.dtype is not DType.BOOL
        and (tensor.name in spec.rowwise or not spec.batching)
    )


def _make_arenas(lanes: LanePlan, report: PlanReport) -> dict[str, Scratch]:
    """Get the shared scratch memory by the name of every profile that shares it."""
    arenas = {}
    for group, nbytes in lanes.shared_scratch_bytes(report).items():
        arenas.update(dict.fromkeys(group, Scratch(nbytes, is_shared=True)))
    return arenas


def _require_memory(needs: Mapping[str, int], file: Path) -> None:
    """Refuse a model whose runners would not fit beside what the device holds already.

    Raises:
        ConfigError: the message has the sum.
    """
    free, total = device.free_memory()
    if sum(needs.values()) > free:
        listed = " + ".join(f"{name} {size >> 20} MiB" for name, size in needs.items())
        raise ConfigError(
            f"{file}: its lanes need {sum(needs.values()) >> 20} MiB of device memory ({listed}), "
            f"but {free >> 20} of {total >> 20} MiB are free; build it with smaller maximum "
            "shapes or fewer profiles, or serve it from another device"
        )


def _make_runner(  # noqa: PLR0917 - the first five are the same for all runners
    binding: Binding,
    loaded: LoadedEngine,
    facts: EngineFacts,
    kernels: RuntimeCache,
    poll: bool,
    spec: ModelSpec,
    profile: Profile,
    arena: Scratch | None,
) -> TrtRunner:
    scratch_bytes = facts.profiles[profile.index].device_memory_bytes

    def make_context(scratch: Scratch, stream: device.Stream) -> ProfileContext:
        return ProfileContext(
            binding.module,
            kernels.make_context(),
            profile_index=profile.index,
            scratch=scratch,
            stream=stream,
            why=lambda: _last_error(binding),
        )

    options = RunnerOptions(
        stream_priority=_priority(spec, profile),
        graph_budget_bytes=GRAPH_BUDGET_BYTES if _can_capture(facts) else 0,
        on_host=facts.host_tensors,
        poll=poll,
    )
    spare_options = dataclasses.replace(options, stream_priority=0.0, graph_budget_bytes=0, depth=1)

    def make_spare() -> TrtRunner:
        context = functools.partial(make_context, Scratch(scratch_bytes))
        return TrtRunner(context, spec, profile, spare_options, keep_alive=loaded)

    return TrtRunner(
        functools.partial(make_context, arena or Scratch(scratch_bytes)),
        spec,
        profile,
        options,
        keep_alive=loaded,
        # Shapes alone do not say what to prepare where values decide, too.
        make_spare=make_spare if binding.is_rtx and not profile.values else None,
        when_warm=kernels.save,
    )


def _can_capture(facts: EngineFacts) -> bool:
    """Whether executions may be replayed as graphs.

    Weight streaming copies while it executes, which cannot be captured; outputs in host
    memory are written when the execution is given to the stream, which a replay is not.
    """
    on_host = any(tensor.name in facts.host_tensors for tensor in facts.outputs)
    return not facts.streamable_weight_bytes and not on_host


def _last_error(binding: Binding) -> str:
    errors = binding.messages.recent(Severity.ERROR)
    return errors[-1] if errors else "TensorRT gives no reason"


def _priority(spec: ModelSpec, profile: Profile) -> float:
    """Rank profiles by the elements of their opt shapes: 1 for the smallest, 0 for the largest.

    Small work is more likely to be interactive: a stream of high priority cuts
    the median latency of single rows beside saturating bulk work from 1.7 to 1.1 ms, for
    4 % of the bulk's throughput (ResNet-50, H200).
    """

    def work(one: Profile) -> int:
        return sum(element_count(limits.opt) for limits in one.ranges.values())

    sizes = sorted({work(one) for one in spec.profiles})
    return 1.0 if len(sizes) == 1 else 1.0 - sizes.index(work(profile)) / (len(sizes) - 1)

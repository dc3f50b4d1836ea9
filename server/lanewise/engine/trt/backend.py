"""Backends "tensorrt" and "tensorrt-rtx": plans, and ONNX models whose plan is built once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import structlog

from lanewise.clock import Clock
from lanewise.engine.default_profiles import derive_profiles
from lanewise.engine.runner import LoadedModel
from lanewise.engine.source import ModelSource
from lanewise.engine.trt.binding import Binding, TrtBackend, bind
from lanewise.engine.trt.build import build_plan, require_builder
from lanewise.engine.trt.context import ProfileContext
from lanewise.engine.trt.introspect import EngineFacts, describe_engine, plan_engine_profiles
from lanewise.engine.trt.loader import LoadedEngine, load_engine
from lanewise.engine.trt.messages import Severity
from lanewise.engine.trt.plan_cache import cached_plan, runtime_cache_file
from lanewise.engine.trt.runner import DEPTH, GRAPH_BUDGET_BYTES, RunnerOptions, TrtRunner
from lanewise.engine.trt.runtime_cache import RuntimeCache
from lanewise.errors import ConfigError
from lanewise.memory import device
from lanewise.model_settings import ModelSettings, ProfileSettings
from lanewise.models import ModelSpec, Profile
from lanewise.tensors import element_count

_log = structlog.get_logger(__name__)

PLAN_SUFFIX = ".plan"


def load_tensorrt(source: ModelSource, settings: ModelSettings, clock: Clock) -> LoadedModel:
    """Load a model with TensorRT. See `LoadModel`."""
    return _load("tensorrt", source, settings)


def load_rtx(source: ModelSource, settings: ModelSettings, clock: Clock) -> LoadedModel:
    """Load a model with TensorRT-RTX. See `LoadModel`."""
    return _load("tensorrt-rtx", source, settings)


def _load(backend: TrtBackend, source: ModelSource, settings: ModelSettings) -> LoadedModel:
    binding = bind(backend)
    facts_of_device = device.require_device()
    plan = _find_plan(binding, source, settings, facts_of_device.title)
    loaded = load_engine(binding, plan, allow_host_code=settings.tensorrt.allow_host_code)
    facts = describe_engine(binding, loaded.engine)
    if unserved := [t.name for t in facts.inputs if t.name in facts.shape_tensors]:
        raise ConfigError(
            f"{source.file}: {', '.join(unserved)}: inputs that are shape tensors are not served "
            f"by backend '{backend}' yet; make them constants of the model, or serve it with "
            "backend 'onnxruntime'"
        )
    if settings.profiles is None and source.file.suffix != PLAN_SUFFIX:
        # The plan has the profiles that were derived when it was built, but not their names.
        derived = derive_profiles(
            facts.inputs, source.settings_file, batching=settings.batching is not False
        )
        names = tuple(ProfileSettings(name=each.name) for each in derived)
        settings = settings.model_copy(update={"profiles": names})
    profiles = plan_engine_profiles(facts, plan, settings, source.settings_file)
    spec = ModelSpec(
        name=source.name,
        version=source.version,
        backend=backend,
        inputs=facts.inputs,
        outputs=facts.outputs,
        batching=profiles.batching,
        rowwise=profiles.rowwise,
        profiles=profiles.profiles,
    )
    wanted = _count_runners(spec, settings, source.settings_file)
    _require_memory(spec, facts, wanted, source.file)
    kernels = RuntimeCache(binding, loaded.engine, runtime_cache_file(plan, facts_of_device.title))
    make_runner = functools.partial(_make_runner, binding, loaded, facts, kernels)
    runners: list[TrtRunner] = []
    try:
        for profile in spec.profiles:
            runners += (make_runner(spec, profile) for _ in range(wanted[profile.name]))
    except BaseException as error:
        for runner in runners:
            runner.close()
        if isinstance(error, device.CudaError) and error.is_out_of_memory:
            raise ConfigError(
                f"{source.file}: too little device memory: {error}; build it with smaller maximum "
                "shapes or fewer profiles, or serve it from another device"
            ) from error
        raise
    return LoadedModel(spec, tuple(runners), is_compiled=settings.tensorrt.self_check)


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


def _count_runners(spec: ModelSpec, settings: ModelSettings, file: Path) -> Mapping[str, int]:
    names = [profile.name for profile in spec.profiles]
    for name in settings.tensorrt.runners:
        if name not in names:
            raise ConfigError(
                f"{file}: tensorrt.runners.{name}: there is no such profile; there are "
                f"{', '.join(names)}"
            )
    return {name: settings.tensorrt.runners.get(name, 1) for name in names}


def _require_memory(
    spec: ModelSpec, facts: EngineFacts, runners: Mapping[str, int], file: Path
) -> None:
    """Refuse a model whose runners would not fit beside what the device holds already.

    Counted are scratch memory and the inputs at the profile's maximum; outputs and CUDA
    graphs are small beside them.

    Raises:
        ConfigError: the message has the sum.
    """
    needs = {}
    for profile, built in zip(spec.profiles, facts.profiles, strict=True):
        inputs = sum(
            element_count(profile.ranges[t.name].max) * t.dtype.numpy.itemsize for t in spec.inputs
        )
        one = built.device_memory_bytes + DEPTH * inputs
        needs[profile.name] = one * runners[profile.name]
    free, total = device.free_memory()
    if sum(needs.values()) > free:
        listed = " + ".join(f"{name} {size >> 20} MiB" for name, size in needs.items())
        raise ConfigError(
            f"{file}: its lanes need {sum(needs.values()) >> 20} MiB of device memory ({listed}), "
            f"but {free >> 20} of {total >> 20} MiB are free; build it with smaller maximum "
            "shapes or fewer profiles, or serve it from another device"
        )


def _make_runner(  # noqa: PLR0917 - the first four are the same for all runners
    binding: Binding,
    loaded: LoadedEngine,
    facts: EngineFacts,
    kernels: RuntimeCache,
    spec: ModelSpec,
    profile: Profile,
) -> TrtRunner:
    def make_context(stream: device.Stream) -> ProfileContext:
        return ProfileContext(
            kernels.make_context(),
            profile_index=profile.index,
            scratch_bytes=facts.profiles[profile.index].device_memory_bytes,
            stream=stream,
            why=lambda: _last_error(binding),
        )

    options = RunnerOptions(
        stream_priority=_priority(spec, profile),
        # Weight streaming copies while it executes, which cannot be captured.
        graph_budget_bytes=0 if facts.streamable_weight_bytes else GRAPH_BUDGET_BYTES,
        on_host=facts.host_tensors,
    )
    return TrtRunner(
        make_context, spec, profile, options, keep_alive=loaded, when_warm=kernels.save
    )


def _last_error(binding: Binding) -> str:
    errors = binding.messages.recent(Severity.ERROR)
    return errors[-1] if errors else "TensorRT gives no reason"


def _priority(spec: ModelSpec, profile: Profile) -> float:
    """Rank profiles by the elements of their opt shapes: 1 for the smallest, 0 for the largest.

    The smaller the work, the sooner somebody waits for it: a stream of high priority cuts
    the median latency of single rows beside saturating bulk work from 1.7 to 1.1 ms, for
    4 % of the bulk's throughput (ResNet-50, H200).
    """

    def work(one: Profile) -> int:
        return sum(element_count(limits.opt) for limits in one.ranges.values())

    sizes = sorted({work(one) for one in spec.profiles})
    return 1.0 if len(sizes) == 1 else 1.0 - sizes.index(work(profile)) / (len(sizes) - 1)

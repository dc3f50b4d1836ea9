"""Builds a plan from an ONNX model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from lanewise.backends.onnx_graph import without_false_names
from lanewise.backends.trt.binding import EXTRAS, Binding, TrtObject
from lanewise.backends.trt.build.profiles import (
    BuildProfile,
    BuildProfiles,
    NetworkTensors,
    resolve_profiles,
)
from lanewise.backends.trt.build.progress import LoggedProgress, make_monitor
from lanewise.backends.trt.messages import join_reasons
from lanewise.errors import ConfigError
from lanewise.model.tensors import TensorSpec
from lanewise.settings.model import ModelSettings, TensorRTSettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan and what went into it.

    Attributes:
        data: the content of a plan file.
    """

    data: bytes
    tensors: NetworkTensors
    profiles: tuple[BuildProfile, ...]


def build_plan(
    binding: Binding,
    onnx_file: Path,
    settings: ModelSettings,
    settings_file: Path,
    progress: LoggedProgress | None = None,
) -> BuiltPlan:
    """Build a plan of the model in `onnx_file`. Blocks, for minutes if the model is large.

    The network is strongly typed: its precision is that of the ONNX model. Weights in files
    beside the model are found. TensorRT-RTX needs no device for this.

    Args:
        binding: an edition with a builder.
        onnx_file: the model.
        settings: of the model; its profiles are built, or those that follow by themselves.
        settings_file: what messages about the profiles name.
        progress: None logs it.

    Raises:
        ConfigError: the profiles are wrong, or TensorRT cannot parse or build the model; the
            message has TensorRT's own reasons.
    """
    require_builder(binding)
    module = binding.module
    with binding.messages.collecting() as lines:
        builder = module.Builder(binding.logger)
        if lines.errors:
            raise _failed(binding, onnx_file, "cannot start a builder", lines.errors)
    network = builder.create_network(_network_flags(module))
    # The parser owns weights that the network points to: it must live through the build.
    parser = _parse(binding, network, onnx_file)
    tensors = _read_tensors(binding, network)
    resolved = resolve_profiles(tensors, settings, settings_file)
    _tell_assumptions(onnx_file, resolved)
    config = _configure(binding, builder, settings.tensorrt)
    config.progress_monitor = make_monitor(binding, progress or LoggedProgress())
    with binding.messages.collecting() as lines:
        for profile in resolved.profiles:
            _add_profile(builder, config, profile)
        data = builder.build_serialized_network(network, config)
        if data is None:
            raise _failed(binding, onnx_file, "cannot build this model", lines.errors)
    del parser
    return BuiltPlan(bytes(data), tensors, resolved.profiles)


def require_builder(binding: Binding) -> None:
    """Refuse editions that only run plans.

    Raises:
        ConfigError: `binding` has no builder.
    """
    if not binding.can_build:
        raise ConfigError(
            f"{binding.name} runs plans but has no builder; build with the package "
            f"'tensorrt': pip install 'lanewise[{EXTRAS['tensorrt']}]', or for TensorRT-RTX with "
            f"'tensorrt-rtx': pip install 'lanewise[{EXTRAS['tensorrt-rtx']}]'"
        )


def _network_flags(module: TrtObject) -> int:
    flags = module.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED)


def _parse(binding: Binding, network: TrtObject, onnx_file: Path) -> TrtObject:
    if not onnx_file.is_file():
        raise ConfigError(f"{onnx_file}: is not a file; give the path of an ONNX model")
    with binding.messages.collecting() as lines:
        parser = binding.module.OnnxParser(network, binding.logger)
        named_apart = without_false_names(onnx_file)
        if named_apart is None:
            parsed = parser.parse_from_file(str(onnx_file))
        else:  # the path is for weights in files beside it
            parsed = parser.parse(named_apart, str(onnx_file))
        problems = tuple(_parser_problems(parser))
        if not parsed or problems:
            reasons = problems or lines.errors
            raise _failed(binding, onnx_file, "cannot read this model", reasons)
        # 1.6 takes a file without a single ONNX message in it for an empty model.
        if network.num_outputs == 0:
            raise _failed(binding, onnx_file, "finds no outputs in this file", lines.errors)
    return parser


def _parser_problems(parser: TrtObject) -> Iterator[str]:
    """Describe every error of the parser: the node, its operator, what is wrong with it."""
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name, operator = error.node_name(), error.node_operator()
        where = f"node {error.node()}" if error.node() >= 0 else "the model"
        if name:
            where += f" '{name}'"
        if operator:
            where += f" ({operator})"
        code = str(error.code()).rpartition(".")[2]
        yield f"{where}: {code}: {error.desc()} (in {error.func()})"


def _read_tensors(binding: Binding, network: TrtObject) -> NetworkTensors:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return NetworkTensors(
        inputs=tuple(_spec(binding, each) for each in inputs),
        outputs=tuple(_spec(binding, each) for each in outputs),
        shape_tensors=frozenset(each.name for each in inputs if each.is_shape_tensor),
    )


def _spec(binding: Binding, tensor: TrtObject) -> TensorSpec:
    dtype = binding.dtype(tensor.dtype, tensor.name)
    return TensorSpec(tensor.name, dtype, tuple(int(size) for size in tensor.shape))


def _configure(binding: Binding, builder: TrtObject, settings: TensorRTSettings) -> TrtObject:
    module = binding.module
    config = builder.create_builder_config()
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.compute_capabilities:
        _target(binding, config, settings.compute_capabilities)
    return config


def _target(binding: Binding, config: TrtObject, capabilities: tuple[str, ...]) -> None:
    """Narrow the plan to some devices. Without this it runs on every one from 8.0 on."""
    if not binding.is_rtx:
        raise ConfigError(
            f"tensorrt.compute_capabilities: {binding.name} builds for the device it runs on; "
            "leave the key out, or use backend 'tensorrt-rtx'"
        )
    known = binding.module.ComputeCapability
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        name = f"SM{capability.replace('.', '')}"
        if not hasattr(known, name):
            numbers = sorted(int(each[2:]) for each in known.__members__ if each.startswith("SM"))
            raise ConfigError(
                f"tensorrt.compute_capabilities: {binding.name} cannot build for {capability}; "
                f"it can for {', '.join(f'{each // 10}.{each % 10}' for each in numbers)}"
            )
        config.set_compute_capability(getattr(known, name), index)


def _add_profile(builder: TrtObject, config: TrtObject, profile: BuildProfile) -> None:
    """Add `profile`; if TensorRT has objections it logs them, and the build fails."""
    added = builder.create_optimization_profile()
    for name, shapes in profile.shapes.items():
        added.set_shape(name, shapes.min, shapes.opt, shapes.max)
    for name, values in profile.values.items():
        added.set_shape_input(name, values.min, values.opt, values.max)
    config.add_optimization_profile(added)


def _tell_assumptions(onnx_file: Path, resolved: BuildProfiles) -> None:
    for assumption in resolved.assumptions:
        _log.warning("profile completed", file=str(onnx_file), assumption=assumption)


def _failed(binding: Binding, onnx_file: Path, what: str, reasons: tuple[str, ...]) -> ConfigError:
    return ConfigError(
        f"{onnx_file}: {binding.name} {what}: {join_reasons(reasons, 'it gives no reason')}"
    )

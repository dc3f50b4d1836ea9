"""Models that real lanes are made of: one for each backend.

On the GPU with profiles of 1, 1 to 32 and 128 rows; elsewhere without the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import LoadedModel
from lanewise.clock import Clock
from lanewise.settings.model import read_model_settings

CHANNELS, SIZE, FILTERS, CLASSES = 8, 32, 32, 10

SETTINGS = """
backend = "{backend}"
batching = true
max_queue_delay_ms = 2.0
[onnxruntime]
threads = 1
[[profiles]]
name = "dynamic"
tensors.X = {{ min = [1, {item}], opt = [4, {item}], max = [32, {item}] }}
[[profiles]]
name = "offline"
tensors.X = {{ min = [128, {item}], opt = [128, {item}], max = [128, {item}] }}
"""
"""Two lanes of one thread each: as many as a small machine has cores. More would wait for each
other in ways that no pair of them shows."""

SIMULATED = """
[[inputs]]
name = "X"
datatype = "FP32"
shape = [-1, 1]
[[outputs]]
name = "Y"
datatype = "FP32"
shape = [-1, 1]
copy_of = "X"
[latency]
default = { rows = [1, 8, 128], ms = [40.0, 50.0, 250.0] }
"""
"""Slow launches, beside which the noise of a busy machine is small."""


def load_lanes(backend: str, folder: Path, clock: Clock) -> LoadedModel:
    """Write the backend's model into `folder` and load it; it is not warmed up. Blocks."""
    file = _WRITERS[backend](folder)
    (source,) = find_models(file)
    return load_model(source, read_model_settings(source.settings_file), clock=clock)


def _write_simulated(folder: Path) -> Path:
    """Write a model that takes its time and computes nothing."""
    _write_settings(folder, "simulated", "1")
    file = folder / "model.sim.toml"
    file.write_text(SIMULATED, encoding="utf-8")
    return file


def _write_convolutions(folder: Path) -> Path:
    """Write two convolutions in FP32, some 0.5 ms a row on one core.

    Their weights fit into a core's cache: a model that reads more takes two to three times as
    long when other lanes, or none, ran before it than back to back, as costs are measured.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    _write_settings(folder, "onnxruntime", f"{CHANNELS}, {SIZE}, {SIZE}")
    draw = np.random.default_rng(0)
    shapes = {
        "w0": (FILTERS, CHANNELS, 3, 3),
        "w1": (FILTERS, FILTERS, 3, 3),
        "w2": (FILTERS, CLASSES),
    }
    weights = [
        numpy_helper.from_array(draw.standard_normal(shape, np.float32) * 0.1, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["X", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["Y"]),
    ]
    x = helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["rows", CHANNELS, SIZE, SIZE])
    y = helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["rows", CLASSES])
    graph = helper.make_graph(nodes, "convolutions", [x], [y], weights)
    opset = helper.make_opsetid("", 21)
    file = folder / "convolutions.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), file)
    return file


def _write_resnet(folder: Path) -> Path:
    """Write ResNet-50 and build its plan, which takes a minute."""
    from benchmarks.gpu.models import resnet_profiles, save_resnet
    from lanewise.backends.trt.binding import bind
    from lanewise.backends.trt.build.builder import build_plan

    model = save_resnet(folder, resnet_profiles())
    settings_file = folder / "model.toml"
    settings = read_model_settings(settings_file)
    plan = folder / "resnet50.plan"
    plan.write_bytes(build_plan(bind("tensorrt-rtx"), model, settings, settings_file).data)
    return plan


def _write_settings(folder: Path, backend: str, item: str) -> None:
    text = SETTINGS.format(backend=backend, item=item)
    (folder / "model.toml").write_text(text, encoding="utf-8")


_WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "onnxruntime": _write_convolutions,
    "tensorrt-rtx": _write_resnet,
    "simulated": _write_simulated,
}

BACKENDS = tuple(_WRITERS)

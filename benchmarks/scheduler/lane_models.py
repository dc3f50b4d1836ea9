"""Models that real lanes are made of: one for each backend, with profiles of 1, 1 to 32 and 128 rows.

Written without ONNX's Python package where the backend does not need it, and imported when chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lanewise.clock import Clock
from lanewise.engine.repository import find_models, load_model
from lanewise.engine.runner import LoadedModel
from lanewise.model_settings import read_model_settings

WIDTH = 1024
LAYERS = 3

SETTINGS = """
backend = "{backend}"
batching = true
max_queue_delay_ms = 2.0
[onnxruntime]
threads = 1
[[profiles]]
name = "online"
tensors.X = {{ min = [1, {width}], opt = [1, {width}], max = [1, {width}] }}
[[profiles]]
name = "dynamic"
tensors.X = {{ min = [1, {width}], opt = [4, {width}], max = [32, {width}] }}
[[profiles]]
name = "offline"
tensors.X = {{ min = [128, {width}], opt = [128, {width}], max = [128, {width}] }}
"""

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
    _write_settings(folder, "simulated", width=1)
    file = folder / "model.sim.toml"
    file.write_text(SIMULATED, encoding="utf-8")
    return file


def _write_perceptron(folder: Path) -> Path:
    """Write LAYERS fully connected layers of WIDTH in FP32.

    Like a network on a GPU, and unlike a convolution on a CPU, it costs little more for a few
    rows than for one: that takes as long as it takes to read the weights.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    _write_settings(folder, "onnxruntime", WIDTH)
    draw = np.random.default_rng(0)
    nodes, weights, x = [], [], "X"
    for layer in range(LAYERS):
        values = draw.standard_normal((WIDTH, WIDTH), np.float32) * WIDTH**-0.5
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        y = "Y" if layer == LAYERS - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [x, f"w{layer}"], [y]))
        x = y
    tensors = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", WIDTH])
        for name in "XY"
    ]
    graph = helper.make_graph(nodes, "perceptron", tensors[:1], tensors[1:], weights)
    opset = helper.make_opsetid("", 21)
    file = folder / "perceptron.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), file)
    return file


def _write_resnet(folder: Path) -> Path:
    """Write ResNet-50 and build its plan, which takes a minute."""
    from benchmarks.gpu.models import resnet_profiles, save_resnet
    from lanewise.engine.trt.binding import bind
    from lanewise.engine.trt.build import build_plan

    model = save_resnet(folder, resnet_profiles())
    settings_file = folder / "model.toml"
    settings = read_model_settings(settings_file)
    plan = folder / "resnet50.plan"
    plan.write_bytes(build_plan(bind("tensorrt-rtx"), model, settings, settings_file).data)
    return plan


def _write_settings(folder: Path, backend: str, width: int) -> None:
    text = SETTINGS.format(backend=backend, width=width)
    (folder / "model.toml").write_text(text, encoding="utf-8")


_WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "onnxruntime": _write_perceptron,
    "tensorrt-rtx": _write_resnet,
    "simulated": _write_simulated,
}

BACKENDS = tuple(_WRITERS)

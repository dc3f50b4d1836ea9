"""TensorRT without a GPU: its packages, models to build, and an engine we own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import helper

from helpers.models import save_onnx, tensor
from lanewise.engine.trt.binding import Binding, bind
from lanewise.engine.trt.plan_header import HEADER_BYTES
from lanewise.tensors import DYNAMIC, DType, Shape, TensorSpec

REQUIRED = "LANEWISE_REQUIRE_TENSORRT"
"""Environment variable; set to 1, a missing package fails its tests instead of skipping them."""

PACKAGES = {
    "cuda": "cuda-python",
    "tensorrt_lean": "tensorrt-lean",
    "tensorrt_rtx": "tensorrt-rtx==1.6.1.120",
}

DIGITS = Path(__file__).parents[2] / "examples/digits/models/digits/1/model.onnx"


def import_tensorrt(name: str) -> ModuleType:
    """Import a module of TensorRT or CUDA by its name, or skip the test that calls this."""
    if importlib.util.find_spec(name) is None:
        message = f"{name} is not installed; pip install {PACKAGES.get(name, name)} brings it"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{message} ({REQUIRED}=1)", pytrace=False)
        pytest.skip(message)
    return importlib.import_module(name)


def bind_rtx() -> Binding:
    """Get the binding of TensorRT-RTX, or skip the test that calls this."""
    import_tensorrt("tensorrt_rtx")
    return bind("tensorrt-rtx")


def save_expand(file: Path) -> Path:
    """Write a model that broadcasts X [rows, 1] to the shape that INT64 S [2] holds."""
    return save_onnx(
        file,
        [helper.make_node("Expand", ["X", "S"], ["Y"])],
        [tensor("X", shape=(DYNAMIC, 1)), tensor("S", DType.INT64, (2,))],
        [tensor("Y", shape=(DYNAMIC, DYNAMIC))],
    )


def save_add(file: Path) -> Path:
    """Write a model that adds X and Z, both of any two dimensions."""
    shape = (DYNAMIC, DYNAMIC)
    return save_onnx(
        file,
        [helper.make_node("Add", ["X", "Z"], ["Y"])],
        [tensor("X", shape=shape), tensor("Z", shape=shape)],
        [tensor("Y", shape=shape)],
    )


def save_matmul(file: Path) -> Path:
    """Write a model that multiplies X [rows, 3] by constant weights."""
    return save_onnx(
        file,
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        [tensor("X")],
        [tensor("Y", shape=(DYNAMIC, 300))],
        {"W": np.ones((3, 300), np.float32)},
    )


def save_operator(file: Path, operator: str, output: TensorSpec) -> Path:
    """Write a model of one node "culprit" whose `operator` makes `output` of X [rows, 3, 3]."""
    node = helper.make_node(operator, ["X"], [output.name], name="culprit")
    return save_onnx(file, [node], [tensor("X", shape=(DYNAMIC, 3, 3))], [output])


def plan_header(tag: bytes, version: tuple[int, int, int, int] = (10, 7, 0, 23)) -> bytes:
    """Make the first bytes of a plan, which `tag` says is whose."""
    head = bytearray(HEADER_BYTES)
    head[:4] = tag
    head[24:28] = bytes(version)
    return bytes(head)


def save_plan(folder: Path, content: bytes) -> Path:
    """Write model.plan."""
    file = folder / "model.plan"
    file.write_bytes(content)
    return file


@dataclass
class FakeTensor:
    """A tensor of `FakeEngine`; `dtype` is a name of TensorRT's DataType.

    Attributes:
        profiles: for each profile min, opt and max of the shape, or of the values if this
            is a shape tensor; empty for an output.
    """

    name: str
    dtype: str
    shape: Shape
    profiles: Sequence[Sequence[Shape]] = ()
    is_shape: bool = False


class FakeEngine:
    """Answers what an ICudaEngine answers before it runs."""

    def __init__(
        self,
        module: ModuleType,
        tensors: Sequence[FakeTensor],
        memory_bytes: Mapping[int, int],
        *,
        streamable_weights_size: int = 0,
    ) -> None:
        self._module = module
        self._tensors = {each.name: each for each in tensors}
        self._memory_bytes = memory_bytes
        self.num_io_tensors = len(tensors)
        self.num_optimization_profiles = len(memory_bytes)
        self.num_aux_streams = 2
        self.streamable_weights_size = streamable_weights_size
        self.device_memory_size_v2 = max(memory_bytes.values())

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name):
        return getattr(self._module.DataType, self._tensors[name].dtype)

    def get_tensor_mode(self, name):
        mode = self._module.TensorIOMode
        return mode.INPUT if self._tensors[name].profiles else mode.OUTPUT

    def get_tensor_location(self, name):
        location = self._module.TensorLocation
        return location.HOST if self._tensors[name].is_shape else location.DEVICE

    def get_tensor_shape(self, name):
        return self._module.Dims(self._tensors[name].shape)

    def is_shape_inference_io(self, name):
        return self._tensors[name].is_shape

    def get_tensor_profile_shape(self, name, profile_index):
        assert not self._tensors[name].is_shape
        return [self._module.Dims(corner) for corner in self._tensors[name].profiles[profile_index]]

    def get_tensor_profile_values(self, name, profile_index):
        # The real method takes the index first, whatever its parameters are called.
        profile, tensor_name = name, profile_index
        assert self._tensors[tensor_name].is_shape
        return [list(corner) for corner in self._tensors[tensor_name].profiles[profile]]

    def get_device_memory_size_for_profile_v2(self, profile_index):
        return self._memory_bytes[profile_index]

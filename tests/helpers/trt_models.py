"""TensorRT without a GPU: its packages, models to build, and an engine we own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import helper

from helpers.models import ONNX_TYPES, save_onnx, tensor
from lanewise.backends.trt.binding import Binding, bind, make_binding
from lanewise.backends.trt.build.plan_header import HEADER_BYTES
from lanewise.errors import ConfigError
from lanewise.model.tensors import DYNAMIC, DType, Shape, TensorSpec

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


def bind_lean() -> Binding:
    """Get a binding of TensorRT's lean runtime, or skip the test that calls this."""
    return make_binding("tensorrt", "Lean", import_tensorrt("tensorrt_lean"))


def load_refusal(bind: Callable[[], Binding], file: Path) -> str:
    """Get why the plan in `file` cannot be loaded; for a process of its own."""
    from lanewise.backends.trt.loader import load_engine

    with pytest.raises(ConfigError) as raised:
        load_engine(bind(), file)
    return str(raised.value)


def save_expand(file: Path) -> Path:
    """Write a model that broadcasts X [rows, 1] to the shape that INT64 S [2] holds."""
    return save_onnx(
        file,
        [helper.make_node("Expand", ["X", "S"], ["Y"])],
        [tensor("X", shape=(DYNAMIC, 1)), tensor("S", DType.INT64, (2,))],
        [tensor("Y", shape=(DYNAMIC, DYNAMIC))],
    )


def save_cut(file: Path) -> Path:
    """Write a model that cuts every row of X [rows, 6] after as many items as INT32 E [1] says."""
    return save_onnx(
        file,
        [
            helper.make_node("Cast", ["E"], ["end"], to=ONNX_TYPES[DType.INT64]),
            helper.make_node("Slice", ["X", "start", "end", "axis"], ["Y"]),
        ],
        [tensor("X", shape=(DYNAMIC, 6)), tensor("E", DType.INT32, (1,))],
        [tensor("Y", shape=(DYNAMIC, DYNAMIC))],
        {"start": np.array([0]), "axis": np.array([1])},
    )


def save_reshape(file: Path) -> Path:
    """Write a model that gives X [rows, 6] the shape that INT64 S [2] holds."""
    return save_onnx(
        file,
        [helper.make_node("Reshape", ["X", "S"], ["Y"])],
        [tensor("X", shape=(DYNAMIC, 6)), tensor("S", DType.INT64, (2,))],
        [tensor("Y", shape=(DYNAMIC, DYNAMIC), rows_name="")],
    )


def save_repeat(file: Path) -> Path:
    """Write a model whose Y [sum of X] is all 7, for X [rows, 2], and whose Z is 2 X.

    The size of Y depends on the data. Of the operators that do so without a shape tensor,
    TensorRT-RTX 1.6 builds those whose sizes are computed; it has no kernel for NonZero,
    NonMaxSuppression, Unique and Compress.
    """
    return save_onnx(
        file,
        [
            helper.make_node("ReduceSum", ["X", "axes"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["count"], to=ONNX_TYPES[DType.INT64]),
            helper.make_node("Reshape", ["count", "vector"], ["size"]),
            helper.make_node("Expand", ["seven", "size"], ["Y"]),
            helper.make_node("Add", ["X", "X"], ["Z"]),
        ],
        [tensor("X", shape=(DYNAMIC, 2))],
        [tensor("Y", shape=(DYNAMIC,), rows_name="count"), tensor("Z", shape=(DYNAMIC, 2))],
        {
            "axes": np.array([0, 1]),
            "vector": np.array([1]),
            "seven": np.array([7], np.float32),
        },
    )


def save_conversions(file: Path, dtype: DType) -> Path:
    """Write a model with "numbers", FP32, of X in `dtype`, and Y in `dtype` of F in FP32.

    All are [rows, 3]. INT8 and FP8 are quantised with a scale of 1: numbers up to their
    largest are what they are.
    """
    if dtype in (DType.INT8, DType.FP8_E4M3FN):
        nodes = [
            helper.make_node("DequantizeLinear", ["X", "one", "zero"], ["numbers"]),
            helper.make_node("QuantizeLinear", ["F", "one", "zero"], ["Y"]),
        ]
        constants = {"one": np.array(1, np.float32), "zero": np.array(0, dtype.numpy)}
    else:
        nodes = [
            helper.make_node("Cast", ["X"], ["numbers"], to=ONNX_TYPES[DType.FP32]),
            helper.make_node("Cast", ["F"], ["Y"], to=ONNX_TYPES[dtype]),
        ]
        constants = {}
    return save_onnx(
        file,
        nodes,
        [tensor("X", dtype), tensor("F")],
        [tensor("numbers"), tensor("Y", dtype)],
        constants,
    )


def save_several(file: Path) -> Path:
    """Write a model with inputs and outputs of many ranks and datatypes.

    Inputs X FP32 [rows, 4], ids INT64 [rows], image FP16 [rows, 2, 3, 3], and table FP32
    [5, 4], which is no row-wise input. Outputs Y = X + table[ids], is_large BOOL = Y > 0.5,
    next INT64 = ids + 1, and brightest FP16 [rows, 2], the maximum of each image's planes.
    """
    return save_onnx(
        file,
        [
            helper.make_node("Gather", ["table", "ids"], ["found"]),
            helper.make_node("Add", ["X", "found"], ["Y"]),
            helper.make_node("Greater", ["Y", "half"], ["is_large"]),
            helper.make_node("Add", ["ids", "one"], ["next"]),
            helper.make_node("ReduceMax", ["image", "plane"], ["brightest"], keepdims=0),
        ],
        [
            tensor("X", shape=(DYNAMIC, 4)),
            tensor("ids", DType.INT64, (DYNAMIC,)),
            tensor("image", DType.FP16, (DYNAMIC, 2, 3, 3)),
            tensor("table", shape=(5, 4)),
        ],
        [
            tensor("Y", shape=(DYNAMIC, 4)),
            tensor("is_large", DType.BOOL, (DYNAMIC, 4)),
            tensor("next", DType.INT64, (DYNAMIC,)),
            tensor("brightest", DType.FP16, (DYNAMIC, 2)),
        ],
        {
            "half": np.array(0.5, np.float32),
            "one": np.array(1),
            "plane": np.array([2, 3]),
        },
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

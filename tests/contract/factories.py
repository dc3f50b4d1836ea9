"""What the contract tests need of a backend; a new backend joins by adding one factory."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import helper

from helpers.models import InstantClock, save_onnx, save_onnx_echo, save_simulated_echo, tensor
from lanewise.backends.repository import find_models, load_model
from lanewise.backends.runner import LoadedModel
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec
from lanewise.settings.model import ModelSettings

Tensors = Sequence[TensorSpec]


class RunnerFactory(Protocol):
    """Makes models of one backend.

    `dtypes` are those that its inputs and outputs may have. Factories with `computes` can
    also make the models of `ComputingFactory`. `starts` tells whether its runners can start
    a batch without waiting for it.
    """

    name: str
    dtypes: frozenset[DType]
    computes: bool
    starts: bool

    def echo(
        self, folder: Path, inputs: Tensors, unused: Tensors, settings: ModelSettings
    ) -> LoadedModel:
        """Make a model with an output echo_X for every input X but the `unused` ones."""
        ...


class ComputingFactory(RunnerFactory, Protocol):
    """Makes models whose results and failures depend on the data."""

    def nonzero(self, folder: Path, settings: ModelSettings) -> LoadedModel:
        """Make a model without batching: X FP32 [-1] to Y INT64 [1, nonzero elements of X]."""
        ...

    def find(self, folder: Path, settings: ModelSettings) -> LoadedModel:
        """Make a model X FP32 [-1, 2] to Y INT64 [-1, 2]: the places where X is not 0.

        Its dynamic dimensions 0 have different names.
        """
        ...

    def lookup(self, folder: Path, settings: ModelSettings) -> LoadedModel:
        """Make a model X INT64 [-1] to Y FP32 [-1] that fails where X is not 0 or 1.

        Y is 10 where X is 0, and 20 where X is 1.
        """
        ...

    def shift(self, folder: Path, settings: ModelSettings) -> LoadedModel:
        """Make a model X FP32 [-1, 2], S FP32 [2] to Y = X + S, where S is no row-wise input."""
        ...


@dataclass(frozen=True)
class OnnxRuntimeFactory:
    name: str = "onnxruntime"
    dtypes: frozenset[DType] = field(default_factory=lambda: frozenset(DType))
    computes: bool = True
    starts: bool = False

    def echo(self, folder, inputs, unused, settings):
        return load(save_onnx_echo(folder / "echo.onnx", inputs, unused), settings)

    def nonzero(self, folder, settings):
        file = save_onnx(
            folder / "nonzero.onnx",
            [helper.make_node("NonZero", ["X"], ["Y"])],
            [tensor("X", DType.FP32, (DYNAMIC,))],
            [tensor("Y", DType.INT64, (1, DYNAMIC))],
        )
        return load(file, settings)

    def find(self, folder, settings):
        file = save_onnx(
            folder / "find.onnx",
            [
                helper.make_node("NonZero", ["X"], ["places"]),
                helper.make_node("Transpose", ["places"], ["Y"]),
            ],
            [tensor("X", DType.FP32, (DYNAMIC, 2), "N")],
            [tensor("Y", DType.INT64, (DYNAMIC, 2), "found")],
        )
        return load(file, settings)

    def lookup(self, folder, settings):
        file = save_onnx(
            folder / "lookup.onnx",
            [helper.make_node("Gather", ["table", "X"], ["Y"])],
            [tensor("X", DType.INT64, (DYNAMIC,))],
            [tensor("Y", DType.FP32, (DYNAMIC,))],
            {"table": np.array([10, 20], np.float32)},
        )
        return load(file, settings)

    def shift(self, folder, settings):
        file = save_onnx(
            folder / "shift.onnx",
            [helper.make_node("Add", ["X", "S"], ["Y"])],
            [tensor("X", DType.FP32, (DYNAMIC, 2)), tensor("S", DType.FP32, (2,))],
            [tensor("Y", DType.FP32, (DYNAMIC, 2))],
        )
        return load(file, settings)


@dataclass(frozen=True)
class SimulatedFactory:
    name: str = "simulated"
    dtypes: frozenset[DType] = field(default_factory=lambda: frozenset(DType))
    computes: bool = False
    starts: bool = False

    def echo(self, folder, inputs, unused, settings):
        return load(save_simulated_echo(folder / "echo.sim.toml", inputs, unused), settings)


@dataclass(frozen=True)
class TensorRTFactory:
    """TensorRT-RTX on the device of this machine; plans are built and cached as in service."""

    name: str = "tensorrt-rtx"
    dtypes: frozenset[DType] = frozenset(
        {
            DType.BOOL,
            DType.UINT8,
            DType.INT8,
            DType.INT32,
            DType.INT64,
            DType.FP16,
            DType.BF16,
            DType.FP32,
            DType.FP8_E4M3FN,
        }
    )
    computes: bool = False
    starts: bool = True

    def echo(self, folder, inputs, unused, settings):
        file = save_onnx_echo(folder / "echo.onnx", inputs, unused)
        return load(file, settings.model_copy(update={"backend": self.name}))


def _device_factories() -> tuple[RunnerFactory, ...]:
    """A factory for what this machine can run beyond the CPU."""
    if not importlib.util.find_spec("tensorrt_rtx") or not importlib.util.find_spec("cuda"):
        return ()
    from lanewise.memory.device import device_count

    return (TensorRTFactory(),) if device_count() else ()


FACTORIES: tuple[RunnerFactory, ...] = (
    OnnxRuntimeFactory(),
    SimulatedFactory(),
    *_device_factories(),
)


def load(file: Path, settings: ModelSettings) -> LoadedModel:
    (source,) = find_models(file)
    if settings.backend == "auto" and file.suffix == ".onnx":
        settings = settings.model_copy(update={"backend": "onnxruntime"})
    return load_model(source, settings, clock=InstantClock())

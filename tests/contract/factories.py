"""What the contract tests need of a backend; a new backend joins by adding one factory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import helper

from helpers.models import InstantClock, save_onnx, save_onnx_echo, save_simulated_echo, tensor
from lanewise.engine.repository import find_models, load_model
from lanewise.engine.runner import LoadedModel
from lanewise.model_settings import ModelSettings
from lanewise.tensors import DYNAMIC, DType, TensorSpec

Tensors = Sequence[TensorSpec]


class RunnerFactory(Protocol):
    """Makes models of one backend.

    `dtypes` are those that its inputs and outputs may have. Factories with `computes` can
    also make the models of `ComputingFactory`.
    """

    name: str
    dtypes: frozenset[DType]
    computes: bool

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

    def echo(self, folder, inputs, unused, settings):
        return load(save_simulated_echo(folder / "echo.sim.toml", inputs, unused), settings)


FACTORIES: tuple[RunnerFactory, ...] = (OnnxRuntimeFactory(), SimulatedFactory())


def load(file: Path, settings: ModelSettings) -> LoadedModel:
    (source,) = find_models(file)
    return load_model(source, settings, clock=InstantClock())

"""The backends of this build, and which of them reads which kind of model file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from lanewise.backends.runner import LoadedModel, ModelSource
from lanewise.backends.trt.build.plan_header import read_plan_header
from lanewise.clock import Clock
from lanewise.errors import ConfigError
from lanewise.settings.model import ModelSettings

MODEL_SUFFIXES = (".onnx", ".plan", ".sim.toml")
"""Endings of model files, whether or not this build has a backend for them."""


LoadModel: TypeAlias = Callable[[ModelSource, ModelSettings, Clock], LoadedModel]
"""Reads the model file and makes its runners, not warmed up.

Raises ConfigError if the file or its settings cannot be served.
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to execute models.

    Attributes:
        reads: endings of the files it reads.
        module: imported when the backend is chosen, not before.
        install: the extra of this distribution that brings what `module` imports.
        load: the function of `module` that loads a model.
        needs: packages, one of which must be installed, beside CUDA and a GPU, for "auto"
            to choose this backend for an ONNX model; empty if it runs anywhere.
    """

    name: str
    reads: tuple[str, ...]
    module: str
    install: str = ""
    load: str = "load"
    needs: tuple[str, ...] = ()

    def is_usable(self) -> bool:
        """Whether "auto" may choose it on this machine. Looks for a GPU only if need be."""
        if not self.needs:
            return True
        if not any(importlib.util.find_spec(package) for package in self.needs):
            return False
        try:
            from lanewise.memory.device import device_count  # noqa: PLC0415 - imports CUDA
        except ImportError:  # no cuda.bindings, whatever else is called cuda
            return False
        return device_count() > 0

    def import_load(self) -> LoadModel:
        """Import the backend.

        Raises:
            ConfigError: a package it needs is not installed, or does not work.
        """
        try:
            return cast(LoadModel, getattr(importlib.import_module(self.module), self.load))
        except ImportError as error:
            if not self.install:
                raise
            raise ConfigError(
                f"backend '{self.name}' cannot be used: {error}; "
                f"to install it: pip install 'lanewise[{self.install}]'"
            ) from error


_TRT = "lanewise.backends.trt.backend"

# "auto" takes the first that reads the file and is usable.
BACKENDS = (
    Backend(
        "tensorrt",
        (".plan", ".onnx"),
        _TRT,
        install="tensorrt",
        load="load_tensorrt",
        needs=("tensorrt",),  # the one that builds
    ),
    Backend(
        "tensorrt-rtx",
        (".plan", ".onnx"),
        _TRT,
        install="rtx",
        load="load_rtx",
        needs=("tensorrt_rtx",),
    ),
    Backend("onnxruntime", (".onnx",), "lanewise.backends.ort", install="cpu"),
    Backend("simulated", (".sim.toml",), "lanewise.backends.simulated"),
)


def model_suffix(file: Path) -> str | None:
    """Get the one of MODEL_SUFFIXES that the name of `file` ends with."""
    return next((suffix for suffix in MODEL_SUFFIXES if file.name.endswith(suffix)), None)


def choose_backend(file: Path, wanted: str) -> Backend:
    """Get the backend named `wanted`, or for "auto" the one for this kind of file.

    A plan goes to the edition of TensorRT that built it; an ONNX model to TensorRT if that
    is installed and there is a GPU, and otherwise to ONNX Runtime.

    Raises:
        ConfigError: this build has no such backend, or it does not read `file`.
    """
    suffix = model_suffix(file)
    if wanted == "auto" and suffix == ".plan":
        wanted = read_plan_header(file).backend
    if wanted == "auto":
        for backend in BACKENDS:
            if suffix in backend.reads and backend.is_usable():
                return backend
        raise ConfigError(
            f"{file}: no backend of this build reads it; there are {_listed()}. "
            "Serve the model in one of these forms"
        )
    for backend in BACKENDS:
        if backend.name == wanted:
            if suffix in backend.reads:
                return backend
            raise ConfigError(
                f"{file}: backend '{wanted}' reads {' and '.join(backend.reads)} files; "
                f"set backend to 'auto', or to one for this file: there are {_listed()}"
            )
    raise ConfigError(
        f"{file}: backend '{wanted}' is not part of this build; there are {_listed()}. "
        "Set backend to one of them or to 'auto'"
    )


def _listed() -> str:
    return ", ".join(f"'{backend.name}' ({', '.join(backend.reads)})" for backend in BACKENDS)

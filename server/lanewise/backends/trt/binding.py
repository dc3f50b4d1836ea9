"""The TensorRT module of this process, whichever of its editions and versions that is."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from lanewise.backends.trt.messages import Messages, Severity
from lanewise.errors import ConfigError
from lanewise.model.tensors import DType

TrtBackend = Literal["tensorrt", "tensorrt-rtx"]

TrtObject: TypeAlias = Any
"""A module, class or object of TensorRT's, which is not typed."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A form in which TensorRT is distributed."""

    module: str
    title: str


EDITIONS: dict[TrtBackend, tuple[Edition, ...]] = {
    "tensorrt": (
        Edition("tensorrt", "TensorRT"),
        Edition("tensorrt_lean", "TensorRT lean runtime"),
        Edition("tensorrt_dispatch", "TensorRT dispatch runtime"),
    ),
    "tensorrt-rtx": (Edition("tensorrt_rtx", "TensorRT-RTX"),),
}
"""By backend; the first that can be imported is used."""

EXTRAS: dict[TrtBackend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
"""Extras of this distribution that bring the packages."""

_DTYPES = {
    "BOOL": DType.BOOL,
    "UINT8": DType.UINT8,
    "INT8": DType.INT8,
    "INT32": DType.INT32,
    "INT64": DType.INT64,
    "HALF": DType.FP16,
    "FLOAT": DType.FP32,
    "BF16": DType.BF16,
    "FP8": DType.FP8_E4M3FN,
}


@dataclass(frozen=True, slots=True)
class Binding:
    """An imported TensorRT module and what this process keeps for it.

    Attributes:
        module: what is used of it is listed, and tested, in tests/helpers/trt_attributes.py.
        title: the edition, for people.
        version: such as "1.6.1.120".
        logger: to be handed to TensorRT; it belongs to the binding and never goes away,
            because TensorRT keeps the first logger it gets.
        messages: what the logger received.
    """

    backend: TrtBackend
    module: TrtObject
    title: str
    version: str
    logger: TrtObject
    messages: Messages

    @property
    def name(self) -> str:
        """Edition and version: "TensorRT-RTX 1.6.1.120"."""
        return f"{self.title} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which compiles for the device when it runs."""
        return self.backend == "tensorrt-rtx"

    @property
    def can_build(self) -> bool:
        return hasattr(self.module, "Builder")

    def dtype(self, trt_dtype: TrtObject, tensor: str) -> DType:
        """Get the datatype of an input or output; `tensor` is its name, for the message.

        Raises:
            ConfigError: there is no such datatype on the wire.
        """
        known = _DTYPES.get(trt_dtype.name)
        if known is None:
            raise ConfigError(
                f"tensor '{tensor}' has TensorRT's datatype {trt_dtype.name}, which cannot be "
                f"served; inputs and outputs may be {', '.join(_DTYPES)}. "
                "Export the model with a cast to one of them"
            )
        return known

    def trt_dtype(self, dtype: DType) -> TrtObject:
        """Get TensorRT's datatype for `dtype`.

        Raises:
            ConfigError: TensorRT has none.
        """
        for name, known in _DTYPES.items():
            if known is dtype:
                return getattr(self.module.DataType, name)
        raise ConfigError(f"TensorRT has no datatype {dtype.value}")


@functools.cache
def bind(backend: TrtBackend) -> Binding:
    """Import TensorRT for `backend`; later calls return the same binding.

    Raises:
        ConfigError: no edition for it is installed, or it cannot be imported.
    """
    missing = []
    for edition in EDITIONS[backend]:
        try:
            module = importlib.import_module(edition.module)
        except ModuleNotFoundError as error:
            if error.name != edition.module:
                raise _unusable(backend, edition, error) from error
            missing.append(edition.module)
        except (ImportError, OSError, RuntimeError) as error:  # its libraries do not load
            raise _unusable(backend, edition, error) from error
        else:
            return make_binding(backend, edition.title, module)
    raise ConfigError(
        f"backend '{backend}' cannot be used: {' or '.join(missing)} is not installed; "
        f"to install it: pip install 'lanewise[{EXTRAS[backend]}]'"
    )


@functools.cache  # what it makes must never go away
def make_binding(backend: TrtBackend, title: str, module: ModuleType) -> Binding:
    """Get the binding of an imported module."""
    messages = Messages(title)
    logger = _make_logger(module, messages)
    # Plans may need the standard plugins; the editions that only run plans have none.
    if hasattr(module, "init_libnvinfer_plugins"):
        module.init_libnvinfer_plugins(logger, "")
    return Binding(backend, module, title, str(module.__version__), logger, messages)


def _unusable(backend: TrtBackend, edition: Edition, error: Exception) -> ConfigError:
    return ConfigError(
        f"backend '{backend}' cannot be used: {edition.module} is installed but cannot be "
        f"imported: {error}; to install it again: "
        f"pip install --force-reinstall 'lanewise[{EXTRAS[backend]}]'"
    )


def _make_logger(module: TrtObject, messages: Messages) -> TrtObject:
    class Logger(module.ILogger):  # type: ignore[misc]
        """Hands every line on."""

        def __init__(self) -> None:
            # Without the explicit call pybind11 refuses the object.
            module.ILogger.__init__(self)

        def log(self, severity: TrtObject, text: str) -> None:
            messages.add(Severity(int(severity)), text)

    return Logger()

"""The file model.sim.toml, which describes a simulated model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lanewise.backends.latency import LatencyTable
from lanewise.model.tensors import DYNAMIC, DType, TensorSpec, format_shape
from lanewise.settings.model import (
    Dims,
    NonEmpty,
    Profiles,
    Table,
    quote_key,
    read_settings_file,
    settings_error,
)

DEFAULT_LATENCY = "default"

_Name = Annotated[str, Field(min_length=1)]
_RowCount = Annotated[int, Field(ge=1)]
_Ms = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TensorSettings(Table):
    """A tensor; -1 in `shape` stands for a dimension of any size."""

    name: _Name
    datatype: Annotated[DType, Field(strict=False)]
    shape: Dims

    @property
    def spec(self) -> TensorSpec:
        """The tensor as all models have them."""
        return TensorSpec(self.name, self.datatype, self.shape)


class OutputSettings(TensorSettings):
    """An output: either the input `copy_of`, or a checksum of the inputs.

    Attributes:
        copy_of: the input whose elements and shape this output has.
        checksum: INT64 [rows], the CRC-32 of each row of all row-wise inputs in their
            order; without batching INT64 [1], that of all inputs.
    """

    copy_of: str | None = None
    checksum: bool = False


class LatencySettings(Table):
    """Execution times in milliseconds at ascending row counts."""

    rows: Annotated[tuple[_RowCount, ...], Field(strict=False), NonEmpty]
    ms: Annotated[tuple[_Ms, ...], Field(strict=False), NonEmpty]

    @property
    def table(self) -> LatencyTable:
        """The times as a function of rows."""
        return LatencyTable.from_ms(self.rows, self.ms)


class SimulatedModel(Table):
    """A whole model.sim.toml.

    Attributes:
        profiles: those "built into" the model; None leaves them to model.toml.
        latency: by the name of the profile; "default" for all others.
    """

    inputs: Annotated[tuple[TensorSettings, ...], Field(strict=False), NonEmpty]
    outputs: Annotated[tuple[OutputSettings, ...], Field(strict=False), NonEmpty]
    profiles: Profiles | None = None
    latency: dict[str, LatencySettings]


def read_simulated_model(file: Path) -> SimulatedModel:
    """Read and check a model.sim.toml.

    Raises:
        ConfigError: see `read_settings_file`; or the file contradicts itself.
    """
    model = read_settings_file(file, SimulatedModel)
    problems = [
        *_tensor_problems("inputs", model.inputs),
        *_tensor_problems("outputs", model.outputs),
        *_output_problems(model),
        *_latency_problems(model),
    ]
    if problems:
        raise settings_error(file, problems)
    return model


def _tensor_problems(key: str, tensors: Sequence[TensorSettings]) -> Iterator[str]:
    names = [tensor.name for tensor in tensors]
    for index, tensor in enumerate(tensors):
        if tensor.name in names[:index]:
            yield f"{key}[{index}].name: '{tensor.name}' is the name of another one too"
        if any(size < DYNAMIC for size in tensor.shape):
            shape = format_shape(tensor.shape)
            yield f"{key}[{index}].shape: is {shape}, but sizes must be 0 or more, or -1 for any"


def _output_problems(model: SimulatedModel) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in model.inputs}
    for index, output in enumerate(model.outputs):
        key = f"outputs[{index}]"
        if output.checksum == (output.copy_of is not None):
            yield f"{key}: must have either copy_of or checksum = true"
        elif output.copy_of is None:
            if output.datatype is not DType.INT64 or len(output.shape) != 1:
                yield f"{key}: a checksum must have datatype INT64 and one dimension"
        elif output.copy_of not in inputs:
            yield f"{key}.copy_of: is '{output.copy_of}', but the inputs are {', '.join(inputs)}"
        else:
            copied = inputs[output.copy_of]
            if (output.datatype, output.shape) != (copied.datatype, copied.shape):
                yield (
                    f"{key}: must have datatype {copied.datatype.value} and shape "
                    f"{format_shape(copied.shape)} as the input '{copied.name}' it copies"
                )


def _latency_problems(model: SimulatedModel) -> Iterator[str]:
    if DEFAULT_LATENCY not in model.latency:
        yield f"latency.{DEFAULT_LATENCY}: is missing"
    for name, latency in model.latency.items():
        key = f"latency.{quote_key(name)}"
        if len(latency.rows) != len(latency.ms):
            yield f"{key}: has {len(latency.rows)} rows and {len(latency.ms)} ms; they are pairs"
        if list(latency.rows) != sorted(set(latency.rows)):
            yield f"{key}.rows: must ascend"

"""Backend "simulated": models that take the time a table says and compute next to nothing.

For load tests, demonstrations and everything else that needs a server but no model. The file
model.sim.toml describes one.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lanewise.backends.host_runner import HostRunner
from lanewise.backends.profiles import CarriedProfiles, plan_profiles
from lanewise.backends.runner import LoadedModel, ModelSource
from lanewise.clock import NS_PER_MS, Clock
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import DYNAMIC, Array, DType, TensorSpec, format_shape
from lanewise.settings.model import (
    Dims,
    ModelSettings,
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


class OutputSettings(TensorSettings):
    """An output: either the input `copy_of`, or a checksum of the inputs.

    Attributes:
        copy_of: the input whose elements and shape this output has.
        checksum: INT64 [rows], the CRC-32 of each row of all row-wise inputs in their
            order; without batching INT64 [1], that of all inputs.
    """

    copy_of: str | None = None
    checksum: bool = False


class LatencyTable(Table):
    """Execution times in milliseconds at ascending row counts."""

    rows: Annotated[tuple[_RowCount, ...], Field(strict=False), NonEmpty]
    ms: Annotated[tuple[_Ms, ...], Field(strict=False), NonEmpty]

    def execution_ns(self, rows: int) -> int:
        """Interpolate the time of `rows` rows linearly between the two neighbours in the table.

        Below the first point it is the time there; beyond the last, the line through the
        last two is extended, but never below zero.
        """
        if rows <= self.rows[0] or len(self.rows) == 1:
            return round(self.ms[0] * NS_PER_MS)
        right = min(bisect_right(self.rows, rows), len(self.rows) - 1)
        left = right - 1
        slope = (self.ms[right] - self.ms[left]) / (self.rows[right] - self.rows[left])
        return max(0, round((self.ms[left] + slope * (rows - self.rows[left])) * NS_PER_MS))


class SimulatedModel(Table):
    """A whole model.sim.toml.

    Attributes:
        profiles: those "built into" the model; None leaves them to model.toml.
        latency: by the name of the profile; "default" for all others.
    """

    inputs: Annotated[tuple[TensorSettings, ...], Field(strict=False), NonEmpty]
    outputs: Annotated[tuple[OutputSettings, ...], Field(strict=False), NonEmpty]
    profiles: Profiles | None = None
    latency: dict[str, LatencyTable]


def load(source: ModelSource, settings: ModelSettings, clock: Clock) -> LoadedModel:
    """Load a model.sim.toml, and make one runner for each profile. See `LoadModel`."""
    model = _read_model(source.file)
    inputs, outputs = (
        tuple(TensorSpec(each.name, each.datatype, each.shape) for each in tensors)
        for tensors in (model.inputs, model.outputs)
    )
    carried = CarriedProfiles(model.profiles, source.file) if model.profiles else None
    plan = plan_profiles(inputs, outputs, settings, source.settings_file, carried)
    spec = plan.make_spec(source, "simulated", inputs, outputs)
    copies = {output.name: output.copy_of for output in model.outputs}
    latencies = _latency_tables(model, source, spec.profiles)
    runners = tuple(
        HostRunner(spec, profile, SimulatedExecution(spec, copies, latency, clock))
        for profile, latency in zip(spec.profiles, latencies, strict=True)
    )
    return LoadedModel(spec, runners)


class SimulatedExecution:
    """Blocks for as long as `latency` says, then copies inputs or takes their checksums.

    `copies` maps each output to the input it copies; None makes it a checksum.
    """

    def __init__(
        self,
        spec: ModelSpec,
        copies: Mapping[str, str | None],
        latency: LatencyTable,
        clock: Clock,
    ) -> None:
        self._copies = copies
        self._latency = latency
        self._clock = clock
        self._batching = spec.batching
        names = [tensor.name for tensor in spec.inputs]
        self._checked = [name for name in names if name in spec.rowwise or not spec.batching]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        columns = [inputs[name] for name in self._checked]
        if not self._batching:
            columns = [column[np.newaxis] for column in columns]
        rows = columns[0].shape[0]
        self._clock.block_for(self._latency.execution_ns(rows))
        return {
            output: _checksums(columns, rows) if copied is None else inputs[copied].copy()
            for output, copied in self._copies.items()
        }


def _checksums(columns: Sequence[Array], rows: int) -> Array:
    return np.array(
        [_row_checksum(column[row : row + 1] for column in columns) for row in range(rows)],
        np.int64,
    )


def _row_checksum(arrays: Iterable[Array]) -> int:
    """Get the CRC-32 of the bytes of `arrays`, one after the other.

    Bytes are row-major and little-endian; an element of a BYTES tensor follows its length
    in four bytes.
    """
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(_element_bytes(array), checksum)
    return checksum


def _element_bytes(array: Array) -> bytes:
    if not array.dtype.hasobject:
        return array.tobytes()
    return b"".join(len(each).to_bytes(4, "little") + each for each in array.reshape(-1).tolist())


def _latency_tables(
    model: SimulatedModel, source: ModelSource, profiles: Sequence[Profile]
) -> list[LatencyTable]:
    """Get the latency of each profile, by the name it has in the file if it comes from there.

    Raises:
        ConfigError: the file has a latency for a profile that does not exist.
    """
    names = [profile.name for profile in profiles]
    for index, entry in enumerate(model.profiles or ()):
        names[index] = entry.name if entry.name is not None else f"p{index}"
    unknown = [name for name in model.latency if name not in (DEFAULT_LATENCY, *names)]
    if unknown:
        raise settings_error(
            source.file,
            [
                f"latency.{quote_key(name)}: no profile has this name; they are {', '.join(names)}"
                for name in unknown
            ],
        )
    default = model.latency[DEFAULT_LATENCY]
    return [model.latency.get(name, default) for name in names]


def _read_model(file: Path) -> SimulatedModel:
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

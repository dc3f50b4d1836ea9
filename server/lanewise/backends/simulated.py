"""Backend "simulated": models that take the time a table says and compute next to nothing.

For load tests, demonstrations and everything else that needs a server but no model.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lanewise.backends.host_runner import HostRunner
from lanewise.backends.latency import LatencyTable
from lanewise.backends.profiles import CarriedProfiles, plan_profiles
from lanewise.backends.runner import LoadedModel
from lanewise.backends.simulated_file import DEFAULT_LATENCY, SimulatedModel, read_simulated_model
from lanewise.backends.source import ModelSource
from lanewise.clock import Clock
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array
from lanewise.settings.model import ModelSettings, quote_key, settings_error


def load(source: ModelSource, settings: ModelSettings, clock: Clock) -> LoadedModel:
    """Load a model.sim.toml, and make one runner for each profile. See `LoadModel`."""
    model = read_simulated_model(source.file)
    inputs = tuple(tensor.spec for tensor in model.inputs)
    outputs = tuple(tensor.spec for tensor in model.outputs)
    carried = CarriedProfiles(model.profiles, source.file) if model.profiles else None
    plan = plan_profiles(inputs, outputs, settings, source.settings_file, carried)
    spec = ModelSpec(
        name=source.name,
        version=source.version,
        backend="simulated",
        inputs=inputs,
        outputs=outputs,
        batching=plan.batching,
        rowwise=plan.rowwise,
        profiles=plan.profiles,
        padding=plan.padding,
    )
    copies = {output.name: output.copy_of for output in model.outputs}
    latencies = _latency_tables(model, source, spec.profiles)
    runners = tuple(
        SimulatedRunner(spec, profile, copies, latency, clock)
        for profile, latency in zip(spec.profiles, latencies, strict=True)
    )
    return LoadedModel(spec, runners)


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
    return [model.latency.get(name, default).table for name in names]


class SimulatedRunner(HostRunner):
    """Blocks for as long as `latency` says, then copies inputs or takes their checksums.

    `copies` tells for each output which input it copies; None makes it a checksum.
    """

    def __init__(
        self,
        spec: ModelSpec,
        profile: Profile,
        copies: Mapping[str, str | None],
        latency: LatencyTable,
        clock: Clock,
    ) -> None:
        super().__init__(spec, profile)
        self._copies = copies
        self._latency = latency
        self._clock = clock

    def _execute(self, inputs: Mapping[str, Array], padded_rows: int) -> dict[str, Array]:
        self._clock.block_for(self._latency.execution_ns(padded_rows))
        return {
            output: self._checksums(inputs, padded_rows)
            if copied is None
            else inputs[copied].copy()
            for output, copied in self._copies.items()
        }

    def _checksums(self, inputs: Mapping[str, Array], rows: int) -> Array:
        names = [tensor.name for tensor in self._spec.inputs]
        if self._spec.batching:
            columns = [inputs[name] for name in names if name in self._spec.rowwise]
        else:
            columns = [inputs[name][np.newaxis] for name in names]
        return np.array(
            [row_checksum(column[row : row + 1] for column in columns) for row in range(rows)],
            np.int64,
        )


def row_checksum(arrays: Iterable[Array]) -> int:
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

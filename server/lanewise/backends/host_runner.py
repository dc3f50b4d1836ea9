"""The runner of models that are executed in host memory: gathers a batch and calls the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lanewise.backends.inputs import fillings, warm_up_batches
from lanewise.backends.runner import Batch, require_rows
from lanewise.errors import ConfigError, RunnerLost
from lanewise.memory.host import HostBuffer
from lanewise.memory.staging import pack_rows, pad_rows
from lanewise.model.runner_status import RunnerMemory
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, DType, Piece, Shape, format_shape

Execute = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a model on all its inputs, which are only read; returns new arrays by output name."""


class HostRunner:
    """A `Runner` that gathers a batch in host buffers and executes any number of rows.

    Args:
        execute: called by one thread at a time, with `padded_rows` rows in every row-wise
            input. Released by `close`.
        interrupt: has a call of `execute` fail soon; None if nothing can.
    """

    depth = 1
    row_counts: tuple[int, ...] = ()

    def __init__(
        self,
        spec: ModelSpec,
        profile: Profile,
        execute: Execute,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self._interrupt = interrupt
        self.profile = profile
        self._spec = spec
        self._execute: Execute | None = execute
        self._buffers = InputBuffers(spec, profile)

    def warm_up(self) -> None:
        for batch in warm_up_batches(self._spec, self.profile):
            self.run(batch)

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        return True  # nothing is compiled when a shape is first executed

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        pass

    def run(self, batch: Batch) -> dict[str, Array]:
        execute = self._execute
        if execute is None:
            raise RunnerLost(f"the runner of profile '{self.profile.name}' is closed")
        outputs = execute(self._buffers.gather(batch))
        require_rows(self._spec, outputs, batch.padded_rows)
        return outputs

    def start(self, batch: Batch) -> None:
        return None  # the host executes it itself, which cannot but block

    def interrupt(self) -> bool:
        if self._interrupt is None:
            return False
        self._interrupt()
        return True

    def memory(self) -> RunnerMemory:
        return RunnerMemory(pageable_bytes=self._buffers.nbytes)

    def graph_counts(self) -> None:
        return None

    def close(self) -> None:
        self._execute = None
        self._buffers.close()


class InputBuffers:
    """Host buffers for the row-wise inputs of one runner, ready for its profile's maximum.

    If there is none they are ready for its opt, and grow.
    """

    def __init__(self, spec: ModelSpec, profile: Profile) -> None:
        # A buffer for strings would keep those of the largest batch alive: they get new
        # arrays, of pointers alone.
        self._buffers = {
            tensor.name: None if tensor.dtype is DType.BYTES else HostBuffer(tensor.dtype.numpy)
            for tensor in spec.inputs
            if tensor.name in spec.rowwise
        }
        self._fillings = fillings(spec)
        self._samples = spec.samples
        for tensor in spec.inputs:
            name = tensor.name
            buffer = self._buffers.get(name)
            if buffer is None:
                continue
            limits = profile.ranges[name]
            item = limits.opt if profile.is_open else limits.max
            shape = (profile.rows.max, *item[1:])
            try:
                buffer.view(shape)
            except (MemoryError, OverflowError, ValueError) as error:
                # It is more than there is, or than there can ever be.
                raise ConfigError(
                    f"profile '{profile.name}', input '{name}': {format_shape(shape)} of "
                    f"{tensor.dtype.value} does not fit in memory; lower its max"
                ) from error

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values() if buffer is not None)

    def gather(self, batch: Batch) -> dict[str, Array]:
        """Get every input of `batch` with `padded_rows` rows, C-contiguous.

        A lone piece that needs no padding is handed on as it is, anything else is copied.
        The arrays are only to be read, and valid until the next call.
        """
        inputs = {}
        for name, pieces in batch.pieces.items():
            lone = pieces[0]
            assert isinstance(lone, np.ndarray), "this piece is for the device alone"
            if name in self._buffers:
                shape = (batch.padded_rows, *batch.item_shape(name))
                if len(pieces) > 1 or lone.shape != shape:
                    lone = self._stack(name, pieces, shape)
            inputs[name] = np.asarray(lone, order="C")
        return inputs

    def close(self) -> None:
        self._buffers = {}

    def _stack(self, name: str, pieces: Sequence[Piece], shape: Shape) -> Array:
        buffer = self._buffers[name]
        stacked: Array = np.empty(shape, np.object_) if buffer is None else buffer.view(shape)
        rows = pack_rows(pieces, stacked, self._fillings.get(name))
        pad_rows(stacked, rows, self._samples.get(name))
        return stacked

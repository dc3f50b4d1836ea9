"""What runners that execute in host memory have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from lanewise.backends.inputs import InputBuffers, warm_up_batches
from lanewise.backends.runner import Batch, require_rows
from lanewise.errors import RunnerLost
from lanewise.model.runner_status import RunnerMemory
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import Array, Shape


class HostRunner(ABC):
    """A `Runner` that gathers a batch in host buffers and executes any number of rows."""

    def __init__(self, spec: ModelSpec, profile: Profile) -> None:
        self._spec = spec
        self._profile = profile
        self._buffers: InputBuffers | None = InputBuffers(spec, profile)

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def depth(self) -> int:
        return 1

    @property
    def row_counts(self) -> tuple[int, ...]:
        return ()

    def warm_up(self) -> None:
        for batch in warm_up_batches(self._spec, self._profile):
            self.run(batch)

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        return True  # nothing is compiled when a shape is first executed

    def prepare(self, shapes: Mapping[str, Shape]) -> None:  # noqa: B027 - nothing to prepare
        pass

    def run(self, batch: Batch) -> dict[str, Array]:
        if self._buffers is None:
            raise RunnerLost(f"the runner of profile '{self._profile.name}' is closed")
        outputs = self._execute(self._buffers.gather(batch), batch.padded_rows)
        require_rows(self._spec, outputs, batch.padded_rows)
        return outputs

    def start(self, batch: Batch) -> None:
        return None  # the host executes it itself, which cannot but block

    def memory(self) -> RunnerMemory:
        buffers = self._buffers
        return RunnerMemory(pageable_bytes=buffers.nbytes if buffers else 0)

    def graph_counts(self) -> None:
        return None

    def close(self) -> None:
        self._buffers = None

    @abstractmethod
    def _execute(self, inputs: Mapping[str, Array], padded_rows: int) -> dict[str, Array]:
        """Run the model on all its inputs, which are only read, and get new arrays."""

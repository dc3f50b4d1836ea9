"""The hardware boundary: what a backend is given, and what it must offer to be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lanewise.errors import UnsoundOutputs
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import ModelSpec, Profile, ShapeRange
from lanewise.model.tensors import Array, DType, Piece, Shape, format_shape


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One version of a model on disk.

    Attributes:
        version: a positive number; empty for a model that has no version at all.
        file: the model file; where it was looked for, if there is a problem.
        settings_file: its model.toml, which need not exist.
        problem: why it cannot be loaded; empty if it may be tried.
    """

    name: str
    version: str
    file: Path
    settings_file: Path
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to execute together.

    Attributes:
        pieces: per input of the model, arrays to lay back to back along dimension 0, each
            (rows_i, *item_shape), C-contiguous, only read. An input that is not row-wise
            has exactly one piece, taken as it is. Only those of `LoadedModel.direct_inputs`
            may be memory that the device alone reads.
        rows: the sum of rows_i; 1 for a model without batching.
        padded_rows: rows to execute, >= rows. What the rows past `rows` hold is the
            runner's choice; it must be harmless (samples, or zeros and empty strings).
        item_shapes: of inputs that the spec's `padding` names, the shape of a row to execute,
            at a length of the profile's. Their pieces may be shorter, and are completed with
            the padding's value.
    """

    pieces: Mapping[str, Sequence[Piece]]
    rows: int
    padded_rows: int
    item_shapes: Mapping[str, Shape] = field(default_factory=dict)

    def item_shape(self, name: str) -> Shape:
        """Get the shape of a row of input `name` to execute."""
        return self.item_shapes.get(name) or self.pieces[name][0].shape[1:]


class PendingBatch(Protocol):
    """A batch that was started and holds one of its runner's `depth` places until `result`."""

    def is_done(self) -> bool:
        """Whether `result` would return, or raise, without waiting. Raises nothing."""
        ...

    def result(self) -> dict[str, Array]:
        """Wait for the end of the batch; then get what `run` returns, or raise what it raises.

        Call it once, from any thread: that frees the place, even if it raises.
        """
        ...


class Runner(Protocol):
    """Executes batches for one profile.

    Built, warmed up, run and closed by one owner. `warm_up`, `run` and `close` block and
    are called off the event loop; `run` by `depth` threads at a time, the others alone.
    `start` is called from one thread, at any time but while others are in `warm_up` or `close`.
    `prepare` blocks, too, and may be called from any thread while others are in `run` or
    `close`; so may `is_warm`, `memory` and `graph_counts`, which return at once. Buffers
    inside only ever grow.
    """

    @property
    def profile(self) -> Profile: ...

    @property
    def depth(self) -> int:
        """How many batches may be inside `run` at a time: more than 1 if that overlaps work."""
        ...

    @property
    def row_counts(self) -> tuple[int, ...]:
        """The numbers of rows to be executed, ascending; others are padded up to the next.

        Empty if every number within the profile runs equally well.
        """
        ...

    def warm_up(self) -> None:
        """Execute the profile's opt and max shapes once, so that no client's request is first.

        With padding, every length of the profile, too.

        Raises:
            UnsoundOutputs: its outputs cannot be given to requests.
            ExecutionFailed: the model cannot run its own profile, or not on what it is warmed
                up with.
        """
        ...

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether requests of these shapes execute without compiling anything first.

        Args:
            shapes: of every input, as one request sends them. Dimension 0 of row-wise
                inputs does not count: the answer holds for all `row_counts`.
        """
        ...

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Compile what executing `shapes` needs, without holding up `run`; then they are warm.

        Does nothing if they are warm already. May take seconds for each of `row_counts`.
        Calls at the same time wait for each other.

        Args:
            shapes: as for `is_warm`; within the profile.

        Raises:
            ExecutionFailed: they cannot be executed, or there is too little memory to try;
                the runner serves on.
            RunnerLost: the runner is out of service, or was closed meanwhile.
        """
        ...

    def run(self, batch: Batch) -> dict[str, Array]:
        """Execute `batch` and get every output of the model, in host memory.

        `batch.padded_rows` and the shapes of its pieces must lie within the profile.

        Returns:
            By output name, in the shapes this execution reported: nothing is cut or
            assumed. With batching, each has `padded_rows` rows. The arrays are the
            caller's to keep; no later run touches them.

        Raises:
            ExecutionFailed: this batch failed, or its outputs cannot be cut into rows; the
                runner may be used again.
            ShapeMismatch: the shapes of the inputs, each within the profile, or the values of
                shape tensors contradict each other.
            MalformedContents: an element of a text input is not UTF-8, see `ModelSpec`.
            RunnerLost: the runner is out of service.
        """
        ...

    def start(self, batch: Batch) -> PendingBatch | None:
        """Begin to execute `batch` without waiting for anything, for the caller to poll.

        Returns:
            None if that is not possible, now or ever: call `run` instead. This is the case
            when every place is taken, when copying the batch would take long, when something
            would have to be prepared first, and for runners that do not support it.

        Raises:
            ExecutionFailed, RunnerLost: as `run`.
        """
        ...

    def interrupt(self) -> bool:
        """Have the batch that `run` executes fail soon, if that is possible.

        Called from any thread, while no more than one batch is in `run`. A batch that has not
        begun yet, or one that a single long operation executes, may go on: call it again.

        Returns:
            Whether this runner can do so at all.
        """
        ...

    def memory(self) -> RunnerMemory: ...

    def graph_counts(self) -> GraphCounts | None:
        """Report how often CUDA graphs were launched; None for a runner that uses none."""
        ...

    def close(self) -> None:
        """Release everything; the runner is not used again. A second call does nothing."""
        ...


def require_rows(spec: ModelSpec, outputs: Mapping[str, Array], padded_rows: int) -> None:
    """Check that every output has the rows that were executed; for runners to call.

    Otherwise rows would go to the wrong requests. Does nothing without batching.

    Raises:
        UnsoundOutputs: an output has another number of rows.
    """
    if not spec.batching:
        return
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != padded_rows:
            raise UnsoundOutputs(
                f"model '{spec.name}': output '{name}' came back as {format_shape(array.shape)} "
                f"for {padded_rows} rows, so it cannot be cut into rows; set `batching = false` "
                "in model.toml"
            )


def find_misfit(spec: ModelSpec, outputs: Mapping[str, Array], length: int) -> str:
    """Say which output cannot be cut back to the lengths of requests; "" if all can.

    Args:
        spec: of the model.
        outputs: of an execution.
        length: that was executed, see `Padding`.
    """
    if spec.padding is None:
        return ""
    for name, dim in spec.padding.outputs.items():
        shape = outputs[name].shape
        if dim >= len(shape) or shape[dim] != length:
            return (
                f"model '{spec.name}': output '{name}' came back as {format_shape(shape)} for "
                f"{length} {spec.padding.dimension}, so it cannot be cut back in dimension {dim}; "
                "leave it out of padding.outputs if it does not grow with them, or leave out "
                "[padding]"
            )
    return ""


@dataclass(frozen=True, slots=True)
class ProfileNeeds:
    """What one lane of a profile needs; its outputs and CUDA graphs are small beside it.

    Attributes:
        input_bytes: device memory for the inputs at their maximum, in all the lane's buffers.
        scratch_bytes: device memory for an execution besides inputs and outputs.
        values: by shape tensor among the inputs, the values the profile admits, row-major.
    """

    input_bytes: int
    scratch_bytes: int
    values: Mapping[str, ShapeRange]

    @property
    def device_bytes(self) -> int:
        return self.input_bytes + self.scratch_bytes


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A compiled plan, described for people.

    Attributes:
        builder: backend and version that built it, such as "tensorrt-rtx 1.6.1.120".
        precision: datatypes of its inputs and outputs on the device.
        profiles: in the order of the model's profiles.
    """

    builder: str
    precision: frozenset[DType]
    profiles: tuple[ProfileNeeds, ...]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One version of a model, ready to be warmed up and served.

    Attributes:
        runners: one or more for each profile of `spec`, in the order of the profiles.
        is_compiled: whether each profile was compiled apart, so that its runners have to
            show that they agree with each other before they serve.
        plan: described for people; None for a backend without plans.
        direct_inputs: names of the inputs that the device copies by itself out of whatever
            memory it can read.
    """

    spec: ModelSpec
    runners: tuple[Runner, ...]
    is_compiled: bool = False
    plan: PlanReport | None = None
    direct_inputs: frozenset[str] = frozenset()

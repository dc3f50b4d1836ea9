"""Executes batches on the device: one context, one stream, one profile, two batches in flight."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import structlog

from lanewise.backends.inputs import blank_batch_at, corner_shapes, warm_corners
from lanewise.backends.runner import Batch, require_rows
from lanewise.backends.trt.context import ProfileContext
from lanewise.backends.trt.executor import Executor, Work, describe_work, is_known
from lanewise.backends.trt.graphs import GraphCache
from lanewise.backends.trt.slots import SMALL_BYTES, FreeSlots, Slot, count_bytes
from lanewise.backends.trt.warm_shapes import WarmShapes
from lanewise.errors import ConfigError, DeviceLost, ExecutionFailed, RunnerLost, ShapeMismatch
from lanewise.memory.device import CudaError, Stream, is_device_lost
from lanewise.model.runner_status import GraphCounts, RunnerMemory
from lanewise.model.spec import ModelSpec, Profile, RowRange
from lanewise.model.tensors import Array, Shape

_log = structlog.get_logger(__name__)

GRAPH_BUDGET_BYTES = 256 << 20

DEPTH = 2
"""While one batch is executed the next is copied to the device; a third would gain nothing."""


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How a runner uses the device.

    Attributes:
        stream_priority: 0 for the lowest, 1 for the highest.
        graph_budget_bytes: device memory for CUDA graphs; 0 for none.
        on_host: inputs and outputs that TensorRT keeps in host memory: shape tensors.
        depth: batches that may be in flight, each in buffers of its own.
        poll: whether `start` begins batches, for the caller to poll.
    """

    stream_priority: float = 0.0
    graph_budget_bytes: int = GRAPH_BUDGET_BYTES
    on_host: frozenset[str] = frozenset()
    depth: int = DEPTH
    poll: bool = True


def warm_row_counts(rows: RowRange) -> tuple[int, ...]:
    """Choose the numbers of rows worth executing: powers of two within the profile, and its ends.

    Every number costs compilation once, 0.8 to 1.6 s with TensorRT for RTX on an H200; every
    number left out costs padding, at most half of a launch.
    """
    return tuple(sorted(rows.powers_of_two | {rows.opt}))


class TrtRunner:
    """The runner of one profile on one device.

    Args:
        make_context: makes the context on the stream it is given; called once.
        spec: of the model.
        keep_alive: what must not go away before the context does.
        make_spare: makes another runner of the same profile, to compile what a new shape
            needs; None if TensorRT compiles nothing when it executes.
        when_warm: called when kernels may have been compiled: after `warm_up` and `prepare`.
    """

    def __init__(
        self,
        make_context: Callable[[Stream], ProfileContext],
        spec: ModelSpec,
        profile: Profile,
        options: RunnerOptions,
        *,
        keep_alive: object = None,
        make_spare: Callable[[], TrtRunner] | None = None,
        when_warm: Callable[[], None] = lambda: None,
    ) -> None:
        self._keep_alive = keep_alive
        self._when_warm = when_warm
        self._spec = spec
        self._profile = profile
        self._row_counts = warm_row_counts(profile.rows) if spec.batching else ()
        self._warm = WarmShapes(spec, profile, self._row_counts or (1,), make_spare, when_warm)
        with contextlib.ExitStack() as made:  # released if something else cannot be made
            self._stream = made.enter_context(closing(Stream(options.stream_priority)))
            self._copy_stream = made.enter_context(closing(Stream(options.stream_priority)))
            self._context = made.enter_context(closing(make_context(self._stream)))
            self._slots = [
                made.enter_context(closing(Slot(i, spec, options.on_host)))
                for i in range(options.depth)
            ]
            self._graphs = made.enter_context(closing(GraphCache(options.graph_budget_bytes)))
            self._executor = Executor(spec, self._context, self._stream, self._graphs)
            self._ends = self._allocate_ahead()
            self._resources = made.pop_all()
        # A turn on shared scratch memory may have to be waited for.
        self._can_start = options.poll and not self._context.is_shared
        self._free = FreeSlots(self._slots)
        self._turn = threading.Lock()  # for the context and the graphs
        self._is_closed = False
        self._is_lost = False

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def depth(self) -> int:
        return len(self._slots)

    @property
    def row_counts(self) -> tuple[int, ...]:
        return self._row_counts

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def graphs(self) -> GraphCache:
        return self._graphs

    def warm_up(self) -> None:
        """Execute every row count at every corner of the profile that can be executed.

        Once without a graph, which compiles what is missing, then once in each slot, which
        captures the graphs.
        """
        corners = warm_corners(self._spec, self._profile)
        corners = tuple(corner for corner in corners if corner.end in self._ends)
        for rows in self._row_counts or (1,):
            for corner in corners:
                batch = blank_batch_at(self._spec, self._profile, corner, rows)
                for _ in range(1 + DEPTH):
                    self.run(batch)
        for corner in corners:
            self._warm.add(corner_shapes(self._spec, self._profile, corner))
        self._when_warm()

    def is_warm(self, shapes: Mapping[str, Shape]) -> bool:
        return self._warm.covers(shapes)

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        self._require_service()
        try:
            self._warm.prepare(shapes)
        except CudaError as error:
            raise self._describe(error) from error
        except ConfigError as error:
            raise ExecutionFailed(f"profile '{self._profile.name}': {error}") from error
        except DeviceLost:
            self._is_lost = True
            raise

    def run(self, batch: Batch) -> dict[str, Array]:
        self._require_service()
        slot = self._free.take()
        try:
            with self._describing_errors():
                return self._collect(slot, self._give(slot, batch), batch.padded_rows)
        finally:
            self._free.give_back(slot)

    def start(self, batch: Batch) -> StartedBatch | None:
        if self._is_closed or self._is_lost or not self._can_start:
            return None
        work = describe_work(self._spec, self._profile, batch)
        outputs = self._executor.known_outputs(work)
        if outputs is None or not work.is_small:
            return None
        if count_bytes(self._spec.outputs, outputs) > SMALL_BYTES:
            return None
        slot = self._free.take_now()
        if slot is None:
            return None
        is_started = False
        try:
            with self._describing_errors():
                is_started = self._launch_at_once(slot, batch, work)
        finally:
            if not is_started:  # `run` is next, and captures what this slot lacks
                self._free.give_back(slot, next_again=True)
        return StartedBatch(self, slot, outputs, batch.padded_rows) if is_started else None

    def finish(self, slot: Slot, outputs: Mapping[str, Shape], rows: int) -> dict[str, Array]:
        """End what `start` began: wait for it, get its outputs, free its slot."""
        try:
            self._require_service()
            with self._describing_errors():
                return self._collect(slot, outputs, rows)
        finally:
            self._free.give_back(slot)

    def interrupt(self) -> bool:
        return False  # nothing ends what the device executes

    def memory(self) -> RunnerMemory:
        return RunnerMemory(
            pinned_bytes=sum(slot.host_bytes for slot in self._slots),
            tensor_bytes=sum(slot.device_bytes for slot in self._slots),
            scratch_bytes=self._context.device_bytes,
            graph_bytes=self._graphs.nbytes,
        )

    def graph_counts(self) -> GraphCounts:
        return self._graphs.counts()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._warm.stop()
        with contextlib.suppress(CudaError):  # the device may be lost, here or to another lane
            self._stream.synchronize()
            self._copy_stream.synchronize()
        if is_device_lost():
            return  # there is nothing to release, and TensorRT might crash trying
        self._resources.close()
        self._keep_alive = None

    def _require_service(self) -> None:
        if self._is_closed or self._is_lost:
            state = "closed" if self._is_closed else "lost"
            raise RunnerLost(f"the runner of profile '{self._profile.name}' is {state}")

    def _give(self, slot: Slot, batch: Batch) -> dict[str, Shape]:
        """Give a batch to the device; get the shapes of its outputs. `slot.done` is recorded."""
        work = describe_work(self._spec, self._profile, batch)
        slot.reserve(work.shapes)
        try:
            if work.is_small:
                slot.pack(batch, work.shapes)
            else:
                slot.stage(batch, work.shapes, self._copy_stream)
            return self._enter(slot, work)
        except Exception:
            self._finish_copies()
            raise

    def _enter(self, slot: Slot, work: Work) -> dict[str, Shape]:
        with self._turn:
            if not work.is_small:
                self._stream.wait_for(slot.staged)
            with self._context.turn():
                outputs = self._executor.execute(slot, work)
            if not work.is_small:
                slot.copy_out(outputs, self._stream)
            self._stream.record(slot.done)
        return outputs

    def _finish_copies(self) -> None:
        """Wait for copies that a failed batch may have left: its slot is used again after this.

        Those for the next batch may be given to the other stream, and come first.
        """
        with self._turn, contextlib.suppress(CudaError):
            self._copy_stream.synchronize()
            self._stream.synchronize()

    def _launch_at_once(self, slot: Slot, batch: Batch, work: Work) -> bool:
        """Launch the graph of a small batch; False if there is none, or the turn is another's."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            graph = self._executor.find_graph(slot, work)
            if graph is None:
                return False
            slot.pack(batch, work.shapes)
            try:
                self._executor.launch(graph)
                self._stream.record(slot.done)
            except CudaError:
                with contextlib.suppress(CudaError):
                    self._stream.synchronize()  # its slot is used again after this
                raise
            return True
        finally:
            self._turn.release()

    def _collect(
        self, slot: Slot, outputs: Mapping[str, Shape], padded_rows: int
    ) -> dict[str, Array]:
        """Wait for the outputs and take them out of the slot."""
        slot.done.synchronize()
        arrays = slot.collect(outputs)
        require_rows(self._spec, arrays, padded_rows)
        return arrays

    def _allocate_ahead(self) -> tuple[Literal["opt", "max"], ...]:
        """Make room for the profile's maximum, so that no request has to wait for it.

        Returns:
            The ends of the profile that can be executed. At the max, values and shapes may
            contradict each other: the builder checks the opt alone.
        """
        largest = {name: limits.max for name, limits in self._profile.ranges.items()}
        for slot in self._slots:
            slot.reserve(largest)
        first = self._slots[0]
        values = first.hold({name: limits.max for name, limits in self._profile.values.items()})
        try:
            outputs = self._executor.infer(first, largest, values)
        except ShapeMismatch:
            return ("opt",)
        known = {name: shape for name, shape in outputs.items() if is_known(shape)}
        for slot in self._slots:
            slot.reserve(known)
        return "opt", "max"

    @contextlib.contextmanager
    def _describing_errors(self) -> Iterator[None]:
        try:
            yield
        except CudaError as error:
            raise self._describe(error) from error
        except ExecutionFailed as error:
            if is_device_lost():  # which TensorRT reports like any other failure
                raise self._lose(error.message) from error
            raise

    def _describe(self, error: CudaError) -> ExecutionFailed | RunnerLost:
        where = f"profile '{self._profile.name}': {error}"
        return self._lose(where) if error.is_sticky else ExecutionFailed(where)

    def _lose(self, why: str) -> DeviceLost:
        self._is_lost = True
        return DeviceLost(f"{why}; the device is lost to this process, restart it")


class StartedBatch:
    """A batch that `TrtRunner.start` began. See `PendingBatch`."""

    def __init__(
        self, runner: TrtRunner, slot: Slot, outputs: Mapping[str, Shape], padded_rows: int
    ) -> None:
        self._runner = runner
        self._slot: Slot | None = slot
        self._done = slot.done
        self._outputs = outputs
        self._padded_rows = padded_rows

    def is_done(self) -> bool:
        return self._runner.is_closed or self._done.is_done()

    def result(self) -> dict[str, Array]:
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("the result of a batch was taken already")
        return self._runner.finish(slot, self._outputs, self._padded_rows)

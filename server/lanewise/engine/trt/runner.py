"""Executes batches on the device: one context, one stream, one profile, two batches in flight."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import structlog

from lanewise.engine.inputs import blank_batch_at
from lanewise.engine.runner import Batch, require_rows
from lanewise.engine.trt.context import ProfileContext
from lanewise.engine.trt.graphs import GraphCache, GraphMiss
from lanewise.engine.trt.slots import Slot
from lanewise.engine.trt.warm_shapes import WarmShapes
from lanewise.errors import ConfigError, DeviceLost, ExecutionFailed, RunnerLost, ShapeMismatch
from lanewise.memory.device import Capture, CudaError, CudaGraph, Stream, is_device_lost
from lanewise.models import ModelSpec, Profile, RowRange
from lanewise.runner_status import GraphCounts, RunnerMemory
from lanewise.tensors import Array, Shape

_log = structlog.get_logger(__name__)

GRAPH_BUDGET_BYTES = 256 << 20

MOST_SHAPES = 4096
"""Combinations of input shapes remembered as having run; more than live traffic has."""

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
    """

    stream_priority: float = 0.0
    graph_budget_bytes: int = GRAPH_BUDGET_BYTES
    on_host: frozenset[str] = frozenset()
    depth: int = DEPTH


def warm_row_counts(rows: RowRange) -> tuple[int, ...]:
    """Choose the numbers of rows worth executing: powers of two within the profile, and its ends.

    Every number costs compilation once, 0.8 to 1.6 s with TensorRT for RTX on an H200; every
    number left out costs padding, at most half of a launch.
    """
    powers = {1 << bit for bit in range(rows.max.bit_length()) if rows.min <= 1 << bit <= rows.max}
    return tuple(sorted(powers | {rows.min, rows.opt, rows.max}))


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
            self._ends = self._allocate_ahead()
            self._resources = made.pop_all()
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._turn = threading.Lock()  # for the context and the graphs
        self._ran: dict[Hashable, dict[str, Shape]] = {}  # output shapes by input shapes
        self._never_captured: dict[Hashable, GraphMiss] = {}
        self._is_closed = False
        self._is_lost = False
        for slot in self._slots:
            self._free.put(slot)

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
    def graphs(self) -> GraphCache:
        """The graphs, for their counts."""
        return self._graphs

    def warm_up(self) -> None:
        """Execute every row count at the opt and the max of its other dimensions, and of values.

        Once without a graph, which compiles what is missing, then once in each slot, which
        captures the graphs.
        """
        for rows in self._row_counts or (1,):
            for end in self._ends:
                batch = blank_batch_at(self._spec, self._profile, end, rows)
                for _ in range(1 + DEPTH):
                    self.run(batch)
        for end in self._ends:
            self._warm.add({n: getattr(r, end) for n, r in self._profile.ranges.items()})
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
        slot = self._free.get()
        try:
            return self._run_in(slot, batch)
        except CudaError as error:
            raise self._describe(error) from error
        except ExecutionFailed as error:
            if is_device_lost():  # which TensorRT tells like any other failure
                raise self._lose(error.message) from error
            raise
        finally:
            self._free.put(slot)

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

    def _run_in(self, slot: Slot, batch: Batch) -> dict[str, Array]:
        shapes = self._input_shapes(batch)
        if slot.reserve(shapes):
            with self._turn:
                self._graphs.drop_slot(slot.index)
        slot.stage(batch, shapes, self._copy_stream)
        with self._turn:
            self._stream.wait_for(slot.staged)
            with self._context.turn():
                outputs = self._execute(slot, shapes, self._read_values(batch))
            slot.fetch(outputs, self._stream)
        slot.done.synchronize()
        arrays = slot.collect(outputs)
        require_rows(self._spec, arrays, batch.padded_rows)
        return arrays

    def _execute(
        self, slot: Slot, shapes: dict[str, Shape], values: dict[str, bytes]
    ) -> dict[str, Shape]:
        """Give the execution to the stream, as a graph if there is one; get the output shapes."""
        key = (*shapes.values(), *values.values())
        graph = self._graphs.get((slot.index, key))
        if graph is not None:
            self._graphs.hits += 1
            graph.launch(self._stream)
            return self._ran[key]
        outputs = self._prepare(slot, shapes, values)
        if not all(map(_is_known, outputs.values())):
            self._graphs.misses[GraphMiss.DATA_DEPENDENT] += 1
            return self._execute_growing(slot, outputs)
        self._graphs.misses[self._execute_without_graph(slot, key)] += 1
        if len(self._ran) >= MOST_SHAPES:  # start afresh; what is in use is captured again
            self._graphs.close()
            self._ran.clear()
            self._never_captured.clear()
        self._ran[key] = outputs
        return outputs

    def _prepare(
        self, slot: Slot, shapes: dict[str, Shape], values: dict[str, bytes]
    ) -> dict[str, Shape]:
        """Set all but the addresses that follow from the data; get the output shapes reported."""
        outputs = self._infer(slot, shapes, values)
        known = {name: shape for name, shape in outputs.items() if _is_known(shape)}
        if slot.reserve(known):
            self._graphs.drop_slot(slot.index)
        for name in (*shapes, *known):
            self._context.set_address(name, slot.address(name))
        for name in outputs.keys() - known.keys():
            self._context.allocate_when_executed(name)
        return outputs

    def _infer(
        self, slot: Slot, shapes: Mapping[str, Shape], values: Mapping[str, bytes]
    ) -> dict[str, Shape]:
        """Get the output shapes for inputs of `shapes` and for `values`, which `slot` holds."""
        self._context.set_shapes({n: shape for n, shape in shapes.items() if n not in values})
        self._context.set_values({name: slot.address(name) for name in values}, values)
        return {t.name: self._context.output_shape(t) for t in self._spec.outputs}

    def _execute_growing(self, slot: Slot, outputs: dict[str, Shape]) -> dict[str, Shape]:
        """Execute where TensorRT asks for the memory of some outputs, which no graph can."""
        growing = self._context.growing
        growing.begin(slot.reserve_output)
        try:
            self._context.enqueue()
        finally:  # why TensorRT refused it, or what it did not notice
            growing.raise_failure()
        told = {n: s if _is_known(s) else growing.shape(n) for n, s in outputs.items()}
        slot.reserve(told)
        return told

    def _execute_without_graph(self, slot: Slot, key: Hashable) -> GraphMiss:
        if not self._graphs.budget_bytes:
            self._context.enqueue()
            return GraphMiss.DISABLED
        if key not in self._ran:  # kernels may have to be compiled, which cannot be captured
            self._context.enqueue()
            return GraphMiss.FIRST_RUN
        if why_not := self._never_captured.get(key):
            self._context.enqueue()
            return why_not
        graph = self._capture()
        if graph is None:
            self._never_captured[key] = GraphMiss.NOT_CAPTURABLE
            self._context.enqueue()
            return GraphMiss.NOT_CAPTURABLE
        graph.launch(self._stream)
        if self._graphs.put((slot.index, key), graph):
            return GraphMiss.CAPTURED
        self._never_captured[key] = GraphMiss.OVER_BUDGET
        return GraphMiss.OVER_BUDGET

    def _capture(self) -> CudaGraph | None:
        """Capture one execution; None if TensorRT or CUDA cannot."""
        if not self._context.is_capturable():
            return None
        try:
            with Capture(self._stream) as capture:
                self._context.enqueue()
        except ExecutionFailed:
            return None
        except CudaError as error:
            if error.is_sticky:
                raise
            return None
        return capture.graph

    def _input_shapes(self, batch: Batch) -> dict[str, Shape]:
        shapes = {}
        for tensor in self._spec.inputs:
            shape = batch.pieces[tensor.name][0].shape
            if tensor.name in self._spec.rowwise:
                shape = (batch.padded_rows, *shape[1:])
            shapes[tensor.name] = shape
        return shapes

    def _read_values(self, batch: Batch) -> dict[str, bytes]:
        """Get what shape tensors hold: output shapes and graphs depend on it."""
        return {
            tensor.name: batch.pieces[tensor.name][0].tobytes()
            for tensor in self._spec.inputs
            if tensor.name in self._profile.values
        }

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
            outputs = self._infer(first, largest, values)
        except ShapeMismatch:
            return ("opt",)
        known = {name: shape for name, shape in outputs.items() if _is_known(shape)}
        for slot in self._slots:
            slot.reserve(known)
        return "opt", "max"

    def _describe(self, error: CudaError) -> ExecutionFailed | RunnerLost:
        where = f"profile '{self._profile.name}': {error}"
        return self._lose(where) if error.is_sticky else ExecutionFailed(where)

    def _lose(self, why: str) -> DeviceLost:
        self._is_lost = True
        return DeviceLost(f"{why}; the device is lost to this process, restart it")


def _is_known(shape: Shape) -> bool:
    """Whether no dimension depends on the data."""
    return all(size >= 0 for size in shape)

"""Executes batches on the device: one context, one stream, one profile, two batches in flight."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog

from lanewise.engine.inputs import blank_batch
from lanewise.engine.runner import Batch, RunnerMemory, require_rows
from lanewise.engine.trt.context import ProfileContext
from lanewise.engine.trt.graphs import GraphCache, GraphMiss
from lanewise.engine.trt.slots import Slot
from lanewise.errors import DeviceLost, ExecutionFailed, RunnerLost
from lanewise.memory.device import Capture, CudaError, CudaGraph, Stream
from lanewise.models import ModelSpec, Profile, RowRange
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
        on_host: inputs that TensorRT reads in host memory: shape tensors.
    """

    stream_priority: float = 0.0
    graph_budget_bytes: int = GRAPH_BUDGET_BYTES
    on_host: frozenset[str] = frozenset()


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
        when_warm: called at the end of `warm_up`.
    """

    def __init__(
        self,
        make_context: Callable[[Stream], ProfileContext],
        spec: ModelSpec,
        profile: Profile,
        options: RunnerOptions,
        *,
        keep_alive: object = None,
        when_warm: Callable[[], None] = lambda: None,
    ) -> None:
        self._keep_alive = keep_alive
        self._when_warm = when_warm
        self._spec = spec
        self._profile = profile
        self._row_counts = warm_row_counts(profile.rows) if spec.batching else ()
        self._stream = Stream(options.stream_priority)
        self._copy_stream = Stream(options.stream_priority)
        self._context = make_context(self._stream)
        self._slots = [Slot(i, spec, options.on_host) for i in range(DEPTH)]
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._graphs = GraphCache(options.graph_budget_bytes)
        self._turn = threading.Lock()  # for the context and the graphs
        self._ran: dict[Hashable, dict[str, Shape]] = {}  # output shapes by input shapes
        self._never_captured: dict[Hashable, GraphMiss] = {}
        self._is_closed = False
        self._is_lost = False
        self._allocate_ahead()
        for slot in self._slots:
            self._free.put(slot)

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def depth(self) -> int:
        return DEPTH

    @property
    def row_counts(self) -> tuple[int, ...]:
        return self._row_counts

    @property
    def graphs(self) -> GraphCache:
        """The graphs, for their counts."""
        return self._graphs

    def warm_up(self) -> None:
        """Execute every row count at the opt and the max of its other dimensions.

        Once without a graph, which compiles what is missing, then once in each slot, which
        captures the graphs.
        """
        limits = self._profile.ranges
        for rows in self._row_counts or (1,):
            for shapes in (
                {n: r.opt for n, r in limits.items()},
                {n: r.max for n, r in limits.items()},
            ):
                batch = blank_batch(self._spec, shapes, rows)
                for _ in range(1 + DEPTH):
                    self.run(batch)
        self._when_warm()

    def run(self, batch: Batch) -> dict[str, Array]:
        if self._is_closed or self._is_lost:
            state = "closed" if self._is_closed else "lost"
            raise RunnerLost(f"the runner of profile '{self._profile.name}' is {state}")
        slot = self._free.get()
        try:
            return self._run_in(slot, batch)
        except CudaError as error:
            raise self._describe(error) from error
        finally:
            self._free.put(slot)

    def memory(self) -> RunnerMemory:
        slots = self._slots
        return RunnerMemory(
            host_bytes=sum(slot.host_bytes for slot in slots),
            device_bytes=sum(slot.device_bytes for slot in slots)
            + self._context.device_bytes
            + self._graphs.nbytes,
        )

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(CudaError):  # the device may be lost, here or to another lane
            self._stream.synchronize()
            self._copy_stream.synchronize()
        self._graphs.close()
        self._context.close()
        self._keep_alive = None
        for slot in self._slots:
            slot.close()
        self._stream.close()
        self._copy_stream.close()

    def _run_in(self, slot: Slot, batch: Batch) -> dict[str, Array]:
        shapes = self._input_shapes(batch)
        if slot.reserve(shapes):
            with self._turn:
                self._graphs.drop_slot(slot.index)
        slot.stage(batch, shapes, self._copy_stream)
        with self._turn:
            self._stream.wait_for(slot.staged)
            outputs = self._execute(slot, shapes)
            slot.fetch(outputs, self._stream)
        slot.done.synchronize()
        arrays = slot.collect(outputs)
        require_rows(self._spec, arrays, batch.padded_rows)
        return arrays

    def _execute(self, slot: Slot, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Give the execution to the stream, as a graph if there is one; get the output shapes."""
        key = tuple(shapes.values())
        graph = self._graphs.get((slot.index, key))
        if graph is not None:
            self._graphs.hits += 1
            graph.launch(self._stream)
            return self._ran[key]
        outputs = self._prepare(slot, shapes)
        self._graphs.misses[self._execute_without_graph(slot, key)] += 1
        if len(self._ran) >= MOST_SHAPES:  # start afresh; what is in use is captured again
            self._graphs.close()
            self._ran.clear()
            self._never_captured.clear()
        self._ran[key] = outputs
        return outputs

    def _prepare(self, slot: Slot, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Set shapes and addresses; get the output shapes the context reports."""
        self._context.set_shapes(shapes)
        outputs = {t.name: self._context.output_shape(t.name) for t in self._spec.outputs}
        for name, shape in outputs.items():
            if any(size < 0 for size in shape):
                raise ExecutionFailed(
                    f"output '{name}' has a shape that depends on the data, {list(shape)}, "
                    "which this backend does not run; serve the model with onnxruntime"
                )
        if slot.reserve(outputs):
            self._graphs.drop_slot(slot.index)
        for tensor in (*self._spec.inputs, *self._spec.outputs):
            self._context.set_address(tensor.name, slot.address(tensor.name))
        return outputs

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

    def _allocate_ahead(self) -> None:
        """Make room for the profile's maximum, so that no request has to wait for it."""
        largest = {name: limits.max for name, limits in self._profile.ranges.items()}
        self._context.set_shapes(largest)
        outputs = {t.name: self._context.output_shape(t.name) for t in self._spec.outputs}
        known = {n: shape for n, shape in outputs.items() if all(size >= 0 for size in shape)}
        for slot in self._slots:
            slot.reserve({**largest, **known})

    def _describe(self, error: CudaError) -> ExecutionFailed | RunnerLost:
        where = f"profile '{self._profile.name}': {error}"
        if error.is_sticky:
            self._is_lost = True
            return DeviceLost(f"{where}; the device is lost to this process, restart it")
        return ExecutionFailed(where)

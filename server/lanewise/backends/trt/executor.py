"""Gives executions to a stream: as CUDA graphs where it can, with the copies of small batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from lanewise.backends.runner import Batch
from lanewise.backends.trt.context import ProfileContext
from lanewise.backends.trt.graphs import GraphCache, GraphMiss
from lanewise.backends.trt.slots import SMALL_BYTES, Slot, count_bytes
from lanewise.errors import ExecutionFailed
from lanewise.memory.device import Capture, CudaError, CudaGraph, Stream
from lanewise.model.spec import ModelSpec, Profile
from lanewise.model.tensors import DeviceArray, Shape, on_host

MAX_SHAPES = 4096
"""Combinations of input shapes remembered as having run; more than live traffic has."""


@dataclass(frozen=True, slots=True)
class Work:
    """What to execute.

    Attributes:
        shapes: of every input, with the padded number of rows.
        values: what shape tensors hold: output shapes and graphs depend on it.
        key: shapes, values and `is_small` together: what a graph was captured for.
        is_small: whether the copies go with the execution, into its graph, too.
    """

    shapes: dict[str, Shape]
    values: dict[str, bytes]
    key: Hashable
    is_small: bool


def describe_work(spec: ModelSpec, profile: Profile, batch: Batch) -> Work:
    """Get what is to be executed for `batch`."""
    shapes, values, is_direct = {}, {}, False
    for tensor in spec.inputs:
        piece = batch.pieces[tensor.name][0]
        is_rowwise = tensor.name in spec.rowwise
        item = batch.item_shape(tensor.name)
        shapes[tensor.name] = (batch.padded_rows, *item) if is_rowwise else piece.shape
        if tensor.name in profile.values:
            values[tensor.name] = on_host(piece).tobytes()
        is_direct |= any(isinstance(each, DeviceArray) for each in batch.pieces[tensor.name])
    # A graph copies from where small inputs are packed, which the host cannot do with these.
    is_small = not is_direct and count_bytes(spec.inputs, shapes) <= SMALL_BYTES
    return Work(shapes, values, (is_small, *shapes.values(), *values.values()), is_small)


class Executor:
    """Gives executions of one context to its stream, and remembers the graphs of their shapes.

    Not thread-safe, but for `known_outputs`. Only graphs of slots whose buffers have not moved
    are launched.

    Args:
        context: executes; its owner closes it.
        stream: of the context.
        graphs: where graphs are kept; its owner closes it.
    """

    def __init__(
        self, spec: ModelSpec, context: ProfileContext, stream: Stream, graphs: GraphCache
    ) -> None:
        self._spec = spec
        self._context = context
        self._stream = stream
        self._graphs = graphs
        self._ran: dict[Hashable, dict[str, Shape]] = {}  # output shapes by input shapes
        self._never_captured: dict[Hashable, GraphMiss] = {}

    def known_outputs(self, work: Work) -> dict[str, Shape] | None:
        """Get the output shapes of what was executed before; None if it was not, or they vary.

        May be called from any thread.
        """
        return self._ran.get(work.key)

    def find_graph(self, slot: Slot, work: Work) -> CudaGraph | None:
        """Get the graph of `work` in `slot`, if there is one that can be launched."""
        self._drop_stale_graphs(slot)
        return self._graphs.get((slot.index, work.key))

    def launch(self, graph: CudaGraph) -> None:
        self._graphs.hits += 1
        graph.launch(self._stream)

    def execute(self, slot: Slot, work: Work) -> dict[str, Shape]:
        """Give an execution to the stream, as a graph if there is one; get the output shapes.

        The copies of small work go with it; those of others are the caller's.

        Raises:
            ExecutionFailed: TensorRT refused it, or too little memory for an output.
            ShapeMismatch: shapes and values do not go together.
            CudaError: too little memory, or the device is lost.
        """
        graph = self.find_graph(slot, work)
        if graph is not None:
            self.launch(graph)
            return self._ran[work.key]
        outputs = self._prepare(slot, work)
        if not all(map(is_known, outputs.values())):
            self._graphs.misses[GraphMiss.DATA_DEPENDENT] += 1
            return self._execute_growing(slot, work, outputs)
        enqueue = functools.partial(self._enqueue, slot, work, outputs)
        self._graphs.misses[self._execute_without_graph(slot, work.key, enqueue)] += 1
        if (
            work.key not in self._ran and len(self._ran) >= MAX_SHAPES
        ):  # start afresh; what is in use is captured again
            self._graphs.close()
            self._ran.clear()
            self._never_captured.clear()
        self._ran[work.key] = outputs
        return outputs

    def infer(
        self, slot: Slot, shapes: Mapping[str, Shape], values: Mapping[str, bytes]
    ) -> dict[str, Shape]:
        """Get the output shapes for inputs of `shapes` and for `values`, which `slot` holds."""
        self._context.set_shapes({n: shape for n, shape in shapes.items() if n not in values})
        self._context.set_values({name: slot.address(name) for name in values}, values)
        return {t.name: self._context.output_shape(t) for t in self._spec.outputs}

    def _drop_stale_graphs(self, slot: Slot) -> None:
        if slot.has_moved:
            self._graphs.drop_slot(slot.index)
            slot.has_moved = False

    def _prepare(self, slot: Slot, work: Work) -> dict[str, Shape]:
        """Set all but the addresses that follow from the data; get the output shapes reported."""
        outputs = self.infer(slot, work.shapes, work.values)
        known = {name: shape for name, shape in outputs.items() if is_known(shape)}
        slot.reserve(known)
        self._drop_stale_graphs(slot)
        for name in (*work.shapes, *known):
            self._context.set_address(name, slot.address(name))
        for name in outputs.keys() - known.keys():
            self._context.allocate_when_executed(name)
        return outputs

    def _enqueue(self, slot: Slot, work: Work, outputs: Mapping[str, Shape]) -> None:
        """Give an execution to the stream, with the copies around it if they are small."""
        if work.is_small:
            slot.copy_in(work.shapes, self._stream)
        self._context.enqueue()
        if work.is_small:
            slot.copy_out(outputs, self._stream)

    def _execute_growing(
        self, slot: Slot, work: Work, outputs: dict[str, Shape]
    ) -> dict[str, Shape]:
        """Execute where TensorRT asks for the memory of some outputs, which no graph can."""
        if work.is_small:
            slot.copy_in(work.shapes, self._stream)
        growing = self._context.growing
        growing.begin(slot.reserve_output)
        try:
            self._context.enqueue()
        finally:  # why TensorRT refused it, or what it did not notice
            growing.raise_failure()
        told = {n: s if is_known(s) else growing.shape(n) for n, s in outputs.items()}
        slot.reserve(told)
        if work.is_small:
            slot.copy_out(told, self._stream)
        return told

    def _execute_without_graph(
        self, slot: Slot, key: Hashable, enqueue: Callable[[], None]
    ) -> GraphMiss:
        if not self._graphs.budget_bytes:
            enqueue()
            return GraphMiss.DISABLED
        if key not in self._ran:  # kernels may have to be compiled, which cannot be captured
            enqueue()
            return GraphMiss.FIRST_RUN
        if why_not := self._never_captured.get(key):
            enqueue()
            return why_not
        graph = self._capture(enqueue)
        if graph is None:
            self._never_captured[key] = GraphMiss.NOT_CAPTURABLE
            enqueue()
            return GraphMiss.NOT_CAPTURABLE
        try:
            graph.launch(self._stream)  # takes the graph's memory on the device
        except CudaError as error:
            graph.close()
            if error.is_sticky:
                raise
            self._never_captured[key] = GraphMiss.OUT_OF_MEMORY
            enqueue()
            return GraphMiss.OUT_OF_MEMORY
        if self._graphs.put((slot.index, key), graph):
            return GraphMiss.CAPTURED
        self._never_captured[key] = GraphMiss.OVER_BUDGET
        return GraphMiss.OVER_BUDGET

    def _capture(self, enqueue: Callable[[], None]) -> CudaGraph | None:
        """Capture what `enqueue` gives to the stream; None if TensorRT or CUDA cannot."""
        if not self._context.is_capturable():
            return None
        try:
            with Capture(self._stream) as capture:
                enqueue()
        except ExecutionFailed:
            return None
        except CudaError as error:
            if error.is_sticky:
                raise
            return None
        return capture.graph


def is_known(shape: Shape) -> bool:
    """Whether no dimension depends on the data."""
    return all(size >= 0 for size in shape)

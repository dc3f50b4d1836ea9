"""One execution context, pinned to one optimization profile for life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from lanewise.backends.trt.binding import TrtObject
from lanewise.backends.trt.growing_outputs import GrowingOutputs, make_allocator
from lanewise.backends.trt.scratch import Scratch
from lanewise.errors import ExecutionFailed, ShapeMismatch
from lanewise.memory.device import Stream
from lanewise.model.tensors import Shape, TensorSpec


class ProfileContext:
    """An IExecutionContext whose profile is set once and whose shapes are set on change.

    Its scratch memory is what its own profile needs, not the most that any profile does.
    Not thread-safe: its owner prepares and enqueues in one go.

    Attributes:
        growing: the outputs whose shape depends on the data.

    Args:
        module: of TensorRT.
        context: made with USER_MANAGED memory by an ICudaEngine, which must outlive this.
        scratch: as large as the profile needs, or larger.
        why: gets TensorRT's own last words, for errors.
    """

    def __init__(
        self,
        module: TrtObject,
        context: TrtObject,
        *,
        profile_index: int,
        scratch: Scratch,
        stream: Stream,
        why: Callable[[], str],
    ) -> None:
        self._context = context
        self._stream = stream
        self._why = why
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._values: dict[str, bytes] = {}
        self.growing = GrowingOutputs()
        self._allocator = make_allocator(module, self.growing)
        self._allocated: set[str] = set()
        if not context.set_optimization_profile_async(profile_index, stream.number):
            raise ExecutionFailed(f"profile {profile_index} cannot be set: {why()}")
        stream.synchronize()
        self._device_bytes = scratch.join()
        self._scratch = scratch
        context.set_device_memory(scratch.address, scratch.nbytes)

    @property
    def device_bytes(self) -> int:
        """Bytes of scratch memory; what several contexts share, the first of them counts."""
        return self._device_bytes

    @property
    def is_shared(self) -> bool:
        """Whether `turn` may wait for other contexts."""
        return self._scratch.is_shared

    def turn(self) -> AbstractContextManager[None]:
        """Make the context in which to enqueue, or to launch a graph of what was enqueued.

        See `Scratch.turn`. A capture begins and ends within one.
        """
        return self._scratch.turn(self._stream)

    def set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """Set the shapes of the inputs that differ from those set last.

        Raises:
            ExecutionFailed: a shape is not within the profile.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) == shape:
                continue
            self._shapes.pop(name, None)
            if not self._context.set_input_shape(name, shape):
                raise ExecutionFailed(f"input '{name}' cannot be {list(shape)}: {self._why()}")
            self._shapes[name] = shape

    def set_values(self, addresses: Mapping[str, int], values: Mapping[str, bytes]) -> None:
        """Set what shape tensors hold, and where in host memory; then infer output shapes.

        Args:
            addresses: of every shape tensor among the inputs; what lies there stays until
                the execution is done.
            values: what lies there.

        Raises:
            ShapeMismatch: the values and the shapes that are set contradict each other.
        """
        for name, address in addresses.items():
            if self._values.get(name) != values[name]:
                self._addresses.pop(name, None)  # set again even where the place is the same
                self._values[name] = values[name]
            self.set_address(name, address)
        try:
            if addresses:
                self._context.infer_shapes()
        except RuntimeError as error:
            raise ShapeMismatch(
                f"the values of {', '.join(addresses)} and the shapes of the inputs do not go "
                f"together: {self._why()}"
            ) from error

    def output_shape(self, output: TensorSpec) -> Shape:
        """Get the shape an output will have; a dimension is -1 if it depends on the data.

        Raises:
            ShapeMismatch: it has none, because the inputs contradict each other.
        """
        try:
            shape = tuple(self._context.get_tensor_shape(output.name))
        except RuntimeError:  # TensorRT-RTX 1.6's "invalid"; that of others comes out as ()
            shape = ()
        if len(shape) != len(output.shape):
            raise ShapeMismatch(
                f"output '{output.name}' has no shape: the shapes of the inputs do not go "
                f"together: {self._why()}"
            )
        return shape

    def set_address(self, name: str, address: int) -> None:
        """Set where a tensor lies, if that has changed."""
        if self._addresses.get(name) == address:
            return
        if not self._context.set_tensor_address(name, address):
            raise ExecutionFailed(f"tensor '{name}' cannot be placed: {self._why()}")
        self._addresses[name] = address

    def allocate_when_executed(self, name: str) -> None:
        """Let TensorRT ask `growing` for the memory of an output in every execution."""
        if name in self._allocated:
            return
        if not self._context.set_output_allocator(name, self._allocator):
            raise ExecutionFailed(f"output '{name}' cannot be given memory: {self._why()}")
        self._allocated.add(name)

    def enqueue(self) -> None:
        """Give one execution to the stream; returns before it is done.

        Raises:
            ExecutionFailed: TensorRT refused it.
        """
        if not self._context.execute_async_v3(self._stream.number):
            raise ExecutionFailed(f"TensorRT refused the execution: {self._why()}")

    def is_capturable(self) -> bool:
        """Whether the shapes that are set can be captured in a CUDA graph.

        TensorRT without that question always can, unless capturing fails.
        """
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._stream.number))

    def close(self) -> None:
        """Release the context and its memory; nothing may be running."""
        self._context = None
        self._scratch.leave()
        self._device_bytes = 0

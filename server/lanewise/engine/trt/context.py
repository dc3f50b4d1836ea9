"""One execution context, pinned to one optimization profile for life."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lanewise.engine.trt.binding import TrtObject
from lanewise.errors import ExecutionFailed
from lanewise.memory.device import DeviceBuffer, Stream
from lanewise.tensors import Shape


class ProfileContext:
    """An IExecutionContext whose profile is set once and whose shapes are set on change.

    Its scratch memory is what its own profile needs, not the most that any profile does.
    Not thread-safe: its owner prepares and enqueues in one go.

    Args:
        engine: the ICudaEngine, which must outlive this.
        context: made with USER_MANAGED memory.
        scratch_bytes: what the profile needs.
        why: gets TensorRT's own last words, for errors.
    """

    def __init__(
        self,
        context: TrtObject,
        *,
        profile_index: int,
        scratch_bytes: int,
        stream: Stream,
        why: Callable[[], str],
    ) -> None:
        self._context = context
        self._stream = stream
        self._why = why
        self._scratch = DeviceBuffer()
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        if not context.set_optimization_profile_async(profile_index, stream.number):
            raise ExecutionFailed(f"profile {profile_index} cannot be set: {why()}")
        stream.synchronize()
        self._scratch.reserve(max(1, scratch_bytes))
        context.set_device_memory(self._scratch.address, self._scratch.nbytes)

    @property
    def device_bytes(self) -> int:
        """Bytes of scratch memory."""
        return self._scratch.nbytes

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

    def output_shape(self, name: str) -> Shape:
        """Get the shape an output will have; a dimension is -1 if it depends on the data."""
        return tuple(self._context.get_tensor_shape(name))

    def set_address(self, name: str, address: int) -> None:
        """Tell where a tensor lies; remembered until it is told again."""
        if self._addresses.get(name) == address:
            return
        if not self._context.set_tensor_address(name, address):
            raise ExecutionFailed(f"tensor '{name}' cannot be placed: {self._why()}")
        self._addresses[name] = address

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
        self._scratch.close()

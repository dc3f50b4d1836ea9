"""Outputs whose shape depends on the data: TensorRT asks for their memory while it executes."""

from __future__ import annotations

from collections.abc import Callable

from lanewise.backends.trt.binding import TrtObject
from lanewise.errors import ExecutionFailed
from lanewise.memory.device import CudaError
from lanewise.model.tensors import Shape

ReserveOutput = Callable[[str, int], int]
"""Makes room for an output, by name and bytes, on the device; returns its address."""


class GrowingOutputs:
    """What TensorRT asks for and reports about such outputs, execution by execution.

    Its calls come from within the call that gives an execution to the stream
    (NvInferRuntime.h: before enqueueV3 returns), and swallow what is raised in them. So that
    is kept until `raise_failure`.
    """

    def __init__(self) -> None:
        self._reserve: ReserveOutput | None = None
        self._shapes: dict[str, Shape] = {}
        self._failure: Exception | None = None

    def begin(self, reserve: ReserveOutput) -> None:
        """Use `reserve` for the execution that is given to the stream next."""
        self._reserve = reserve
        self._shapes = {}
        self._failure = None

    def allocate(self, name: str, nbytes: int) -> int:
        """Answer TensorRT: an address with room for `nbytes`, or 0 if there is too little."""
        try:
            if self._reserve is None:
                raise ExecutionFailed(f"output '{name}' has no memory before the first execution")
            return self._reserve(name, nbytes)
        except CudaError as error:
            self._failure = error if error.is_sticky else _too_large(name, nbytes, error)
        except Exception as error:
            self._failure = error
        return 0

    def tell(self, name: str, shape: Shape) -> None:
        """Record the shape of an output, as TensorRT reports it."""
        self._shapes[name] = shape

    def raise_failure(self) -> None:
        """Raise what failed while TensorRT asked for memory, if anything did.

        Raises:
            ExecutionFailed: there is too little memory; the message names the output.
            CudaError: the device is lost.
        """
        if self._failure is not None:
            raise self._failure

    def shape(self, name: str) -> Shape:
        """Get the shape that was reported for an output.

        Raises:
            ExecutionFailed: none was.
        """
        told = self._shapes.get(name)
        if told is None:
            raise ExecutionFailed(
                f"output '{name}' has a shape that depends on the data, and TensorRT did not "
                "tell it; serve the model with backend 'onnxruntime'"
            )
        return told


def make_allocator(module: TrtObject, outputs: GrowingOutputs) -> TrtObject:
    """Make the IOutputAllocator of a TensorRT module that calls `outputs`."""

    class OutputAllocator(module.IOutputAllocator):  # type: ignore[misc]
        """Hands every call on."""

        def __init__(self) -> None:
            # Without the explicit call pybind11 refuses the object.
            module.IOutputAllocator.__init__(self)

        def reallocate_output(self, name: str, address: int, nbytes: int, alignment: int) -> int:
            return outputs.allocate(name, nbytes)

        def reallocate_output_async(
            self, name: str, address: int, nbytes: int, alignment: int, stream: int
        ) -> int:
            return outputs.allocate(name, nbytes)

        def notify_shape(self, name: str, shape: TrtObject) -> None:
            outputs.tell(name, tuple(int(size) for size in shape))

    return OutputAllocator()


def _too_large(name: str, nbytes: int, error: CudaError) -> ExecutionFailed:
    failure = ExecutionFailed(
        f"output '{name}', whose shape depends on the data, needs {nbytes} bytes: {error}; "
        "send data that makes it smaller"
    )
    failure.__cause__ = error
    return failure

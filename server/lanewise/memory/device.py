"""Device memory, pinned host memory, streams and events: the one place that calls CUDA.

Objects belong to the device that is current when they are made. None of them is
thread-safe; each has one owner, who closes it. Sizes are bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda

from lanewise.errors import ConfigError
from lanewise.model.tensors import Array, Shape, element_count

_SUCCESS = cuda.cudaError_t.cudaSuccess
_NOT_READY = cuda.cudaError_t.cudaErrorNotReady
_OUT_OF_MEMORY = cuda.cudaError_t.cudaErrorMemoryAllocation
GRAPH_BYTES = 128 << 10
GRAPH_NODE_BYTES = 4 << 10
"""Device memory of an instantiated graph that has been launched, and of each of its nodes.

Counted, not read off the free memory, which changes in steps of megabytes and whenever another
thread allocates. An H200 took 117 KB for a graph of one node and 2.4 KB for each more, by
`benchmarks/gpu/graph_memory.py`; rounded up.
"""
_ALIGNMENT = 256  # of cudaMalloc, and what TensorRT wants of scratch memory


class CudaError(Exception):
    """A CUDA call failed.

    Attributes:
        is_sticky: the device's context is lost, and every later call of this process will
            fail: only a new process helps.
        is_out_of_memory: there was too little memory; nothing else is wrong.
    """

    def __init__(self, error: object, doing: str, *, is_sticky: bool) -> None:
        _, name = cuda.cudaGetErrorName(error)
        _, text = cuda.cudaGetErrorString(error)
        super().__init__(f"{doing}: {name.decode()} ({text.decode()})")
        self.is_sticky = is_sticky
        self.is_out_of_memory = error == _OUT_OF_MEMORY


def check(result: Sequence[Any], doing: str) -> Any:  # noqa: ANN401 - whatever CUDA returns
    """Get the value of a CUDA call, given all that it returned; `doing` says what it was for.

    Raises:
        CudaError: the call failed.
    """
    if result[0] != _SUCCESS:
        raise CudaError(result[0], doing, is_sticky=is_device_lost())
    return result[1] if len(result) > 1 else None


def is_device_lost() -> bool:
    """Whether every CUDA call of this process fails from now on."""
    cuda.cudaGetLastError()  # clears an error that can be cleared
    # In the midst of a capture some calls are refused, which would look like a lost device.
    relaxed = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    _, mode = cuda.cudaThreadExchangeStreamCaptureMode(relaxed)
    is_lost = bool(cuda.cudaMemGetInfo()[0] != _SUCCESS)
    if mode is not None:
        cuda.cudaThreadExchangeStreamCaptureMode(mode)
    return is_lost


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What plans and caches depend on."""

    name: str
    compute_capability: tuple[int, int]

    @property
    def title(self) -> str:
        return f"{self.name} sm_{''.join(str(part) for part in self.compute_capability)}"


def device_count() -> int:
    """Count the usable CUDA devices; 0 without a driver."""
    error, count = cuda.cudaGetDeviceCount()
    return int(count) if error == _SUCCESS else 0


def require_device() -> DeviceFacts:
    """Describe the device that is current for this thread.

    Raises:
        ConfigError: there is none.
    """
    if not device_count():
        raise ConfigError(
            "no CUDA device can be used; check that a GPU and its driver are there "
            "(nvidia-smi), or serve the model with backend 'onnxruntime'"
        )
    number = check(cuda.cudaGetDevice(), "cudaGetDevice")
    properties = check(cuda.cudaGetDeviceProperties(number), "cudaGetDeviceProperties")
    return DeviceFacts(properties.name.decode(), (properties.major, properties.minor))


def free_memory() -> tuple[int, int]:
    """Get the free and the total memory of the current device."""
    result = cuda.cudaMemGetInfo()
    check(result[:1], "cudaMemGetInfo")
    return int(result[1]), int(result[2])


class CudaEvent:
    """A mark in a stream that other streams and threads can wait for."""

    def __init__(self) -> None:
        flags = cuda.cudaEventDisableTiming
        self.handle = check(cuda.cudaEventCreateWithFlags(flags), "cudaEventCreate")

    def synchronize(self) -> None:
        """Return when everything before the last `record` is done; at once if never recorded."""
        check(cuda.cudaEventSynchronize(self.handle), "cudaEventSynchronize")

    def is_done(self) -> bool:
        """Whether `synchronize` would return, or raise, at once."""
        return bool(cuda.cudaEventQuery(self.handle)[0] != _NOT_READY)

    def close(self) -> None:
        cuda.cudaEventDestroy(self.handle)


class Stream:
    """A sequence of work on the device that does not synchronise with the default stream.

    Args:
        priority: 0 for the lowest, 1 for the highest the device has, linear in between.
    """

    def __init__(self, priority: float = 0.0) -> None:
        result = cuda.cudaDeviceGetStreamPriorityRange()
        check(result[:1], "cudaDeviceGetStreamPriorityRange")
        least, greatest = int(result[1]), int(result[2])  # greatest is the smaller number
        number = round(least + priority * (greatest - least))
        self.handle = check(
            cuda.cudaStreamCreateWithPriority(cuda.cudaStreamNonBlocking, number),
            "cudaStreamCreateWithPriority",
        )
        self.number = int(self.handle)

    def record(self, cuda_event: CudaEvent) -> None:
        """Mark what has been given to the stream so far."""
        check(cuda.cudaEventRecord(cuda_event.handle, self.handle), "cudaEventRecord")

    def wait_for(self, cuda_event: CudaEvent) -> None:
        """Let later work of the stream start when what `cuda_event` marks is done."""
        check(cuda.cudaStreamWaitEvent(self.handle, cuda_event.handle, 0), "cudaStreamWaitEvent")

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Copy from pinned host memory to the device; both must stay until it is done."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(cuda.cudaMemcpyAsync(target, source, nbytes, kind, self.handle), "copy to the device")

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy to the device from wherever it can read, pinned or its own; both must stay."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyDefault
        check(cuda.cudaMemcpyAsync(target, source, nbytes, kind, self.handle), "copy to the device")

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Copy from the device to pinned host memory; both must stay until it is done."""
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(
            cuda.cudaMemcpyAsync(target, source, nbytes, kind, self.handle), "copy from the device"
        )

    def synchronize(self) -> None:
        """Return when all work given to the stream is done."""
        check(cuda.cudaStreamSynchronize(self.handle), "cudaStreamSynchronize")

    def close(self) -> None:
        cuda.cudaStreamDestroy(self.handle)


class CudaGraph:
    """Work captured from a stream, launched again as a whole.

    Addresses and shapes are those of the capture. `nbytes` is what it is taken to hold on
    the device: GRAPH_BYTES, and GRAPH_NODE_BYTES for each of its nodes.
    """

    def __init__(self, executable: object, nbytes: int) -> None:
        self._executable = executable
        self.nbytes = nbytes

    def launch(self, stream: Stream) -> None:
        check(cuda.cudaGraphLaunch(self._executable, stream.handle), "cudaGraphLaunch")

    def close(self) -> None:
        cuda.cudaGraphExecDestroy(self._executable)


class Capture:
    """A context in which work given to `stream` is recorded instead of run.

    `graph` is set when the context is left without an exception.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.graph: CudaGraph | None = None

    def __enter__(self) -> Capture:
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cuda.cudaStreamBeginCapture(self._stream.handle, mode), "cudaStreamBeginCapture")
        return self

    def __exit__(self, error_class: type[BaseException] | None, *rest: object) -> None:
        result = cuda.cudaStreamEndCapture(self._stream.handle)
        if error_class is not None:
            if result[0] == _SUCCESS:
                cuda.cudaGraphDestroy(result[1])
            cuda.cudaGetLastError()  # the failure is reported already, and no later call's fault
            return
        graph = check(result, "cudaStreamEndCapture")
        try:
            executable = check(cuda.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate")
            nodes = _count_nodes(graph)
        finally:
            cuda.cudaGraphDestroy(graph)
        self.graph = CudaGraph(executable, GRAPH_BYTES + nodes * GRAPH_NODE_BYTES)


def _count_nodes(graph: object) -> int:
    result = cuda.cudaGraphGetNodes(graph)  # the nodes, which are not asked for, and their number
    check(result[:1], "cudaGraphGetNodes")
    return int(result[2])


class DeviceBuffer:
    """Device memory that grows when it must and never shrinks. Contents are undefined."""

    def __init__(self) -> None:
        self.address = 0
        self.nbytes = 0

    def reserve(self, nbytes: int) -> bool:
        """Make room for `nbytes`; return whether the address has changed.

        The owner makes sure that the device does not use the old memory any more.

        Raises:
            CudaError: there is too little memory; the buffer is as it was.
        """
        if nbytes <= self.nbytes:
            return False
        nbytes = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        address = check(cuda.cudaMalloc(nbytes), f"allocate {nbytes} bytes on the device")
        self.close()
        self.address, self.nbytes = int(address), nbytes
        return True

    def close(self) -> None:
        if self.address:
            cuda.cudaFree(self.address)
        self.address = self.nbytes = 0


class PinnedBuffer:
    """Page-locked host memory that grows when it must and never shrinks.

    The device copies from and to it without a detour. Views of it are valid until it grows
    or is closed.
    """

    def __init__(self) -> None:
        self.address = 0
        self.nbytes = 0
        self._bytes: Array = np.empty(0, np.uint8)

    def reserve(self, nbytes: int) -> bool:
        """Make room for `nbytes`; return whether the address has changed.

        The owner makes sure that the device does not use the old memory any more.

        Raises:
            CudaError: there is too little memory; the buffer is as it was.
        """
        if nbytes <= self.nbytes:
            return False
        address = check(cuda.cudaMallocHost(nbytes), f"allocate {nbytes} bytes of pinned memory")
        self.close()
        self.address, self.nbytes = int(address), nbytes
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))
        return True

    def view(self, dtype: np.dtype[np.generic], shape: Shape) -> Array:
        """Get the first bytes as an array, growing if there are too few; contents undefined."""
        nbytes = element_count(shape) * dtype.itemsize
        self.reserve(nbytes)
        return self._bytes[:nbytes].view(dtype).reshape(shape)

    def close(self) -> None:
        if self.address:
            cuda.cudaFreeHost(self.address)
        self.address = self.nbytes = 0
        self._bytes = np.empty(0, np.uint8)

"""An engine without lanes: contexts driven step by step, which the lanes are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanewise.backends.trt.binding import bind
from lanewise.backends.trt.build.plan_cache import runtime_cache_file
from lanewise.backends.trt.introspect import describe_engine
from lanewise.backends.trt.loader import load_engine
from lanewise.backends.trt.runtime_cache import RuntimeCache
from lanewise.memory import device
from lanewise.model.tensors import element_count

Inputs = Mapping[str, NDArray[Any]]


class BareEngine:
    """The engine of a plan, loaded apart from the lanes that serve the same plan.

    To be made after the lanes have been warmed up: it starts with the kernels they compiled.
    """

    def __init__(self, plan: Path) -> None:
        self.binding = bind("tensorrt-rtx")
        self.loaded = load_engine(self.binding, plan)
        self.facts = describe_engine(self.binding, self.loaded.engine)
        kernels = runtime_cache_file(plan, device.require_device().title)
        self.kernels = RuntimeCache(self.binding, self.loaded.engine, kernels)

    def close(self) -> None:
        """Free the engine; its contexts must be closed."""
        del self.kernels
        self.loaded.close()

    def scratch_of_contexts(self) -> int:
        """Bytes of device memory that one context for each profile takes, made without care."""
        before, _ = device.free_memory()
        contexts = [self.loaded.engine.create_execution_context() for _ in self.facts.profiles]
        taken = before - device.free_memory()[0]
        del contexts
        return taken


class _Buffers:
    """Pinned and device memory for the tensors of one context."""

    def __init__(self) -> None:
        self.pinned: dict[str, device.PinnedBuffer] = {}
        self.device: dict[str, device.DeviceBuffer] = {}

    def reserve(self, name: str, nbytes: int) -> int:
        """Make room for a tensor and get its address on the device."""
        self.pinned.setdefault(name, device.PinnedBuffer()).reserve(nbytes)
        self.device.setdefault(name, device.DeviceBuffer()).reserve(nbytes)
        return self.device[name].address

    def copy_in(self, name: str, nbytes: int, stream: device.Stream) -> None:
        stream.copy_in(self.device[name].address, self.pinned[name].address, nbytes)

    def copy_out(self, name: str, nbytes: int, stream: device.Stream) -> None:
        stream.copy_out(self.pinned[name].address, self.device[name].address, nbytes)

    def close(self) -> None:
        for pinned in self.pinned.values():
            pinned.close()
        for memory in self.device.values():
            memory.close()


class BareContext:
    """A context for one profile and the shapes of `inputs`, forever."""

    def __init__(self, engine: BareEngine, profile: int, inputs: Inputs) -> None:
        self._stream = device.Stream()
        self._done = device.CudaEvent()
        self._buffers = _Buffers()
        self._scratch = device.DeviceBuffer()
        self._scratch.reserve(max(1, engine.facts.profiles[profile].device_memory_bytes))
        self._context = engine.kernels.make_context()
        _require(self._context.set_optimization_profile_async(profile, self._stream.number))
        self._stream.synchronize()
        self._context.set_device_memory(self._scratch.address, self._scratch.nbytes)
        self._inputs = {name: array.nbytes for name, array in inputs.items()}
        for name, array in inputs.items():
            _require(self._context.set_input_shape(name, array.shape))
        self._outputs = {
            tensor.name: (tensor.dtype.numpy, tuple(self._context.get_tensor_shape(tensor.name)))
            for tensor in engine.facts.outputs
        }
        self._output_bytes = {
            name: element_count(shape) * dtype.itemsize
            for name, (dtype, shape) in self._outputs.items()
        }
        for name, nbytes in (self._inputs | self._output_bytes).items():
            address = self._buffers.reserve(name, nbytes)
            _require(self._context.set_tensor_address(name, address))
        self._graph: device.CudaGraph | None = None
        self.stage(inputs)
        self.copy_in()  # once at least, lest somebody executes what memory happens to hold
        self.wait()

    def stage(self, inputs: Inputs) -> None:
        """Copy `inputs` into pinned memory."""
        for name, array in inputs.items():
            np.copyto(self._buffers.pinned[name].view(array.dtype, array.shape), array)

    def copy_in(self) -> None:
        """Copy the inputs to the device."""
        for name, nbytes in self._inputs.items():
            self._buffers.copy_in(name, nbytes, self._stream)

    def enqueue(self) -> None:
        """Execute without a graph."""
        _require(self._context.execute_async_v3(self._stream.number))

    def capture(self) -> None:
        """Make the graph that `launch` launches."""
        self.enqueue()  # compiles what is missing, which cannot be captured
        self.wait()
        with device.Capture(self._stream) as capture:
            self.enqueue()
        self._graph = capture.graph

    def launch(self) -> None:
        """Execute as a graph; `capture` first."""
        assert self._graph is not None
        self._graph.launch(self._stream)

    def copy_out(self) -> None:
        """Copy the outputs to pinned memory."""
        for name, nbytes in self._output_bytes.items():
            self._buffers.copy_out(name, nbytes, self._stream)

    def wait(self) -> None:
        """Return when everything so far is done."""
        self._stream.record(self._done)
        self._done.synchronize()

    def run_naively(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Copy, execute without a graph, copy back, one after the other."""
        self.stage(inputs)
        self.copy_in()
        self.enqueue()
        self.copy_out()
        self.wait()
        return {
            name: self._buffers.pinned[name].view(dtype, shape).copy()
            for name, (dtype, shape) in self._outputs.items()
        }

    def close(self) -> None:
        self._stream.synchronize()
        if self._graph is not None:
            self._graph.close()
        self._context = None
        self._scratch.close()
        self._buffers.close()
        self._done.close()
        self._stream.close()


class SwitchingContext:
    """One context for every profile, which takes the one that each run needs.

    Args:
        widest: the largest inputs it will run; they lie in pinned memory from now on.
    """

    def __init__(self, engine: BareEngine, widest: Inputs) -> None:
        strategies = engine.binding.module.ExecutionContextAllocationStrategy
        self._context = engine.loaded.engine.create_execution_context(strategies.ON_PROFILE_CHANGE)
        self._outputs = engine.facts.outputs
        self._stream = device.Stream()
        self._buffers = _Buffers()
        for name, array in widest.items():
            self._buffers.reserve(name, array.nbytes)
            np.copyto(self._buffers.pinned[name].view(array.dtype, array.shape), array)

    def run(self, profile: int, inputs: Inputs) -> None:
        """Switch, copy in as much as `inputs` are, execute without a graph, copy out, wait."""
        context, stream = self._context, self._stream
        _require(context.set_optimization_profile_async(profile, stream.number))
        for name, array in inputs.items():
            _require(context.set_input_shape(name, array.shape))
            _require(context.set_tensor_address(name, self._buffers.reserve(name, array.nbytes)))
            self._buffers.copy_in(name, array.nbytes, stream)
        sizes = {}
        for tensor in self._outputs:
            shape = tuple(context.get_tensor_shape(tensor.name))
            sizes[tensor.name] = element_count(shape) * tensor.dtype.numpy.itemsize
            address = self._buffers.reserve(tensor.name, sizes[tensor.name])
            _require(context.set_tensor_address(tensor.name, address))
        _require(context.execute_async_v3(stream.number))
        for name, nbytes in sizes.items():
            self._buffers.copy_out(name, nbytes, stream)
        stream.synchronize()

    def close(self) -> None:
        self._context = None
        self._buffers.close()
        self._stream.close()


def _require(is_accepted: bool) -> None:
    if not is_accepted:
        raise RuntimeError("TensorRT refused a step of the measurement; see its log above")

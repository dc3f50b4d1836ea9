"""Inference with shared memory, step by step: what to call, and what to make of the answers.

Written once for both clients, which carry out the calls, each in its own way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from lanewise_client import codec, messages
from lanewise_client.datatypes import Array
from lanewise_client.errors import RegionExists, RegionNotFound
from lanewise_client.messages import InferRequest, Slice
from lanewise_client.protos import inference_pb2 as pb
from lanewise_client.results import InferResult
from lanewise_client.shared_memory import SharedMemory, pooled_bytes

CLOSING_TIMEOUT_S = 1.0
"""How long a client that is closed tries to unregister each of its segments."""

_SMALLEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Step:
    """A call of GRPCInferenceService to carry out; its answer, or its error, goes back in."""

    method: str
    message: Message


Steps = Generator[Step, Any, InferResult]


class Segments:
    """The shared memory of one client. Thread-safe.

    Segments that inputs are copied to are reused from one call to the next; there are never more
    of them than there were calls at a time.
    """

    def __init__(self) -> None:
        self._made: list[SharedMemory] = []
        self._free: list[SharedMemory] = []  # of those that inputs are copied to
        self._lock = threading.Lock()

    def make(self, nbytes: int) -> SharedMemory:
        """Make a segment that lives as long as the client, if it is not closed before.

        Raises:
            ValueError, OSError: see `SharedMemory`.
        """
        memory = SharedMemory(nbytes)
        with self._lock:
            self._made.append(memory)
        return memory

    def infer(
        self, model: str, version: str, request: InferRequest, shared_memory: SharedMemory | bool
    ) -> Steps:
        """Run a request whose inputs are shared.

        Args:
            model: its name.
            version: empty for the default.
            request: its inputs are only read.
            shared_memory: inputs that lie in it are not copied, others are sent; True for a
                segment of the client's own, which inputs are copied to.

        Raises:
            OSError: there is too little shared memory.
            TypeError, ValueError, ServingError: see `Client.infer`.
        """
        if isinstance(shared_memory, SharedMemory):
            return (yield from self._infer_in(model, version, request, shared_memory))
        plain = {
            name: array
            for name, array in request.inputs.items()
            if codec.datatype_of(name, array) != "BYTES"
        }
        memory = yield from self._take(max(1, pooled_bytes(plain.values())))
        try:
            copies = {name: _copy_into(memory, array) for name, array in plain.items()}
            shared = dataclasses.replace(request, inputs={**request.inputs, **copies})
            return (yield from self._infer_in(model, version, shared, memory))
        finally:
            with self._lock:
                self._free.append(memory)

    def close(self) -> list[Step]:
        """Remove every segment; get the calls that tell the server, whose errors do not matter."""
        with self._lock:
            made, self._made = self._made, []
        steps = [_unregister(memory) for memory in made if memory.is_registered]
        for memory in made:
            memory.close()
        return steps

    def _infer_in(
        self, model: str, version: str, request: InferRequest, memory: SharedMemory
    ) -> Steps:
        if memory.is_closed:
            raise ValueError("the shared memory is closed; make a new one")
        places = _output_places(memory, request.outputs)
        inputs_at = {
            name: Slice(memory.name, offset, array.nbytes)
            for name, array in request.inputs.items()
            if codec.datatype_of(name, array) and (offset := memory.locate(array)) is not None
        }
        message = messages.build_infer(model, version, request, inputs_at, places)
        if not memory.is_registered:
            yield from _register(memory)
        try:
            answer = yield Step("ModelInfer", message)
        except RegionNotFound:  # the server was started anew
            yield from _register(memory)
            answer = yield Step("ModelInfer", message)
        room = {name: memory.view(at.offset, at.nbytes) for name, at in places.items()}
        return messages.parse_infer(answer, room)

    def _take(self, nbytes: int) -> Generator[Step, Any, SharedMemory]:
        """Get an empty segment of at least `nbytes`; one that is too small is given up for it."""
        with self._lock:
            large = (at for at, each in enumerate(self._free) if each.nbytes >= nbytes)
            memory = self._free.pop(next(large, -1)) if self._free else None
            if memory is not None and memory.nbytes >= nbytes:
                memory.clear()
                return memory
            if memory is not None:
                self._made.remove(memory)
        if memory is not None:
            memory.close()  # before the new one is made: there may not be room for both
            if memory.is_registered:
                yield _unregister(memory)
        return self.make(max(_SMALLEST_BYTES, 1 << (nbytes - 1).bit_length()))


def _register(memory: SharedMemory) -> Generator[Step, Any, None]:
    with contextlib.suppress(RegionExists):  # by another call, at the same time
        yield Step("SystemSharedMemoryRegister", memory.registration())
    memory.is_registered = True


def _unregister(memory: SharedMemory) -> Step:
    request = pb.SystemSharedMemoryUnregisterRequest(name=memory.name)
    return Step("SystemSharedMemoryUnregister", request)


def _copy_into(memory: SharedMemory, array: Array) -> Array:
    copy = memory.array(array.shape, array.dtype.newbyteorder("<"))
    copy[...] = array
    return copy


def _output_places(memory: SharedMemory, outputs: messages.Outputs) -> dict[str, Slice]:
    """Get where outputs shall lie for which there are arrays.

    Raises:
        ValueError: an array is not in `memory`.
    """
    places = {}
    if isinstance(outputs, Mapping):
        for name, room in outputs.items():
            if room is None:
                continue
            offset = memory.locate(room)
            if offset is None:
                raise ValueError(
                    f"output '{name}': its array is not in the shared memory of this call, or not "
                    "contiguous; take one with SharedMemory.array"
                )
            places[name] = Slice(memory.name, offset, room.nbytes)
    return places

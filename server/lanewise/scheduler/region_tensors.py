"""Tensors in shared memory: inputs brought to a request, outputs to where they shall lie."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from lanewise.errors import RegionNotFound
from lanewise.memory.regions import OutputPlace, Regions
from lanewise.model.regions import RegionSlice, RegionTensor
from lanewise.model.spec import ModelSpec
from lanewise.model.tensors import Array, Piece
from lanewise.scheduler.results import InferResult, WhenEnded

OFF_LOOP_BYTES = 1 << 20
"""From this size on copies are made by another thread: one takes 0.2 ms and more (5 to 10 GB/s),
while the event loop could answer other calls."""

_ResultT = TypeVar("_ResultT")


_Places = Mapping[str, OutputPlace]

Begin = Callable[[Mapping[str, Piece], WhenEnded], Callable[[], None]]
"""Begins a request: given its inputs and whom to tell of its end, gets what cancels it."""


class RegionTensors:
    """The requests to one model that use regions. Used on one event loop.

    Args:
        contents: of the regions; None if none is ever registered.
        spec: of the model.
        direct_inputs: see `LoadedModel`.
    """

    def __init__(
        self, contents: Regions | None, spec: ModelSpec, direct_inputs: frozenset[str]
    ) -> None:
        self._contents = contents
        self._direct_inputs = direct_inputs
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.outputs}
        self._serving: set[asyncio.Task[InferResult]] = set()

    @property
    def open_requests(self) -> int:
        return len(self._serving)

    def begin(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        placements: Mapping[str, RegionSlice],
        when_ended: WhenEnded,
        run: Begin,
    ) -> Callable[[], None]:
        """Read what lies in regions, have the request run, write what shall lie in regions.

        Args:
            inputs: by name; arrays are handed on as they are.
            placements: where outputs shall lie, by name; nothing runs if a region is not there.
            when_ended: called once, in a later turn of the loop; unless it is cancelled. Told
                of RegionNotFound, InvalidRegion and MalformedContents besides what `run` tells.
            run: begins the request with what was read.

        Returns:
            What cancels it.
        """
        serving = asyncio.get_running_loop().create_task(self._serve(inputs, placements, run))
        self._serving.add(serving)

        def tell(ended: asyncio.Task[InferResult]) -> None:
            self._serving.discard(ended)
            if ended.cancelled():
                return
            error = ended.exception()
            when_ended(None if error else ended.result(), error)

        serving.add_done_callback(tell)

        def cancel() -> None:
            serving.cancel()

        return cancel

    async def drain(self, timeout_s: float) -> None:
        """Return when every request has ended, or when it has taken too long."""
        if self._serving:
            await asyncio.wait(self._serving, timeout=timeout_s)

    async def _serve(
        self,
        inputs: Mapping[str, Array | RegionTensor],
        placements: Mapping[str, RegionSlice],
        run: Begin,
    ) -> InferResult:
        places = {
            name: self._contents_for(where).place(where) for name, where in placements.items()
        }
        pieces = await self._fetch(inputs)
        result = await until_ended(functools.partial(run, pieces))
        return await self._write(result, places)

    async def _fetch(self, inputs: Mapping[str, Array | RegionTensor]) -> Mapping[str, Piece]:
        """Get every input: those in regions copied, or for the device to copy."""
        fetched: dict[str, Piece] = {}
        in_region: dict[str, RegionTensor] = {}
        for name, tensor in inputs.items():
            if isinstance(tensor, RegionTensor):
                in_region[name] = tensor
            else:
                fetched[name] = tensor
        if in_region:
            nbytes = sum(tensor.where.byte_size for tensor in in_region.values())
            fetched |= await _away_from_loop(nbytes, lambda: self._read(in_region))
        return fetched

    async def _write(self, result: InferResult, places: _Places) -> InferResult:
        """Write the outputs that have a place; they are `placed` in what this returns."""
        if not places:
            return result

        def write_all() -> dict[str, RegionTensor]:
            return {
                name: place.write(result.outputs[name], self._dtypes[name])
                for name, place in places.items()
            }

        nbytes = sum(result.outputs[name].nbytes for name in places)
        placed = await _away_from_loop(nbytes, write_all)
        others = {n: array for n, array in result.outputs.items() if n not in placed}
        return replace(result, outputs=others, placed=placed)

    def _read(self, tensors: Mapping[str, RegionTensor]) -> dict[str, Piece]:
        read: dict[str, Piece] = {}
        for name, tensor in tensors.items():
            contents = self._contents_for(tensor.where)
            by_device = None
            if name in self._direct_inputs:
                by_device = contents.read_by_device(tensor)
            read[name] = contents.read(tensor) if by_device is None else by_device
        return read

    def _contents_for(self, where: RegionSlice) -> Regions:
        if self._contents is None:
            raise RegionNotFound(f"no shared memory is registered under '{where.region}'")
        return self._contents


async def _away_from_loop(nbytes: int, work: Callable[[], _ResultT]) -> _ResultT:
    """Call `work`, which copies `nbytes`, without holding up the event loop for long."""
    return await asyncio.to_thread(work) if nbytes >= OFF_LOOP_BYTES else work()


async def until_ended(begin: Callable[[WhenEnded], Callable[[], None]]) -> InferResult:
    """Begin a request and get its result, or raise its error; cancelling this cancels it."""
    ended: asyncio.Future[InferResult] = asyncio.get_running_loop().create_future()

    def end(result: InferResult | None, error: BaseException | None) -> None:
        if ended.done():  # its caller has gone
            return
        if result is None:
            ended.set_exception(error or AssertionError("neither result nor error"))
        else:
            ended.set_result(result)

    cancel = begin(end)
    try:
        return await ended
    except asyncio.CancelledError:
        cancel()
        raise

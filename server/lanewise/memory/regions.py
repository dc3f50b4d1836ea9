"""The shared-memory regions that clients have registered, and the way to their contents."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lanewise.errors import (
    InvalidRegion,
    MalformedContents,
    Overloaded,
    RegionExists,
    RegionNotFound,
    Unsupported,
)
from lanewise.memory.host_region import HostRegion
from lanewise.model.raw_contents import array_from_raw, view_raw
from lanewise.model.regions import (
    CudaRegion,
    Region,
    RegionKind,
    RegionSlice,
    RegionTensor,
    SystemRegion,
)
from lanewise.model.tensors import Array, DeviceArray, DType

MAX_REGIONS = 512
"""Regions at a time: each holds a file open, and processes may often have no more than 1024."""


class RegionMemory(Protocol):
    """The memory of one region, for as long as it is referenced. Offsets are checked before."""

    @property
    def is_removed(self) -> bool:
        """Whether its owner has removed it for everybody."""
        ...

    def read(self, offset: int, out: Array) -> None: ...

    def write(self, offset: int, data: memoryview) -> None: ...

    def device_address(self, offset: int, byte_size: int) -> int | None:
        """Get where the device may copy these bytes from; None if they are to be read."""
        ...


OpenRegion = Callable[[Region], RegionMemory]


@dataclass(frozen=True, slots=True)
class OutputPlace:
    """Room for one output in a region."""

    _memory: RegionMemory
    _where: RegionSlice

    def write(self, array: Array, dtype: DType) -> RegionTensor:
        """Copy `array` to the beginning of the place; return where it lies now. May block.

        Raises:
            InvalidRegion: there is too little room, or the memory is gone.
        """
        where, contents = self._where, view_raw(array, dtype)
        if contents.nbytes > where.byte_size:
            raise InvalidRegion(
                f"{_title(where)}: an output takes {contents.nbytes} bytes, but the request has "
                f"room for {where.byte_size}; give it more"
            )
        self._memory.write(where.offset, contents)
        placed = RegionSlice(where.region, where.offset, contents.nbytes)
        return RegionTensor(placed, dtype, array.shape)


class Regions:
    """Registered regions by name. See `RegionCalls`, whose methods belong to one event loop.

    Contents may be read and written from any thread. The memory of a region that is unregistered
    stays for as long as it is read, a `DeviceArray` lies in it or an `OutputPlace` is in it.

    Args:
        open_region: makes the memory of a region; may block.
    """

    def __init__(self, open_region: OpenRegion | None = None) -> None:
        self._open = open_region or _open_region
        self._regions: dict[str, tuple[Region, RegionMemory]] = {}

    async def register(self, region: Region) -> None:
        self._forget_removed()
        self._require_free(region)
        memory = await asyncio.to_thread(self._open, region)
        self._require_free(region)  # another call may have been quicker
        self._regions[region.name] = (region, memory)

    async def unregister(self, kind: RegionKind, name: str = "") -> None:
        for region, _ in list(self._regions.values()):
            if region.kind is kind and name in ("", region.name):
                del self._regions[region.name]

    async def describe(self, kind: RegionKind, name: str = "") -> tuple[Region, ...]:
        found = tuple(
            region
            for region, _ in self._regions.values()
            if region.kind is kind and name in ("", region.name)
        )
        if name and not found:
            raise RegionNotFound(
                f"no {kind.value} shared memory is registered under '{name}'; register it first"
            )
        return found

    def close(self) -> None:
        self._regions.clear()

    def read(self, tensor: RegionTensor) -> Array:
        """Copy a tensor out of its region. May block for as long as the copy takes.

        Raises:
            RegionNotFound, InvalidRegion: it is not there, or not any more.
            MalformedContents: the bytes do not make up the tensor.
        """
        memory = self._find(tensor.where)
        raw = np.empty(tensor.where.byte_size, np.uint8)
        memory.read(tensor.where.offset, raw)
        try:
            return array_from_raw(raw.data, tensor.dtype, tensor.shape)
        except ValueError as error:
            raise MalformedContents(f"{_title(tensor.where)}: {error}") from error

    def read_by_device(self, tensor: RegionTensor) -> DeviceArray | None:
        """Get a tensor for the device to copy by itself; None if it is to be read instead.

        May block when a region is first used so. The bytes are not checked: not for BOOL.

        Raises:
            RegionNotFound, InvalidRegion: it is not there, or not any more.
        """
        where = tensor.where
        memory = self._find(where)
        address = memory.device_address(where.offset, where.byte_size)
        if address is None:
            return None
        return DeviceArray(address, tensor.dtype.numpy, tensor.shape, memory)

    def place(self, where: RegionSlice) -> OutputPlace:
        """Get a place for an output, which stays even if its region is unregistered meanwhile.

        Raises:
            RegionNotFound: there is no such region.
            InvalidRegion: the slice is not inside it.
        """
        return OutputPlace(self._find(where), where)

    def _forget_removed(self) -> None:
        """Let go of segments that were removed, by clients that have not unregistered them.

        No request can use them any more, and their memory stays for as long as they are open.
        """
        for name, (_, memory) in list(self._regions.items()):
            if memory.is_removed:
                del self._regions[name]

    def _require_free(self, region: Region) -> None:
        if region.name in self._regions:
            raise RegionExists(
                f"shared memory '{region.name}' is registered already; unregister it or choose "
                "another name"
            )
        if len(self._regions) >= MAX_REGIONS:
            raise Overloaded(
                f"{MAX_REGIONS} shared-memory regions are registered, and more are not allowed; "
                "unregister some, or use parts of larger ones"
            )

    def _find(self, where: RegionSlice) -> RegionMemory:
        found = self._regions.get(where.region)
        if found is None:
            raise RegionNotFound(
                f"no shared memory is registered under '{where.region}'; register it first"
            )
        region, memory = found
        if min(where.offset, where.byte_size) < 0 or (
            where.offset + where.byte_size > region.byte_size
        ):
            raise InvalidRegion(
                f"{_title(where)}: {where.byte_size} bytes from byte {where.offset} on are not "
                f"inside the region, which has {region.byte_size}"
            )
        return memory


def _open_region(region: Region) -> RegionMemory:
    if not region.name:
        raise InvalidRegion("shared memory needs a name to be registered under")
    if not region.byte_size:
        raise InvalidRegion(f"shared memory '{region.name}': a region has at least 1 byte")
    match region:
        case SystemRegion():
            return HostRegion(region)
        case CudaRegion():
            return _open_cuda(region)


def _open_cuda(region: CudaRegion) -> RegionMemory:
    try:
        device_regions = importlib.import_module("lanewise.memory.device_regions")
    except ImportError as error:
        raise Unsupported(
            f"CUDA shared memory '{region.name}': this server has no CUDA bindings "
            f"({error}); register system shared memory, or install lanewise[tensorrt]"
        ) from error
    opened: RegionMemory = device_regions.open_device_region(region)
    return opened


def _title(where: RegionSlice) -> str:
    return f"shared memory '{where.region}'"

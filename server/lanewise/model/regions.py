"""Shared-memory regions: what names their bytes and what registers them. Plain data alone.

Whoever decodes a request may be in another process than the memory: so nothing here maps or
reads anything, and all of it can be pickled.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lanewise.model.tensors import DType, Shape


class RegionKind(enum.Enum):
    """Where the memory of a region is."""

    SYSTEM = "system"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Some bytes of a region. Whether they are inside is checked each time they are used.

    Attributes:
        region: the name it was registered under.
        offset: of the first byte, from the beginning of the region.
        byte_size: how many there are; of the place for an output, room for so many.
    """

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class RegionTensor:
    """A tensor whose contents lie in a region, as raw contents do in a message.

    Stands for an array where only a reference travels. `where` is exactly as long as the
    contents.
    """

    where: RegionSlice
    dtype: DType
    shape: Shape


NO_PLACEMENTS: Mapping[str, RegionSlice] = {}
"""The placements of a request whose outputs all come back with its result."""


@dataclass(frozen=True, slots=True)
class SystemRegion:
    """A part of a POSIX shared-memory segment.

    Attributes:
        key: of the segment, as shm_open takes it: "/name".
        offset: of the region's first byte in the segment.
    """

    name: str
    key: str
    offset: int
    byte_size: int

    @property
    def kind(self) -> RegionKind:
        return RegionKind.SYSTEM


@dataclass(frozen=True, slots=True)
class CudaRegion:
    """Device memory of another process.

    Attributes:
        handle: what cudaIpcGetMemHandle gave there; whoever has it can open the memory.
    """

    name: str
    device_id: int
    byte_size: int
    handle: bytes = field(repr=False)

    @property
    def kind(self) -> RegionKind:
        return RegionKind.CUDA


Region = SystemRegion | CudaRegion


class RegionCalls(Protocol):
    """Registers regions for later requests: in this process, or in the one with the lanes.

    Names are shared by both kinds and by every client.
    """

    async def register(self, region: Region) -> None:
        """Make the memory of `region` usable under its name.

        Raises:
            RegionExists: the name is taken.
            InvalidRegion: there is no such memory, or not as much of it.
            Unsupported: this server can use no memory of this kind.
            Overloaded: too many are registered.
        """
        ...

    async def unregister(self, kind: RegionKind, name: str = "") -> None:
        """Forget a region of `kind`; without `name` all of them. An unknown one is no error.

        Its memory is let go when the last launch that uses it is over.
        """
        ...

    async def describe(self, kind: RegionKind, name: str = "") -> tuple[Region, ...]:
        """List a region of `kind`; without `name` all of them.

        Raises:
            RegionNotFound: none of `kind` has that name.
        """
        ...

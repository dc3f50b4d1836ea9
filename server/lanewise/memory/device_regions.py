"""Shared memory on its way to the device: host segments it may read, device memory of others."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.bindings import runtime as cuda

from lanewise.errors import InvalidRegion, Unsupported
from lanewise.memory.device import CudaError, check, device_count
from lanewise.model.regions import CudaRegion
from lanewise.model.tensors import Array

_HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE


class PinnedMapping:
    """A mapping of a file that is registered with CUDA, so that the device copies from its pages.

    The pages stay until this is no longer referenced, whatever becomes of the file. Only the
    device may read them: to the host, those behind the file's end are gone (SIGBUS).

    Attributes:
        address: of byte `offset` of the file.

    Raises:
        OSError, ValueError: it cannot be mapped; the file is shorter, for one.
        CudaError: it cannot be registered: there is no memory that may be locked, for one.
    """

    def __init__(self, fd: int, offset: int, nbytes: int) -> None:
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(fd, offset + nbytes - start, offset=start)
        view = np.frombuffer(mapping, np.uint8)  # to learn the address; reads nothing
        base = int(view.ctypes.data)
        registering = cuda.cudaHostRegister(base, view.nbytes, cuda.cudaHostRegisterPortable)
        check(registering, f"register {view.nbytes} bytes of shared memory")
        # Not at the end of the process, whose device may be lost; the driver cleans up then.
        weakref.finalize(self, _unregister, base, view).atexit = False
        self.address = base + offset - start


def _unregister(base: int, view: Array) -> None:
    """Let go of pages that nobody uses; `view` is what keeps the mapping until then."""
    cuda.cudaHostUnregister(base)


class DeviceRegion:
    """The memory of a `CudaRegion`. See `RegionMemory`; use from any thread."""

    def __init__(self, region: CudaRegion, address: int) -> None:
        self._title = f"CUDA shared memory '{region.name}'"
        self._address = address
        weakref.finalize(self, cuda.cudaIpcCloseMemHandle, address).atexit = False

    @property
    def is_removed(self) -> bool:
        return False  # which CUDA does not tell

    def read(self, offset: int, out: Array) -> None:
        self._copy(out.ctypes.data, self._address + offset, out.nbytes)

    def write(self, offset: int, data: memoryview) -> None:
        source = np.frombuffer(data, np.uint8).ctypes.data if data.nbytes else 0
        self._copy(self._address + offset, source, data.nbytes)

    def device_address(self, offset: int, byte_size: int) -> int | None:
        return self._address + offset

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy, and return when it is done.

        Raises:
            InvalidRegion: CUDA refuses; the memory is gone, for one.
        """
        kind = cuda.cudaMemcpyKind.cudaMemcpyDefault
        try:
            check(cuda.cudaMemcpy(target, source, nbytes, kind), "copy")
        except CudaError as error:
            raise InvalidRegion(f"{self._title}: {error}; register it anew") from error


def open_device_region(region: CudaRegion) -> DeviceRegion:
    """Open device memory that another process has allocated.

    Raises:
        Unsupported: there is no such device.
        InvalidRegion: the handle is none, or its memory has fewer bytes than the region.
    """
    title = f"CUDA shared memory '{region.name}'"
    count = device_count()
    if not 0 <= region.device_id < count:
        raise Unsupported(
            f"{title}: device {region.device_id}, but this server has {count} CUDA devices; "
            "register memory of one it has, or system shared memory"
        )
    if len(region.handle) != _HANDLE_BYTES:
        raise InvalidRegion(
            f"{title}: a handle of {len(region.handle)} bytes, but those of cudaIpcGetMemHandle "
            f"have {_HANDLE_BYTES}; send it as it is, not as text"
        )
    try:
        opened = DeviceRegion(region, _open_handle(region))
        held_bytes = _held_bytes(opened)
    except CudaError as error:
        raise InvalidRegion(
            f"{title}: cannot be opened: {error}; the process that allocated it must be another "
            "than the server, on the same host, and still have it"
        ) from error
    if held_bytes < region.byte_size:
        raise InvalidRegion(
            f"{title}: {region.byte_size} bytes, but what was allocated has {held_bytes}"
        )
    return opened


def _open_handle(region: CudaRegion) -> int:
    handle: Any = cuda.cudaIpcMemHandle_t()
    ctypes.memmove(handle.getPtr(), region.handle, _HANDLE_BYTES)
    before = check(cuda.cudaGetDevice(), "cudaGetDevice")
    check(cuda.cudaSetDevice(region.device_id), "cudaSetDevice")
    try:
        flags = cuda.cudaIpcMemLazyEnablePeerAccess
        return int(check(cuda.cudaIpcOpenMemHandle(handle, flags), "cudaIpcOpenMemHandle"))
    finally:
        cuda.cudaSetDevice(before)


def _held_bytes(opened: DeviceRegion) -> int:
    """Count the bytes of an allocation from the address of a region on."""
    address = opened.device_address(0, 0)
    error, base, nbytes = driver.cuMemGetAddressRange(address)
    if error != driver.CUresult.CUDA_SUCCESS:
        return 0
    return int(base) + int(nbytes) - int(address or 0)

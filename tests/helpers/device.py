"""A device in a state that tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lanewise.memory.device import DeviceBuffer


def take_all_memory() -> list[DeviceBuffer]:
    """Take all device memory but about a MiB; the caller closes the buffers."""
    from lanewise.memory.device import CudaError, DeviceBuffer

    buffers = []
    nbytes = 64 << 30
    while nbytes >= 1 << 20:
        buffer = DeviceBuffer()
        try:
            buffer.reserve(nbytes)
            buffers.append(buffer)
        except CudaError as error:
            assert error.is_out_of_memory
            nbytes >>= 1
    return buffers

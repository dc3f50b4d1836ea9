"""A device in a state that tests need."""

from __future__ import annotations

from lanewise.memory.device import CudaError, DeviceBuffer


def take_all_memory() -> list[DeviceBuffer]:
    """Take all device memory but about a MiB; the caller closes the buffers."""
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

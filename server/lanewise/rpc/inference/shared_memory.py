"""The calls that register shared memory, as Triton has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from lanewise.model.regions import CudaRegion, RegionCalls, RegionKind, SystemRegion
from lanewise_client.protos import inference_pb2 as pb


class RegionService:
    """Answers the shared-memory calls of `inference.GRPCInferenceService`."""

    def __init__(self, regions: RegionCalls) -> None:
        self._regions = regions

    def methods(self) -> Mapping[str, Callable[[Any], Awaitable[Any]]]:
        return {
            "SystemSharedMemoryStatus": self._system_status,
            "SystemSharedMemoryRegister": self._system_register,
            "SystemSharedMemoryUnregister": self._system_unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
        }

    async def _system_status(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in await self._regions.describe(RegionKind.SYSTEM, request.name):
            if isinstance(region, SystemRegion):
                status = response.regions[region.name]
                status.name, status.key = region.name, region.key
                status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def _system_register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        region = SystemRegion(request.name, request.key, request.offset, request.byte_size)
        await self._regions.register(region)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _system_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        await self._regions.unregister(RegionKind.SYSTEM, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(
        self, request: pb.CudaSharedMemoryStatusRequest
    ) -> pb.CudaSharedMemoryStatusResponse:
        response = pb.CudaSharedMemoryStatusResponse()
        for region in await self._regions.describe(RegionKind.CUDA, request.name):
            if isinstance(region, CudaRegion):
                status = response.regions[region.name]
                status.name, status.device_id = region.name, region.device_id
                status.byte_size = region.byte_size
        return response

    async def _cuda_register(
        self, request: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        region = CudaRegion(
            request.name, request.device_id, request.byte_size, bytes(request.raw_handle)
        )
        await self._regions.register(region)
        return pb.CudaSharedMemoryRegisterResponse()

    async def _cuda_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        await self._regions.unregister(RegionKind.CUDA, request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

"""The calls that register shared memory, as Triton has them."""

from __future__ import annotations

from collections.abc import Mapping

from lanewise.model.regions import CudaRegion, RegionCalls, RegionKind, SystemRegion
from lanewise.rpc.inference.region_access import RegionAccess
from lanewise.rpc.methods import Call, Servicer
from lanewise_client.protos import inference_pb2 as pb


class RegionService:
    """Answers the shared-memory calls of `inference.GRPCInferenceService`."""

    def __init__(self, regions: RegionCalls, access: RegionAccess) -> None:
        self._regions = regions
        self._access = access

    def methods(self) -> Mapping[str, Servicer]:
        """Map the methods this service offers to what answers them."""
        return {
            "SystemSharedMemoryStatus": self._system_status,
            "SystemSharedMemoryRegister": self._system_register,
            "SystemSharedMemoryUnregister": self._system_unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
        }

    async def _system_status(
        self, request: pb.SystemSharedMemoryStatusRequest, call: Call
    ) -> pb.SystemSharedMemoryStatusResponse:
        self._access.require(call)
        response = pb.SystemSharedMemoryStatusResponse()
        for region in await self._regions.describe(RegionKind.SYSTEM, request.name):
            if isinstance(region, SystemRegion):
                status = response.regions[region.name]
                status.name, status.key = region.name, region.key
                status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def _system_register(
        self, request: pb.SystemSharedMemoryRegisterRequest, call: Call
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._access.require(call)
        region = SystemRegion(request.name, request.key, request.offset, request.byte_size)
        await self._regions.register(region)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _system_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._access.require(call)
        await self._regions.unregister(RegionKind.SYSTEM, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(
        self, request: pb.CudaSharedMemoryStatusRequest, call: Call
    ) -> pb.CudaSharedMemoryStatusResponse:
        self._access.require(call)
        response = pb.CudaSharedMemoryStatusResponse()
        for region in await self._regions.describe(RegionKind.CUDA, request.name):
            if isinstance(region, CudaRegion):
                status = response.regions[region.name]
                status.name, status.device_id = region.name, region.device_id
                status.byte_size = region.byte_size
        return response

    async def _cuda_register(
        self, request: pb.CudaSharedMemoryRegisterRequest, call: Call
    ) -> pb.CudaSharedMemoryRegisterResponse:
        self._access.require(call)
        region = CudaRegion(
            request.name, request.device_id, request.byte_size, bytes(request.raw_handle)
        )
        await self._regions.register(region)
        return pb.CudaSharedMemoryRegisterResponse()

    async def _cuda_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, call: Call
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        self._access.require(call)
        await self._regions.unregister(RegionKind.CUDA, request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

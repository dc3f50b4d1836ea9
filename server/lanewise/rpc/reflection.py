"""Server reflection over the descriptors of every service this server offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from lanewise.rpc.methods import Call, Servicer, write

REFLECTION_SERVICE = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


class ReflectionService:
    """Answers `grpc.reflection.v1alpha.ServerReflection`."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        offered = [REFLECTION_SERVICE, *services]
        self._servicer = reflection_aio.ReflectionServicer(
            [service.full_name for service in offered],
            pool=_pool_of(service.file for service in offered),
        )

    def methods(self) -> Mapping[str, Servicer]:
        return {"ServerReflectionInfo": self._info}

    async def _info(self, requests: AsyncIterator[Any], call: Call) -> None:
        async for response in self._servicer.ServerReflectionInfo(requests, call):
            await write(call, response)


def _pool_of(files: Iterable[FileDescriptor]) -> DescriptorPool:
    """Copy files, none of which imports another, from their pools into one."""
    pool = DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.serialized_pb)
    return pool

"""The calls that are answered where the lanes are: in this process, or by the engine for its front
ends, which forward them as the bytes they are.

Does without gRPC, which the engine process does not load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message_factory import GetMessageClass

from lanewise.model.regions import RegionCalls
from lanewise.rpc.inference.shared_memory import RegionService
from lanewise.rpc.lanes import LaneService
from lanewise.scheduler.registry import ModelRegistry
from lanewise_client.protos import inference_pb2, lanes_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

EngineCalls: TypeAlias = Callable[[str, bytes], Awaitable[bytes]]
"""Answers a call, by the name of its method: given the request, gets the response, serialized.
Raises a ServingError if there is none."""

LANE_SERVICE = lanes_pb2.DESCRIPTOR.services_by_name["LaneService"]
LANE_METHODS: tuple[MethodDescriptor, ...] = tuple(LANE_SERVICE.methods)
REGION_METHODS: tuple[MethodDescriptor, ...] = tuple(
    method
    for method in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if "SharedMemory" in method.name
)


def engine_calls(registry: ModelRegistry, regions: RegionCalls) -> EngineCalls:
    """Get what answers the calls from the lanes of a registry and from registered memory."""
    servicers = {**LaneService(registry).methods(), **RegionService(regions).methods()}
    requests: dict[str, Any] = {
        method.name: GetMessageClass(method.input_type)
        for method in (*LANE_METHODS, *REGION_METHODS)
    }

    async def answer(name: str, data: bytes) -> bytes:
        response = await servicers[name](requests[name].FromString(data))
        serialized: bytes = response.SerializeToString()
        return serialized

    return answer

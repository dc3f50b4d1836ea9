from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from helpers.rpc import EchoLanes, in_event_loop, infer_request, registry_of, serving
from lanewise_client.protos.inference_pb2 import ModelInferRequest

pytestmark = pytest.mark.usefixtures("each_transport")


async def reflected(address, question):
    """What a client that knows nothing but the address makes of the server."""

    def ask():
        with grpc.insecure_channel(address) as channel:
            return question(ProtoReflectionDescriptorDatabase(channel))

    return await asyncio.to_thread(ask)


@in_event_loop
async def test_every_service_is_listed():
    async with serving(registry_of(EchoLanes())) as server:
        services = await reflected(server.address, lambda database: database.get_services())

    assert sorted(services) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "lanewise.v1.LaneService",
    ]


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("grpc.health.v1.Health", "Watch"),
        ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
        ("inference.GRPCInferenceService", "ModelStreamInfer"),
        ("lanewise.v1.LaneService", "ExplainRoute"),
    ],
)
@in_event_loop
async def test_every_service_can_be_resolved(service, method):
    async with serving(registry_of(EchoLanes())) as server:
        descriptor = await reflected(
            server.address,
            lambda database: DescriptorPool(database).FindServiceByName(service),
        )

    assert method in descriptor.methods_by_name


@in_event_loop
async def test_a_request_can_be_built_from_reflection_alone():
    async with serving(registry_of(EchoLanes())) as server:
        descriptor = await reflected(
            server.address,
            lambda database: DescriptorPool(database).FindMessageTypeByName(
                "inference.ModelInferRequest"
            ),
        )
    built = GetMessageClass(descriptor)(model_name="echo")
    built.inputs.add(name="X", datatype="FP32", shape=[1, 3])
    built.raw_input_contents.append(infer_request().raw_input_contents[0])

    assert ModelInferRequest.FromString(built.SerializeToString()) == infer_request()
